"""The gradient probe: scores propose, gradients decide."""
