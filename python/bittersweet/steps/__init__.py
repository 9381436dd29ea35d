"""A pruner at work: one training step, one event, what is kept at zero, what is noticed."""
