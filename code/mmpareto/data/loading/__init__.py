"""A prepared folder → samples → batches."""
