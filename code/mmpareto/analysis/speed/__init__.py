"""How long steps, loading and preparation take, and how much memory a step takes."""
