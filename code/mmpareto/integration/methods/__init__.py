"""The methods, one per file: each combines the gradients of several losses in its own way."""
