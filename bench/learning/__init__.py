"""The tasks, arms and results of bench/trainings.py."""
