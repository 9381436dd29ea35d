"""Whole models dense and packed, as `end_to_end.py` runs them: each in a process of its own."""
