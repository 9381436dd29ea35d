"""The sections of bench/run.py: each module measures one topic and returns its tables."""
