"""Playing leaders, teams and baselines on questions."""
