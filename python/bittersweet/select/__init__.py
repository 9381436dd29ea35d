"""Scores, thresholds and masks of given tensors, and the events that describe them."""
