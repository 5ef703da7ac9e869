"""The one loop, checkpoints, devices, metrics, recipes."""
