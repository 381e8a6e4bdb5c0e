"""MLPO inside OpenRLHF: the only folder that names OpenRLHF's classes."""
