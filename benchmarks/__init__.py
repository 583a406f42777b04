"""Measurements beside the peers, and the large databases that they need. Nothing in cxrnode imports this."""
