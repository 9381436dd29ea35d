"""Functions of a whole model, without a training loop: prune it, count its zeros, save its masks."""
