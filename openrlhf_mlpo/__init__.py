"""MLPO ("How to Train a Leader", arXiv 2507.08960) as a thin extension of OpenRLHF."""

__version__ = "0.1.0"
