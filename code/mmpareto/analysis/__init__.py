"""Analysis of finished runs and checkpoints: tables, reports, plots, measurements, evaluation, speed."""
