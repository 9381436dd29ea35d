"""Which parameters are pruned, and why the others are not.

`find_targets` walks a model once and gives a `Plan`: one entry per parameter, with a reason for each that is
left alone. The plan keeps names, not tensors; `lookup` finds the tensor that a name means now.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, Error, LayoutError, ShapeError
from .patterns import Match, Patterns, Place

if TYPE_CHECKING:
    import torch

    from ..optimizers.optimizers import Optimizers

__all__ = ["Plan", "PlanEntry", "find_targets", "lookup", "unwrap"]

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}
_PARAMETRIZED_SUFFIXES = ("_g", "_v", "_orig")


@dataclass(frozen=True)
class PlanEntry:
    """One parameter of the model.

    Attributes:
        name: Its name without the prefixes that torch.compile and DDP add.
        aliases: The other names of the same parameter (tied weights).
        path: Its path from the unwrapped model, as `Module.get_parameter` takes it.
        shape: Its shape when the plan was made.
        dtype: Its element type when the plan was made, such as ``float32``.
        in_dim: The axis of the inputs: 0 for transposed convolutions and transformers' Conv1D, None for the
            default (axis 1, or the only axis).
        reason: Why it is not pruned; None if it is.
    """

    name: str
    aliases: tuple[str, ...]
    path: str
    shape: tuple[int, ...]
    dtype: str
    in_dim: int | None
    reason: str | None

    @property
    def pruned(self) -> bool:
        return self.reason is None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def one_row(self) -> tuple[int, ...]:
        """The shape of one output row: all axes but that of the inputs have length 1."""
        axis = self.in_dim if self.in_dim is not None else min(1, len(self.shape) - 1)
        return tuple(size if i == axis else 1 for i, size in enumerate(self.shape))

    @property
    def inputs(self) -> int:
        """Length of the input axis: input features or channels."""
        return math.prod(self.one_row)

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


@dataclass(frozen=True)
class Plan:
    """What a `Pruner` will prune and what not, and why. Prints as a table; `to_dict` gives plain values.

    Attributes:
        entries: One `PlanEntry` per parameter of the model, in the order of ``model.named_parameters()``.
        settings: What the pruner will do with them (scorer, scope, schedule ...), as text.
    """

    entries: tuple[PlanEntry, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[PlanEntry, ...]:
        return tuple(entry for entry in self.entries if entry.pruned)

    @property
    def excluded(self) -> tuple[PlanEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.pruned)

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> dict[str, Any]:
        return {"settings": dict(self.settings), "parameters": [entry.to_dict() for entry in self.entries]}

    def __str__(self) -> str:
        targets, elements = self.targets, sum(entry.numel for entry in self.entries)
        pruned = sum(entry.numel for entry in targets)
        share = pruned / elements if elements else 0.0
        lines = [
            f"Bittersweet plan: {len(targets)} of {len(self.entries)} parameters take part, "
            f"{pruned:,} of {elements:,} elements ({share:.1%})"
        ]
        lines += [f"  {key}: {value}" for key, value in self.settings.items()]
        width = max((len(entry.name) for entry in self.entries), default=0)
        for title, group in (("pruned", targets), ("not pruned", self.excluded)):
            if group:
                lines.append(f"{title}:")
                lines += [_row(entry, width) for entry in group]
        return "\n".join(lines)


def _row(entry: PlanEntry, width: int) -> str:
    shape = "x".join(map(str, entry.shape)) or "scalar"
    notes = [f"tied with {', '.join(entry.aliases)}"] if entry.aliases else []
    if entry.reason:
        notes.append(entry.reason)
    columns = f"{entry.name:<{width}}  {shape:>16}  {entry.numel:>13,}  {entry.dtype:<8}"
    return f"  {columns}  {'; '.join(notes)}".rstrip()


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside torch.compile's, DDP's and DataParallel's wrappers."""
    while (inner := _wrapped_child(model)) is not None:
        model = inner
    return model


