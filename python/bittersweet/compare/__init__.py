"""The comparison: every scorer on the demo's model, on frozen weights and during training.

`python -m bittersweet compare` runs it. Data flows one way: `cli` checks the request, `catalogue` says which
scorers take part and why others do not, `runs` trains and collects by means of `oneshot` and `training`,
`summary` aggregates over seeds, `tables` and `figures` show, `document` writes. What a scorer reads comes
from `inputs` (weights, optimizer state), `calibration` (norms, gradients) and `histories`. Model, text,
optimizer and checks are the demo's. Importing this package imports neither torch nor matplotlib.
"""
