"""What is seen in a run: plots."""
