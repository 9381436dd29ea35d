"""Scorers with a memory: what they observe while a model trains, and how it is saved."""
