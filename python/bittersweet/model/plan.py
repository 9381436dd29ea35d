"""The plan: one entry per parameter, with a reason for each that is left alone. It holds no tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..distributed.parts import local_groups
from ..distributed.shards import is_dtensor, local
from ..errors import ArgumentError, Error, LayoutError, ShapeError
from ..tensors.geometry import Axes, Geometry, geometry_of

if TYPE_CHECKING:
    import torch

    from ..distributed.shards import Shard
    from ..tensors.trails import Trail

_SHARE = 0.1  # of the weights, left out by nobody's wish, is worth a word


@dataclass(frozen=True)
class PlanEntry:
    """One parameter of the model.

    Attributes:
        name: Its name without the prefixes that torch.compile, DDP and Fabric add.
        aliases: The other names of the same parameter (tied weights).
        path: Its path from the unwrapped model, as `Module.get_parameter` takes it.
        shape: Its shape when the plan was made; that of the whole, where ranks hold parts of it.
        dtype: Its element type when the plan was made, such as ``float32``.
        in_dim: The axis of the inputs: 0 for transposed convolutions and transformers' Conv1D, None for the
            default (axis 1, or the only axis). For experts and what `in_dim` names, that axis.
        reason: Why it is not pruned; None if it is.
        kernel_dims, groups: See `ScoreInputs`.
        rows_known: False for a parameter of three or more axes of which nobody said what they mean: it counts
            as one row.
        overlooked: It is left out by the default or the optimizer, and nobody asked for that; and it is a
            weight by its shape (floating-point, two or more axes, no embedding).
        weight: It is such a weight, pruned or not.
        shard: Which part of it this rank holds; None: all of it.
        part_shape: The shape of that part; None likewise.
    """

    name: str
    aliases: tuple[str, ...]
    path: str
    shape: tuple[int, ...]
    dtype: str
    in_dim: int | None
    reason: str | None
    kernel_dims: int | None = None
    groups: int | None = None
    rows_known: bool = True
    overlooked: bool = False
    weight: bool = True
    shard: Shard | None = None
    part_shape: tuple[int, ...] | None = None

    @property
    def pruned(self) -> bool:
        return self.reason is None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of what this rank holds, and of its mask."""
        return self.shape if self.part_shape is None else self.part_shape

    @property
    def local_numel(self) -> int:
        return math.prod(self.local_shape)

    @property
    def key(self) -> str:
        """The name of what is saved of it: with its box, if this process alone knows which part it has."""
        if self.shard is None or self.shard.layout is not None or self.local_shape == self.shape:
            return self.name
        bounds = zip(self.shard.offset, self.local_shape, strict=True)
        return f"{self.name}[{', '.join(f'{start}:{start + size}' for start, size in bounds)}]"

    def here(self) -> PlanEntry:
        """What this rank holds as if it were a parameter of its own."""
        return self if self.shard is None else replace(self, shape=self.local_shape)

    @property
    def axes(self) -> Axes:
        """What its axes mean, as `ScoreInputs` takes it (``**entry.axes._asdict()``)."""
        if not self.rows_known:
            return Axes(0, max(len(self.shape) - 1, 0))
        return Axes(self.in_dim, self.kernel_dims, self.groups)

    @property
    def local_axes(self) -> Axes:
        """`axes` of the part that this rank holds, with the groups that it has."""
        return self.axes._replace(groups=local_groups(self.axes.groups, self.shard, self.local_shape))

    @property
    def geometry(self) -> Geometry:
        """Its rows, what they read, and where they lie."""
        return geometry_of(self.shape, *self.axes, self.name)

    @property
    def one_row(self) -> tuple[int, ...]:
        """The shape of an array with the inputs of one output row on their axis and length 1 on all others;
        `in_dim` holds for it too."""
        axis = self.axes.in_dim
        axis = axis if axis is not None else min(1, len(self.shape) - 1)
        return tuple(self.inputs if i == axis else 1 for i in range(len(self.shape)))

    @property
    def inputs(self) -> int:
        """How many input features or channels one output row reads."""
        return self.geometry.inputs

    @property
    def features(self) -> int:
        """How many input features the whole weight reads: one norm is needed for each."""
        return self.geometry.features

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "elements": self.numel,
            "pruned": self.pruned,
            "reason": self.reason,
        }


