"""Checkpoints as files: what safetensors files hold, and how they are pruned without being loaded."""
