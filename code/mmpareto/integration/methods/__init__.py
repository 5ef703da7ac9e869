"""The methods, one per file: how an encoder's gradients become one."""
