"""The DICOM edge: headers, pixels, the network, and the objects that go back. Never torch, never SQL."""
