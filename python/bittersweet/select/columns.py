"""A history of mask events as one short text: JSON columns, for checkpoints.

::

    {"events":  how many,
     "dropped": how many are not here,
     "columns": {field: [value per event], or [value] where all events agree},
     "names":   [[tensor names], ...],                     each list once
     "tensors": [[event, list of names, [sparsity per name], [threshold per name]], ...]}

The columns are the fields of `MaskEvent`, but for those per tensor; infinities and NaN are strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import ArgumentError
from .events import MaskEvent, MaskHistory, encode

__all__ = ["from_text", "to_text"]

_PER_TENSOR = ("per_tensor", "per_tensor_threshold")


def to_text(history: MaskHistory) -> str:
    """The history as JSON; its events are read."""
    columns = {}
    for item in fields(MaskEvent):
        if item.name not in _PER_TENSOR:
            values = [encode(getattr(event, item.name)) for event in history]
            columns[item.name] = values[:1] if all(value == values[0] for value in values) else values
    names: list[list[str]] = []
    tensors = []
    for place, event in enumerate(history):
        if event.per_tensor:
            own = list(event.per_tensor)
            if own not in names:
                names.append(own)
            thresholds = [encode(event.per_tensor_threshold.get(name)) for name in own]
            tensors.append([place, names.index(own), list(event.per_tensor.values()), thresholds])
    whole = {
        "events": len(history),
        "dropped": history.dropped,
        "columns": columns,
        "names": names,
        "tensors": tensors,
    }
    return json.dumps(whole, separators=(",", ":"), allow_nan=False)


def from_text(text: str) -> MaskHistory:
    """The history that `to_text` wrote.

    Raises:
        ArgumentError: It is something else.
    """
    try:
        whole = json.loads(text)
        count, columns = int(whole["events"]), whole["columns"]
        per_tensor = {place: _maps(whole["names"][at], *rest) for place, at, *rest in whole["tensors"]}
        history = MaskHistory(
            MaskEvent.from_dict(
                {key: _value(values, place, count) for key, values in columns.items()}
                | per_tensor.get(place, {key: {} for key in _PER_TENSOR})
            )
            for place in range(count)
        )
        history.dropped = int(whole["dropped"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ArgumentError(f"history: it is no text of mask events ({error})") from None
    return history


def _maps(names: Sequence[str], sparsity: Sequence[Any], threshold: Sequence[Any]) -> dict[str, Any]:
    found = (dict(zip(names, values, strict=True)) for values in (sparsity, threshold))
    return dict(zip(_PER_TENSOR, found, strict=True))


def _value(values: Sequence[Any], place: int, count: int) -> Any:
    if len(values) not in (1, count):
        raise ValueError(f"a column has {len(values)} values for {count} events")
    value = values[0 if len(values) == 1 else place]
    return dict(value) if isinstance(value, Mapping) else value
