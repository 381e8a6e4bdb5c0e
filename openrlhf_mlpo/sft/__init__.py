"""The warm start: traces that doubt, go back and end right, built from the leader's own outputs."""