@dataclass(frozen=True, repr=False)
class Plan:
    """What a `Pruner` will prune and what not, and why. Prints as a table; `to_dict` gives plain values.

    Attributes:
        entries: One `PlanEntry` per parameter of the model, in the order of ``model.named_parameters()``.
        settings: What the pruner will do with them (scorer, scope, schedule ...), as text.
    """

    entries: tuple[PlanEntry, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def targets(self) -> tuple[PlanEntry, ...]:
        return tuple(entry for entry in self.entries if entry.pruned)

    @functools.cached_property
    def excluded(self) -> tuple[PlanEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.pruned)

    def overlooked(self) -> str | None:
        """A sentence on the weights that nobody asked to leave out, if they are more than a tenth of all."""
        total = sum(entry.numel for entry in self.entries if entry.weight)
        found = sorted((entry for entry in self.entries if entry.overlooked), key=lambda e: -e.numel)
        elements = sum(entry.numel for entry in found)
        if elements <= _SHARE * total:
            return None
        named = "; ".join(f"{entry.name} ({entry.reason})" for entry in found[:3])
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        return (
            f"{elements:,} of {total:,} elements in parameters of two or more axes (embeddings apart) are "
            f"left out, {elements / total:.1%}: {named}{more}"
        )

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Plan({self._summary()}; print it for the table)"

    def to_dict(self) -> dict[str, Any]:
        return {"settings": dict(self.settings), "parameters": [entry.to_dict() for entry in self.entries]}

    def __str__(self) -> str:
        lines = [f"Bittersweet plan: {self._summary()}"]
        if (overlooked := self.overlooked()) is not None:
            lines.append(f"  attention: {overlooked}")
        lines += [f"  {key}: {value}" for key, value in self.settings.items()]
        width = max((len(entry.name) for entry in self.entries), default=0)
        for title, group in (("pruned", self.targets), ("not pruned", self.excluded)):
            if group:
                lines.append(f"{title}:")
                lines += [_row(entry, width) for entry in group]
        return "\n".join(lines)

    def _summary(self) -> str:
        targets, elements = self.targets, sum(entry.numel for entry in self.entries)
        pruned = sum(entry.numel for entry in targets)
        share = pruned / elements if elements else 0.0
        return (
            f"{len(targets)} of {len(self.entries)} parameters take part, "
            f"{pruned:,} of {elements:,} elements ({share:.1%})"
        )


def _row(entry: PlanEntry, width: int) -> str:
    shape = "x".join(map(str, entry.shape)) or "scalar"
    notes = [f"tied with {', '.join(entry.aliases)}"] if entry.aliases else []
    if entry.local_shape != entry.shape:
        notes.append(f"{'x'.join(map(str, entry.local_shape))} of it on this rank")
    if entry.reason:
        notes.append(entry.reason)
    columns = f"{entry.name:<{width}}  {shape:>16}  {entry.numel:>13,}  {entry.dtype:<8}"
    return f"  {columns}  {'; '.join(notes)}".rstrip()


def require_rows(entries: Iterable[PlanEntry], scope: str) -> None:
    """Raises ArgumentError if the scope (its `text`) needs the rows of a target that has none known."""
    if scope in ("global", "tensor"):
        return
    for entry in entries:
        if not entry.rows_known:
            raise ArgumentError(
                f"scope: '{scope}' compares along the inputs, and nothing says which of the "
                f"{len(entry.shape)} axes of '{entry.name}' {entry.shape} they are. Say so with "
                f"in_dim={{'{entry.name}': axis}}, or use scope 'tensor' or 'global'"
            )


def lookup(model: torch.nn.Module, entry: PlanEntry) -> torch.Tensor:
    """The parameter that `entry` means now.

    Raises:
        Error: The model no longer has such a parameter.
        ShapeError, LayoutError: See `check_shape`.
    """
    parameter = find(model, entry)
    check_shape(entry, parameter)
    return parameter


def find(model: torch.nn.Module, entry: PlanEntry) -> torch.Tensor:
    """`lookup`, whatever the parameter looks like. Raises Error if there is none."""
    module: Any = model
    *owners, attribute = entry.path.split(".")
    for owner in owners:
        module = module._modules.get(owner)
        if module is None:
            break
    parameter: torch.Tensor | None = module._parameters.get(attribute) if module is not None else None
    if parameter is None:
        raise Error(
            f"the model no longer has the parameter '{entry.name}' (removed, renamed, or parametrized after "
            "the Pruner was made). Make a new Pruner for the changed model"
        )
    return parameter


def follow(trail: Trail, model: torch.nn.Module, entries: Iterable[PlanEntry]) -> None:
    """Puts on a trail what `lookup` depends on."""
    for entry in entries:
        if trail.is_lost:
            return
        module: Any = model
        *owners, _ = entry.path.split(".")
        for owner in owners:
            modules = trail.attribute(module, "_modules")
            trail.contents(modules)
            module = (modules or {}).get(owner)
        trail.contents(trail.attribute(module, "_parameters"))


def check_shape(entry: PlanEntry, parameter: torch.Tensor) -> None:
    """Raises ShapeError if `parameter` does not have the shape that `entry` saw, and LayoutError if ranks
    hold it in another way."""
    made = "when the Pruner was made. Make a new Pruner for the changed model"
    shard, found = entry.shard, tuple(parameter.shape)
    if shard is None or shard.layout is None:
        if is_dtensor(parameter):
            raise LayoutError(
                f"parameter '{entry.name}' is a DTensor, and was none {made}: call fully_shard and "
                "parallelize_module before the Pruner is made"
            )
        if found != entry.local_shape:
            raise ShapeError(f"parameter '{entry.name}' has shape {found}; it had {entry.local_shape} {made}")
        return
    if found != shard.shape:
        raise ShapeError(f"parameter '{entry.name}' has shape {found}; it had {shard.shape} {made}")
    if not is_dtensor(parameter) or tuple(local(parameter).shape) != entry.local_shape:
        raise gathered(entry.name)


def gathered(name: str) -> LayoutError:
    """The error for a parameter that fully_shard has gathered for a forward pass."""
    return LayoutError(
        f"parameter '{name}' is gathered now, so that what is written to its shards would not reach the next "
        "forward pass: this was called between forward and backward, or after an evaluation. Call "
        "pruner.step() right after optimizer.step(), or model.reshard() first"
    )
