"""What would stop a command on this machine, found before it starts."""
