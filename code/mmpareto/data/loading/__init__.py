"""Loading: a prepared folder → samples → batches on the device."""
