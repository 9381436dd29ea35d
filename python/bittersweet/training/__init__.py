"""The pruner in a training loop: settings, holding, checkpoints, reports."""
