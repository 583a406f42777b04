"""cxrnode: the DICOM node that reads chest radiographs. Research software, not a medical device."""

__version__ = "0.1.0"
