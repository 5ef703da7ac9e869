"""What a trained network does, and pictures of it."""
