"""What a tracker reads on every training step, found by name and packed into one table.

The names are settled once. The tensors behind them are looked up on every call. What was packed before is
used again as it is only for the same tensors at the same addresses, and with new addresses for tensors of the
same kind (type, dtype, shape, layout, device).
"""

from __future__ import annotations

import operator
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..distributed.shards import local
from ..errors import ArgumentError
from ..model.mask_view import MaskView
from ..model.targets import PlanEntry, check_shape, find_targets, lookup, unwrap
from ..options.scorers import ScorerCall
from ..tensors import devices
from ..tensors.arrays import first_address, pointer_within
from ..tensors.masks import COLUMN, WIDTH, Mask
from ..tensors.orders import ROW_MAJOR
from ..tensors.table import ScoreInputs, Table, as_mask
from ..tensors.threads import follow_torch

if TYPE_CHECKING:
    import torch

    from ..optimizers.optimizers import Optimizers

__all__ = ["Feed", "Source", "packed"]


class Source:
    """Named parameters and the optimizer that trains them.

    Args:
        parameters: A model (wrapped or not): what `find_targets` chooses, looked up by name every time. Or a
            mapping of names to parameters, or (name, parameter) pairs, such as ``named_parameters()``: all of
            them, a parameter under several names once.
        optimizer: Whose state is read; an empty one if nothing of it is.
        entries: The choice, if it has been made (`Plan.targets`).
        targets, ignore: See `find_targets`.
    """

    def __init__(
        self,
        parameters: Any,
        optimizer: Optimizers,
        entries: Sequence[PlanEntry] | None = None,
        targets: Any = None,
        ignore: Any = None,
    ) -> None:
        import torch

        self.optimizers = optimizer
        self._model = unwrap(parameters) if isinstance(parameters, torch.nn.Module) else None
        self._given: list[torch.Tensor] = []
        if self._model is None:
            if targets is not None or ignore is not None:
                raise ArgumentError("targets, ignore: they choose from a model; give only the parameters")
            entries = self._take(parameters)
        elif entries is None:
            entries = find_targets(self._model, optimizer or None, targets, ignore).targets
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

    def look(self, roles: Sequence[str]) -> tuple[list[int], list[torch.Tensor]]:
        """The parameters that have a tensor for each of these roles, by position, and those tensors in a row;
        of DTensors what this rank holds.

        Roles are ``weight`` or not, first; then ``grad``, or moments of the optimizer (decoded if need be).
        """
        weight = roles[0] == "weight"
        keys = list(roles[weight:])
        present: list[int] = []
        tensors: list[Any] = []
        for i, parameter in enumerate(self.parameters()):
            found = [local(parameter.grad)] if keys == ["grad"] else self._moments(parameter, keys)
            if any([tensor is None for tensor in found]):  # noqa: C419  (a list is faster)
                continue
            present.append(i)
            if weight:
                tensors.append(local(parameter))
            tensors += found
        return present, tensors

    def _moments(self, parameter: torch.Tensor, roles: Sequence[str]) -> list[torch.Tensor | None]:
        state = self.optimizers.read(parameter, decode=True, roles=roles)
        return [local(getattr(state, role)) for role in roles]

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
            PlanEntry(first, tuple(others), first, tuple(p.shape), _dtype_name(p), None, None)
            for p, (first, *others) in zip(self._given, names.values(), strict=True)
        ]


class Feed:
    """The tensors of some roles as a table, of those parameters that have them all.

    Attributes:
        present: The positions of those parameters; None before the first look.
        data, names: As the compiled module takes them, one row for each.
        device: Where they lie: HOST, or the number of a CUDA device.
        generation: Changes when `present` or `device` does.
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
        self._tensors: list[torch.Tensor] = []
        self.present: list[int] | None = None
        self.data = array("Q")
        self.names: list[str] = []
        self.device = devices.HOST
        self.generation = 0
        self.copied_bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy looks at its own tensors: addresses do not travel."""
        return type(self), (self._source, self._roles)

    def refresh(self, masks: Mapping[str, Mask]) -> None:
        """Looks at every tensor again.

        Raises:
            ShapeError, DTypeError, DeviceError, LayoutError: For what no engine of this build can read.
        """
        present, tensors = self._source.look(self._roles)
        pointers = [first_address(tensor) for tensor in tensors]
        follow_torch()
        same = present == self.present and len(tensors) == len(self._tensors)
        if not (same and pointers == self._pointers and all(map(operator.is_, tensors, self._tensors))):
            kinds = [_kind(tensor) for tensor in tensors]
            if present == self.present and kinds == self._kinds and all(map(_has_memory, tensors)):
                for at, pointer in zip(self._places(), pointers, strict=True):
                    self.data[at] = pointer
            else:
                self._pack(present, tensors)
                self._set_masks(masks)
            # What is re-laid for one call says nothing about the next.
            self._kinds, self._tensors = (None, []) if self.copied_bytes else (kinds, tensors)
            self._pointers = pointers
        if masks is not self._masks:
            self._set_masks(masks)

    def _pack(self, present: list[int], tensors: list[torch.Tensor]) -> None:
        parameters, width = self._source.parameters(), len(self._roles)
        items = []
        for row, i in enumerate(present):
            name = self._source.entries[i].name
            given: dict[str, Any] = dict(
                zip(self._roles, tensors[row * width : (row + 1) * width], strict=True)
            )
            check_shape(self._source.entries[i], parameters[i])
            items.append(ScoreInputs(**{"weight": local(parameters[i]), **given}, name=name))
        call = ScorerCall("tracker", None, ("", None, None, 0), frozenset(self._roles))
        table = Table(items, call, row_major=True)  # as what is remembered of the tensors
        if present != self.present or table.device != self.device:
            self.generation += 1
        self.device = table.device
        self.present, self.data, self.names = present, table.data, table.names
        self._table, self.copied_bytes = table, table.copied_bytes  # the table keeps re-laid copies alive

    def _places(self) -> list[int]:
        return [start + column for start in range(0, len(self.data), WIDTH) for column in self._columns]

    def _set_masks(self, masks: Mapping[str, Mask]) -> None:
        self._masks = masks
        self._ordered = []  # keeps what the table points to: on a device each is a copy of its own
        for row, name in enumerate(self.names):
            mask = masks.get(name)
            if mask is not None:
                mask.require_on(self.device, name, devices.stream_of(self.device))
                mask = mask.ordered(ROW_MAJOR)
            self._ordered.append(mask)
            self.data[row * WIDTH + COLUMN["mask"]] = 0 if mask is None else mask.pointer


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _has_memory(tensor: torch.Tensor) -> bool:
    """Whether a row-major tensor has memory for all of its elements; packing says what is wrong if not."""
    return bool(pointer_within(tensor)) or tensor.numel() == 0


def _kind(tensor: torch.Tensor) -> Any:
    """All that the table depends on beside the address."""
    strided = tensor.layout is sys.modules["torch"].strided
    place = devices.runtime.index_of(tensor)
    return type(tensor), tensor.dtype, tensor.shape, place, strided and tensor.is_contiguous()


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
