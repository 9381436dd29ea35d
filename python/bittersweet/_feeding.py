"""What a tracker reads on every training step, found by name and packed into one table.

The names are settled once. The tensors behind them are looked up on every call; what was packed before is
used again only while every tensor is of the same kind (type, dtype, shape, layout, device), with its address
of now.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._mask_view import MaskView
from ._scorers import ScorerCall
from ._table import ScoreInputs, Table, as_mask
from ._threads import follow_torch
from .errors import ArgumentError, DeviceError
from .masks import COLUMN, WIDTH, Mask
from .targets import PlanEntry, check_shape, find_targets, lookup, unwrap

if TYPE_CHECKING:
    import torch

__all__ = ["Feed", "Source", "packed"]


class Source:
    """Named parameters and the optimizer that trains them.

    Args:
        parameters: A model (wrapped or not): what `find_targets` chooses, looked up by name every time. Or a
            mapping of names to parameters, or (name, parameter) pairs, such as ``named_parameters()``: all of
            them, a parameter under several names once.
        optimizer: Whose state is read; None if nothing of it is.
        entries: The choice, if it has been made (`Plan.targets`).
        targets, ignore: See `find_targets`.
    """

    def __init__(
        self,
        parameters: Any,
        optimizer: torch.optim.Optimizer | None,
        entries: Sequence[PlanEntry] | None = None,
        targets: Any = None,
        ignore: Any = None,
    ) -> None:
        import torch

        self.optimizer = optimizer
        self._model = unwrap(parameters) if isinstance(parameters, torch.nn.Module) else None
        self._given: list[torch.Tensor] = []
        if self._model is None:
            if targets is not None or ignore is not None:
                raise ArgumentError("targets, ignore: they choose from a model; give only the parameters")
            entries = self._take(parameters)
        elif entries is None:
            entries = find_targets(self._model, optimizer, targets, ignore).targets
        self.entries = tuple(entries)
        self._paths = [(*entry.path.split(".")[:-1],) for entry in self.entries]
        self._attributes = [entry.path.rpartition(".")[2] for entry in self.entries]

    def parameters(self) -> list[torch.Tensor]:
        """The parameters now, in the order of `entries`. Raises Error or ShapeError: see `lookup`."""
        if self._model is None:
            return self._given
        found = []
        for entry, path, attribute in zip(self.entries, self._paths, self._attributes, strict=True):
            module: Any = self._model
            try:
                for owner in path:
                    module = module._modules[owner]
                parameter = module._parameters[attribute]
            except (KeyError, AttributeError):
                parameter = None
            found.append(lookup(self._model, entry) if parameter is None else parameter)
        return found

    def tensors(self, roles: Sequence[str]) -> list[tuple[torch.Tensor | None, ...]]:
        """Per parameter, its tensors of these roles: weight, grad, or keys of the optimizer's state."""
        state: Mapping[Any, Any] = {} if self.optimizer is None else self.optimizer.state
        empty: Mapping[str, Any] = {}
        rows = []
        for parameter in self.parameters():
            kept = state.get(parameter) or empty
            rows.append(
                tuple(
                    parameter if role == "weight" else parameter.grad if role == "grad" else kept.get(role)
                    for role in roles
                )
            )
        return rows

    def _take(self, parameters: Any) -> list[PlanEntry]:
        import torch

        pairs: Iterable[Any] = parameters.items() if isinstance(parameters, Mapping) else parameters
        names: dict[int, list[str]] = {}
        for pair in pairs:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], torch.Tensor)):
                raise ArgumentError(
                    f"parameters: found {type(pair).__name__}; accepted: a model, a mapping of names to "
                    "parameters, or (name, parameter) pairs such as model.named_parameters()"
                )
            if id(pair[1]) not in names:
                self._given.append(pair[1])
            names.setdefault(id(pair[1]), []).append(str(pair[0]))
        everything = [name for each in names.values() for name in each]
        if len(set(everything)) != len(everything) or not everything:
            raise ArgumentError("parameters: names must differ, and at least one is needed")
        return [
            PlanEntry(first, tuple(others), first, tuple(p.shape), str(p.dtype), None, None)
            for p, (first, *others) in zip(self._given, names.values(), strict=True)
        ]


