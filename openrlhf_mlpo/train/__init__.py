"""What this package adds to OpenRLHF's training loop."""
