"""Norms of input features for scorer ``wanda``: calibration, and pruning block by block."""