class Feed:
    """The tensors of some roles as a table, of those parameters that have them all.

    Attributes:
        present: The positions of those parameters; None before the first look.
        data, names: As the compiled module takes them, one row for each.
        generation: Changes when `present` does.
        copied_bytes: Bytes that were re-laid for the last call (tensors that are not row-major).
    """

    def __init__(self, source: Source, roles: Sequence[str]) -> None:
        self._source = source
        self._roles = tuple(roles)
        self._columns = [COLUMN[role] for role in roles]
        self._kinds: list[Any] | None = None
        self._pointers: list[int] = []
        self._masks: Mapping[str, Mask] | None = None
        self._table: Table | None = None
        self.present: tuple[int, ...] | None = None
        self.data = array("Q")
        self.names: list[str] = []
        self.generation = 0
        self.copied_bytes = 0

    def refresh(self, masks: Mapping[str, Mask]) -> None:
        """Looks at every tensor again.

        Raises:
            ShapeError, DTypeError, DeviceError, LayoutError: For what the CPU engine cannot read.
        """
        from torch import strided

        rows = self._source.tensors(self._roles)
        present = tuple([i for i, row in enumerate(rows) if None not in row]) if rows else ()
        tensors: list[Any] = [tensor for i in present for tensor in rows[i]]
        kinds = [
            (type(t), t.dtype, t.shape, t.is_cpu, t.layout is strided and t.is_contiguous()) for t in tensors
        ]
        follow_torch()
        if present != self.present or kinds != self._kinds:
            self._pack(present, rows, masks)
            self._kinds = None if self.copied_bytes else kinds
            return
        pointers = [t.data_ptr() for t in tensors]
        if pointers != self._pointers:
            self._point(pointers)
        if masks is not self._masks:
            self._set_masks(masks)

    def _pack(self, present: tuple[int, ...], rows: Sequence[Any], masks: Mapping[str, Mask]) -> None:
        parameters = self._source.parameters()
        items = []
        for i in present:
            name = self._source.entries[i].name
            for role, tensor in zip(self._roles, rows[i], strict=True):
                if tensor.device.type not in ("cpu", "meta"):
                    raise DeviceError(
                        f"{role} of '{name}' is on {tensor.device}; trackers (bitter10, bitter10s, "
                        "bitter10c, movement) run on the CPU in this version. Move the model to the CPU, or "
                        "choose a scorer without a memory"
                    )
            check_shape(self._source.entries[i], parameters[i])
            given = dict(zip(self._roles, rows[i], strict=True))
            items.append(ScoreInputs(**{"weight": parameters[i], **given}, name=name))
        table = Table(items, ScorerCall("tracker", None, ("", None, None, 0), frozenset(self._roles)))
        if present != self.present:
            self.generation += 1
        self.present, self.data, self.names = present, table.data, table.names
        self._table, self.copied_bytes = table, table.copied_bytes  # the table keeps re-laid copies alive
        self._pointers = [self.data[at] for at in self._places()]
        self._set_masks(masks)

    def _places(self) -> list[int]:
        return [start + column for start in range(0, len(self.data), WIDTH) for column in self._columns]

    def _point(self, pointers: list[int]) -> None:
        for at, pointer in zip(self._places(), pointers, strict=True):
            self.data[at] = pointer
        self._pointers = pointers

    def _set_masks(self, masks: Mapping[str, Mask]) -> None:
        self._masks = masks
        for row, name in enumerate(self.names):
            mask = masks.get(name)
            self.data[row * WIDTH + COLUMN["mask"]] = 0 if mask is None else mask.pointer


def packed(masks: Any, entries: Sequence[PlanEntry]) -> dict[str, Mask]:
    """Masks by name as packed bits: `Pruner.masks`, or a mapping of names to `Mask` or bool arrays, or None.

    Raises:
        ArgumentError: A name that is not tracked.
        ShapeError: A mask of another shape than its parameter.
    """
    if masks is None:
        return {}
    if isinstance(masks, MaskView):
        masks = {mask.name: mask for mask in masks.packed}
    known = {name: entry for entry in entries for name in (entry.name, *entry.aliases)}
    found = {}
    for name, mask in masks.items():
        if name not in known:
            raise ArgumentError(f"masks: no parameter '{name}' is tracked; known are {', '.join(known)}")
        found[known[name].name] = as_mask(mask, known[name].shape, name)
    return found