def lookup(model: torch.nn.Module, entry: PlanEntry) -> torch.Tensor:
    """The parameter that `entry` means now.

    Raises:
        Error: The model no longer has such a parameter.
        ShapeError: It has another shape than when the plan was made.
    """
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
    check_shape(entry, parameter)
    return parameter


def check_shape(entry: PlanEntry, parameter: torch.Tensor) -> None:
    """Raises ShapeError if `parameter` does not have the shape that `entry` saw."""
    if parameter.shape != entry.shape:
        raise ShapeError(
            f"parameter '{entry.name}' has shape {tuple(parameter.shape)}; it had {entry.shape} when the "
            "Pruner was made. Make a new Pruner for the changed model"
        )


def find_targets(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Optimizers | None = None,
    targets: Any = None,
    ignore: Any = None,
    settings: Mapping[str, str] | None = None,
) -> Plan:
    """Decides for every parameter of `model` whether it is pruned.

    By default these are the weights of Linear and Conv layers (their subclasses, and transformers' Conv1D);
    not biases, norms, embeddings or other parameters, nor anything tied to an embedding. Never pruned:
    parameters that do not require grad, that are not in `optimizer` (if one is given), or from which a
    parametrization computes the real weight (weight_norm and its kin: a zero there is not a zero weight).

    `targets` narrows the choice and `ignore` takes away from it. Both take a glob of names, a module, a
    module type, or several of these. A glob is held against the parameter's name and the names of the modules
    around it. What the default leaves out is pruned only if `targets` gives its exact name, or (for
    parameters with ``weight`` in their name) its own module or that module's type.

    Tied parameters make one entry with all names. The order is that of ``model.named_parameters()``.

    Raises:
        ArgumentError: A pattern matches nothing, or nothing at all is left to prune.
        LayoutError: Two different parameters share their memory.
        DTypeError, DeviceError: A chosen parameter is not a dense f32, f16 or bf16 tensor in reach of this
            build.
    """
    root = unwrap(model)
    parameters: dict[int, tuple[torch.Tensor, list[Place]]] = {}
    for place, parameter in _places(root, "", "", ()):
        parameters.setdefault(id(parameter), (parameter, []))[1].append(place)
    everything = [place for _, places in parameters.values() for place in places]
    wanted = None if targets is None else Patterns(targets, "targets", everything, unwrap)
    unwanted = None if ignore is None else Patterns(ignore, "ignore", everything, unwrap)
    trained = (
        None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    )

    entries = []
    for parameter, places in parameters.values():
        reason = _reason(parameter, places, wanted, unwanted, trained)
        first = next((place for place in places if _is_default(place)), places[0])
        entries.append(
            PlanEntry(
                name=places[0].name,
                aliases=tuple(place.name for place in places[1:]),
                path=places[0].path,
                shape=_shape(parameter),
                dtype=str(parameter.dtype).removeprefix("torch."),
                in_dim=_in_dim(first),
                reason=reason,
            )
        )
    plan = Plan(tuple(entries), dict(settings or {}))
    if not plan.targets:
        listed = (
            "; ".join(f"{entry.name}: {entry.reason}" for entry in entries[:12]) or "it has no parameters"
        )
        raise ArgumentError(
            f"nothing to prune in this model ({listed}). Change targets, ignore or the optimizer"
        )
    chosen = zip(entries, (parameter for parameter, _ in parameters.values()), strict=True)
    _check_memory((entry.name, parameter) for entry, parameter in chosen if entry.pruned)
    return plan


def _places(
    module: torch.nn.Module, path: str, name: str, around: tuple[tuple[str, torch.nn.Module], ...]
) -> Iterator[tuple[Place, torch.Tensor]]:
    around = (*around, (name, module))
    for attribute, parameter in module._parameters.items():
        if parameter is not None:
            yield Place(_join(name, attribute), _join(path, attribute), attribute, module, around), parameter
    transparent = _wrapped_child(module) is not None
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _places(
                child, _join(path, child_name), name if transparent else _join(name, child_name), around
            )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrapped_child(module: torch.nn.Module) -> torch.nn.Module | None:
    for cls in type(module).__mro__:
        if cls.__name__ in _WRAPPERS:
            return module._modules.get(_WRAPPERS[cls.__name__])
    return None


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    try:
        return tuple(parameter.shape)
    except RuntimeError:  # a lazy module's parameter has no shape before its first forward pass
        return ()


