"""What torch optimizers keep for each parameter, seen through wrappers, by a table of adapters."""
