"""NVIDIA's Triton as the tests start it (scripts/install-oip)."""
