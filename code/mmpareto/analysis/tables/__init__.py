"""The tables of experiments: what each compares, its runs, their statistics, and the reports."""
