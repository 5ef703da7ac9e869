"""Everything that reads finished runs: tables, reports, plots, measurements."""