def _class_names(module: torch.nn.Module) -> list[str]:
    return [cls.__name__ for cls in type(module).__mro__]


def _is_default(place: Place) -> bool:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if place.attribute != "weight":
        return False
    return isinstance(place.owner, (nn.Linear, _ConvNd)) or "Conv1D" in _class_names(place.owner)


def _is_embedding(place: Place) -> bool:
    return (
        "weight" in place.attribute
        and not _is_default(place)
        and (any("embedding" in name.lower() for name in _class_names(place.owner)))
    )


def _in_dim(place: Place) -> int | None:
    from torch.nn.modules.conv import _ConvTransposeNd

    if not _is_default(place):
        return None
    transposed = isinstance(place.owner, _ConvTransposeNd) or "Conv1D" in _class_names(place.owner)
    return 0 if transposed else None


def _computed_from(place: Place) -> str | None:
    """The name of the weight that a parametrization computes from this parameter, if one does."""
    from torch.nn.utils.parametrize import ParametrizationList

    for name, module in place.around:
        if isinstance(module, ParametrizationList):
            owner, _, attribute = name.rpartition(".parametrizations.")
            return _join(owner, attribute)
    for suffix in _PARAMETRIZED_SUFFIXES:
        base = place.attribute.removesuffix(suffix)
        if base != place.attribute and base not in place.owner._parameters and hasattr(place.owner, base):
            return place.name.removesuffix(suffix)
    return None


def _reason(
    parameter: torch.Tensor,
    places: list[Place],
    wanted: Patterns | None,
    unwanted: Patterns | None,
    trained: set[int] | None,
) -> str | None:
    for place in places:
        if (computed := _computed_from(place)) is not None:
            return f"parametrized: '{computed}' is computed from it, and a zero here is not a zero weight"
        if unwanted is not None and (match := unwanted.match(place)) is not None:
            return f"ignored by {match.pattern}"
    reason = _kind_reason(places, wanted)
    if reason is None and not parameter.requires_grad:
        reason = "frozen (requires_grad is False)"
    if reason is None and trained is not None and id(parameter) not in trained:
        reason = "not in the optimizer"
    return reason


def _kind_reason(places: list[Place], wanted: Patterns | None) -> str | None:
    embedding = next((place for place in places if _is_embedding(place)), None)
    matches: list[tuple[Place, Match]] = []
    if wanted is not None:
        matches = [(place, match) for place in places if (match := wanted.match(place)) is not None]
        if not matches:
            return "not named by targets"
        for place, match in matches:
            if match.by_name or (match.exact and (embedding is None or _is_embedding(place))):
                return None
    advice = "; to prune it, give its exact name in targets" if wanted is not None else ""
    if embedding is not None:
        others = [place.name for place in places if place is not embedding]
        return f"tied to the embedding '{embedding.name}'{advice}" if others else f"embedding{advice}"
    if any(_is_default(place) for place in places):
        return None
    place = places[0]
    if "bias" in place.attribute:
        return f"bias{advice}"
    if any("norm" in name.lower() for name in _class_names(place.owner)):
        return f"norm{advice}"
    return f"not the weight of a Linear, Conv or Conv1D layer{advice}"


def _check_memory(chosen: Iterable[tuple[str, torch.Tensor]]) -> None:
    from ..tensors import arrays

    seen: dict[int, str] = {}
    for name, parameter in chosen:
        view = arrays.inspect(parameter, "weight", name)
        if view.numel and view.pointer in seen:
            raise LayoutError(
                f"parameters '{seen[view.pointer]}' and '{name}' share their memory but are two Parameters. "
                "Tie them by assigning one Parameter to both names, or give each its own memory"
            )
        seen[view.pointer] = name
