"""Lock-step replay: a released code's own training loop and ours, on the same weights and batches in float64."""
