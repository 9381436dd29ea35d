"""Pruning as a callback of the trainers that people use: `transformers` and `lightning`, each loaded when it
is imported, and only then. Importing one switches nothing on."""
