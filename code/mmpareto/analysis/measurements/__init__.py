"""What the paper measures at a trained network: gradient noise, curvature, the loss around the minimum."""
