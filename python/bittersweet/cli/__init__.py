"""Sub-commands of ``python -m bittersweet`` that work on files."""
