"""The training loop, checkpoints, devices, metrics, recipes."""
