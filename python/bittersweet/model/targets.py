"""Which parameters are pruned, and why the others are not.

`find_targets` walks a model once and gives a `Plan`: one entry per parameter, with a reason for each that is
left alone.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..distributed.shards import Shard, local, shard_of
from ..errors import ArgumentError, LayoutError
from ..notices import warn_once
from ..optimizers.optimizers import Optimizers
from ..options.values import shown
from ..tensors.geometry import Axes
from .adapters import adapter_of, is_named
from .layers import KINDS, is_embedding, is_norm, known_axes
from .patterns import Match, Patterns, Place
from .plan import Plan, PlanEntry, check_shape, follow, lookup, require_rows
from .wrappers import refuse_distributed, refuse_sharded, unwrap, wrapped_child

if TYPE_CHECKING:
    import torch

__all__ = ["Plan", "PlanEntry", "check_shape", "find_targets", "follow", "lookup", "require_rows", "unwrap"]

_PARAMETRIZED_SUFFIXES = ("_g", "_v", "_orig")


@dataclass(frozen=True)
class _Left:
    """Why a parameter is left alone, and whether somebody asked for that."""

    reason: str
    asked: bool = False


def find_targets(
    model: torch.nn.Module,
    optimizer: Any = None,
    targets: Any = None,
    ignore: Any = None,
    settings: Mapping[str, str] | None = None,
    *,
    in_dim: Mapping[Any, int] | None = None,
    frozen: bool = False,
    over_ranks: bool = False,
    shards: Mapping[Any, Shard] | None = None,
) -> Plan:
    """Decides for every parameter of `model` whether it is pruned.

    By default these are the weights of Linear and Conv layers (their subclasses, and transformers' Conv1D),
    the projections of torch's MultiheadAttention, and the experts of transformers' mixtures; not biases,
    norms, embeddings, adapters (LoRA and its kin) or other parameters, nor anything tied to an embedding.
    Never pruned: parameters that do not require grad, that are not in `optimizer` (if one is given), or from
    which a parametrization computes the real weight (weight_norm and its kin: a zero there is not a zero
    weight).

    `targets` narrows the choice and `ignore` takes away from it. Both take a glob of names, a parameter, a
    module, a module type, or several of these. A glob is held against the parameter's name and the names of
    the modules around it. What the default leaves out is pruned only if `targets` gives its exact name, a
    glob that ends in its attribute (``"*.scale"``; not ``"*.weight"``, which is what every layer has), the
    parameter itself (of two or more axes, no embedding or adapter), or (for parameters with ``weight`` in
    their name) its own module or that module's type. An adapter is reached by its exact name, its module, or
    a glob that spells a part of it (``"*lora_A*"``).

    Tied parameters make one entry with all names. The order is that of ``model.named_parameters()``.

    If more than a tenth of the elements in parameters of two or more axes, embeddings apart, is left out by
    the default or the optimizer, the plan says so, and so does one warning per class of models, and one more
    if that is so in spite of `targets`.

    Args:
        in_dim: For parameters of which no class says what their axes mean: the axis of the inputs, by the
            same patterns. All other axes then count output rows. A parameter of three or more axes that has
            none can be pruned by the scopes global and tensor only, see `require_rows`.
        frozen: Parameters that do not require grad take part too, for pruning without training.
        over_ranks: DTensors are taken: each entry says which part of it this rank holds. And nothing to prune
            here is no error: other ranks may have targets.
        shards: The same by hand, by the same patterns, for plain parameters that are parts of whole ones.

    Raises:
        ArgumentError: `model` is no module, a pattern matches nothing, nothing at all is left to prune, or
            `in_dim` names an axis that is not there or contradicts a class.
        LayoutError: Two different parameters share their memory, or their memory is spread over ranks (FSDP1,
            DeepSpeed ZeRO-3; DTensors unless `over_ranks`, and those whose part is no box of plain numbers).
        DTypeError, DeviceError: A chosen parameter is not a dense f32, f16 or bf16 tensor in reach of this
            build.
    """
    root = unwrap(model)
    refuse_sharded(root)
    parameters: dict[int, list[Place]] = {}
    for place in _places(root, "", "", ()):
        parameters.setdefault(id(place.parameter), []).append(place)
    everything = [place for places in parameters.values() for place in places]
    wanted = None if targets is None else Patterns(targets, "targets", everything)
    unwanted = None if ignore is None else Patterns(ignore, "ignore", everything)
    given = _given_axes(in_dim, parameters)
    parts = _given_shards(shards, parameters)
    optimizers = Optimizers.of(optimizer)
    trained = set(optimizers.groups()) if optimizers else None

    entries = []
    for key, places in parameters.items():
        left = _why_left(places, wanted, unwanted, trained, frozen)
        entry = _entry(places, given.get(key), left)
        entries.append(
            _part(entry, places[0].parameter, parts.get(key), over_ranks) if left is None else entry
        )
    plan = Plan(tuple(entries), dict(settings or {}))
    if not plan.targets and not over_ranks:
        raise ArgumentError(_nothing(entries))
    chosen = [places[0] for entry, places in zip(entries, parameters.values(), strict=True) if entry.pruned]
    _check_memory((place.name, place.parameter) for place in chosen)
    if (overlooked := plan.overlooked()) is not None:
        warn_once(
            f"overlooked in {type(root).__module__}.{type(root).__qualname__}, {wanted is None}",
            f"targets: {overlooked}. Name what is to be pruned in targets (by its exact name or its module's "
            "type), and what is not in ignore; the plan lists all",
        )
    return plan


def _places(
    module: torch.nn.Module, path: str, name: str, around: tuple[tuple[str, torch.nn.Module], ...]
) -> Iterator[Place]:
    around = (*around, (name, module))
    for attribute, parameter in module._parameters.items():
        if parameter is not None:
            yield Place(_join(name, attribute), _join(path, attribute), attribute, module, around, parameter)
    wrapped = wrapped_child(module)
    for child_name, child in module._modules.items() if wrapped is None else (wrapped,):
        if child is not None:
            own = _join(name, child_name) if wrapped is None else name
            yield from _places(child, _join(path, child_name), own, around)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _entry(places: list[Place], given: int | None, left: _Left | None) -> PlanEntry:
    first, parameter = places[0], places[0].parameter
    known = next((axes for place in places if (axes := known_axes(place, parameter)) is not None), None)
    try:
        shape = tuple(parameter.shape)
    except RuntimeError:  # a lazy module's parameter has no shape before its first forward pass
        shape = ()
    axes = known or (Axes() if given is None else Axes(given, 0))
    weight = (
        len(shape) > 1 and parameter.is_floating_point() and not any(is_embedding(place) for place in places)
    )
    return PlanEntry(
        name=first.name,
        aliases=tuple(place.name for place in places[1:]),
        path=first.path,
        shape=shape,
        dtype=str(parameter.dtype).removeprefix("torch."),
        in_dim=axes.in_dim,
        reason=None if left is None else left.reason,
        kernel_dims=axes.kernel_dims,
        groups=axes.groups,
        rows_known=known is not None or given is not None or len(shape) < 3,
        overlooked=weight and left is not None and not left.asked,
        weight=weight,
    )


def _part(entry: PlanEntry, parameter: torch.Tensor, given: Shard | None, taken: bool) -> PlanEntry:
    """The entry of a target, with the part of it that this rank holds; DTensors are `taken` or refused."""
    if not taken:
        refuse_distributed(entry.name, parameter)
    shard = shard_of(parameter, entry.name)
    if given is not None:
        if shard is not None:
            raise ArgumentError(
                f"shards: '{entry.name}' is a DTensor, which says itself which part is here. Leave it out"
            )
        given.require_fits(tuple(parameter.shape), entry.name)
        shard = given
    if shard is None:
        return entry
    return replace(entry, shape=shard.shape, shard=shard, part_shape=tuple(local(parameter).shape))


def _given_shards(shards: Any, parameters: Mapping[int, list[Place]]) -> dict[int, Shard]:
    """The parts that the user gives, by the id of the parameter."""
    if shards is None:
        return {}
    if not isinstance(shards, Mapping) or not all(isinstance(one, Shard) for one in shards.values()):
        raise ArgumentError(
            f"shards: found {shown(shards)}; accepted: a mapping from names or globs to bittersweet.Shard, "
            "such as {'experts.up': Shard(shape=(8, 64, 32), offset=(4, 0, 0))}"
        )
    everything = [place for places in parameters.values() for place in places]
    found: dict[int, Shard] = {}
    for pattern, shard in shards.items():
        patterns = Patterns(pattern, "shards", everything)
        for key, places in parameters.items():
            if any(patterns.matches(place) for place in places):
                found[key] = shard
    return found


def _given_axes(in_dim: Any, parameters: Mapping[int, list[Place]]) -> dict[int, int]:
    """The axes that the user gives, by the id of the parameter, counted from 0."""
    if in_dim is None:
        return {}
    if not isinstance(in_dim, Mapping):
        raise ArgumentError(
            f"in_dim: found {type(in_dim).__name__}; accepted: a mapping from names or globs to axes, such "
            "as {'experts.up': 2}"
        )
    everything = [place for places in parameters.values() for place in places]
    found: dict[int, int] = {}
    for pattern, value in in_dim.items():
        patterns = Patterns(pattern, "in_dim", everything)
        for key, places in parameters.items():
            if not any(patterns.matches(place) for place in places):
                continue
            axis = _axis(value, places[0])
            known = next((axes for place in places if (axes := known_axes(place, place.parameter))), None)
            usual = axis if known is None else 1 if known.in_dim is None else known.in_dim
            if axis != usual or found.setdefault(key, axis) != axis:
                other, why = (found[key], "another pattern") if axis == usual else (usual, "its class")
                raise ArgumentError(
                    f"in_dim: axis {axis} for '{places[0].name}', whose inputs are on axis {other} by {why}. "
                    "Narrow the pattern"
                )
    return found


def _axis(value: Any, place: Place) -> int:
    dims = place.parameter.dim()
    try:
        axis = operator.index(value)
    except TypeError:
        axis = dims
    if isinstance(value, bool) or not -dims <= axis < dims:
        raise ArgumentError(
            f"in_dim: {shown(value)} for '{place.name}' of shape {tuple(place.parameter.shape)}; accepted: "
            f"an axis, {-dims} to {dims - 1}"
        )
    return axis % dims


def _why_left(
    places: list[Place],
    wanted: Patterns | None,
    unwanted: Patterns | None,
    trained: set[int] | None,
    frozen: bool,
) -> _Left | None:
    parameter = places[0].parameter
    for place in places:
        if (computed := _computed_from(place)) is not None:
            return _Left(
                f"parametrized: '{computed}' is computed from it, and a zero here is not a zero weight"
            )
        if unwanted is not None and (ignored := unwanted.matches(place)):
            return _Left(f"ignored by {ignored[0].pattern}", asked=True)
    left = _why_not_a_target(places, wanted)
    if not parameter.requires_grad and not frozen:
        return _Left("frozen (requires_grad is False)" if left is None else left.reason, asked=True)
    if left is None and trained is not None and id(parameter) not in trained:
        return _Left("not in the optimizer")
    return left


def _why_not_a_target(places: list[Place], wanted: Patterns | None) -> _Left | None:
    embedding = next((place for place in places if is_embedding(place)), None)
    adapter = next((name for place in places if (name := adapter_of(place)) is not None), None)
    if wanted is not None:
        matches = [(place, match) for place in places for match in wanted.matches(place)]
        if not matches:
            return _Left("not named by targets", asked=True)
        if adapter is not None and any(is_named(place, match, adapter) for place, match in matches):
            return None
        for place, match in matches:
            if adapter is None and _reaches(place, match, embedding):
                return None
    advice = "; to prune it, give its exact name in targets" if wanted is not None else ""
    if adapter is not None:
        return _Left(f"adapter ({adapter}); to prune it, name it in targets", asked=True)
    if embedding is not None:
        others = [place.name for place in places if place is not embedding]
        return _Left(f"tied to the embedding '{embedding.name}'{advice}" if others else f"embedding{advice}")
    place = places[0]
    if any(known_axes(place, place.parameter) is not None for place in places):
        return None
    if "bias" in place.attribute:
        return _Left(f"bias{advice}")
    if is_norm(place):
        return _Left(f"norm{advice}")
    return _Left(f"not the weight of a {KINDS} layer{advice}")


def _reaches(place: Place, match: Match, embedding: Place | None) -> bool:
    """Whether a match prunes what the default leaves out."""
    return match.by_name or (match.exact and (embedding is None or is_embedding(place)))


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


def _nothing(entries: list[PlanEntry]) -> str:
    entries = sorted(entries, key=lambda entry: entry.reason == "not named by targets")
    listed = "; ".join(f"{entry.name}: {entry.reason}" for entry in entries[:12]) or "it has no parameters"
    more = f"; and {len(entries) - 12} more" if len(entries) > 12 else ""
    text = f"nothing to prune in this model ({listed}{more}). Change targets, ignore or the optimizer"
    if any((entry.reason or "").startswith("frozen") for entry in entries):
        text += ". Frozen weights are pruned once, without training, by bittersweet.prune_"
    return text


def _check_memory(chosen: Iterable[tuple[str, torch.Tensor]]) -> None:
    from ..tensors import arrays

    seen: dict[int, str] = {}
    for name, parameter in chosen:
        view = arrays.inspect(local(parameter), "weight", name)
        if view.numel and view.pointer in seen:
            raise LayoutError(
                f"parameters '{seen[view.pointer]}' and '{name}' share their memory but are two Parameters. "
                "Tie them by assigning one Parameter to both names, or give each its own memory"
            )
        seen[view.pointer] = name
