"""Speed of training steps, loading and preparation, and memory of training steps."""
