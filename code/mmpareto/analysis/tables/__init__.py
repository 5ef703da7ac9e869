"""Tables of experiments: their definitions, and the grid of runs behind them."""
