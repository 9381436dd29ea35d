"""The demonstration: a small byte-level GPT is trained on real text while Bittersweet prunes it.

`python -m bittersweet demo` runs it. Data flows one way: `cli` checks the request, `text` reads the bytes,
`plan` fixes the numbers, `train` runs the arms, `report` aggregates and writes, `figures` draws.
Nothing here is imported by the library, and importing this package imports neither torch nor matplotlib.
"""
