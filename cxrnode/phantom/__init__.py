"""Phantoms: synthetic chest radiographs, drawn from a seed and labelled as what they are. Never a patient's film."""
