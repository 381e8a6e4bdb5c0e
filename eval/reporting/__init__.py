"""From the files of an evaluation to tables, plots and pages."""
