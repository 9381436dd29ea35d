"""From names to tensors: what the plan's targets, the optimizer and the gradients are at this moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..distributed.parts import mask_of_part
from ..distributed.shards import is_dtensor, local
from ..errors import ArgumentError, LayoutError, MissingStateError
from ..optimizers.optimizers import MOMENTS, STEP_READS, WITHOUT_STATE, Optimizers
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs, as_mask
from .targets import PlanEntry, lookup

if TYPE_CHECKING:
    import torch

    from ..distributed.shards import Layout
    from ..optimizers.parameter_state import ParameterState
    from ..wanda.input_norms import InputNorms

__all__ = [
    "Bound",
    "bind",
    "companion_items",
    "competitors",
    "element_items",
    "masks_of",
    "missing_reads",
    "moment_items",
    "part_of",
    "score_inputs",
    "supply",
]


_NO_OPTIMIZERS = Optimizers()
_LEAVE = "exclude it with ignore, or leave it dense with missing='skip'"


@dataclass(slots=True)
class Bound:
    """One target now: its tensor, and its optimizer state. `in_optimizer` is None without an optimizer."""

    entry: PlanEntry
    parameter: torch.Tensor
    state: ParameterState
    in_optimizer: bool | None

    def tensor(self, argument: str) -> torch.Tensor | None:
        """The model's or the optimizer's own tensor for this argument of `ScoreInputs`, None where absent:
        the weight, its grad or a moment. A DTensor where the weight is one."""
        if argument == "weight":
            return self.parameter
        if argument == "grad":
            return self.parameter.grad
        found: torch.Tensor | None = getattr(self.state, argument)
        return found

    def inputs(self, arguments: Iterable[str], scored: bool = False) -> ScoreInputs:
        """What this rank holds of its tensors for these arguments of `ScoreInputs`, among weight, grad and
        the moments; None where absent. Gradients that ranks have yet to add up are theirs to mask, but not to
        be `scored`.

        Raises:
            LayoutError: A tensor is not spread over ranks as its weight is.
        """
        item = ScoreInputs(local(self.parameter), name=self.entry.name, **self.entry.local_axes._asdict())
        for argument in arguments:
            if (argument == "grad" or argument in MOMENTS) and (tensor := self.tensor(argument)) is not None:
                self._require_alike(tensor, argument, scored)
                setattr(item, argument, local(tensor))
        return item

    def _require_alike(self, tensor: torch.Tensor, argument: str, scored: bool) -> None:
        shard, found = self.entry.shard, is_dtensor(tensor)
        layout = None if shard is None else shard.layout
        if found != (layout is not None) or (layout and not _is_laid_out(tensor, layout, scored)):
            placed = f"placed as {list(tensor.placements)}" if found else "no DTensor"  # type: ignore[attr-defined]
            wanted = "no DTensor" if layout is None else f"placed as {list(layout.placements)}"
            remedy = (
                "Redistribute it to the placements of its weight"
                if argument == "grad"
                else "Make the optimizer after fully_shard and parallelize_module"
            )
            raise LayoutError(
                f"{argument} of '{self.entry.name}' is {placed}, and its weight {wanted}; they must lie "
                f"alike on the ranks. {remedy}"
            )


def _is_laid_out(tensor: Any, layout: Layout, exactly: bool) -> bool:
    pairs = zip(tensor.placements, layout.placements, strict=True)
    return tensor.device_mesh == layout.mesh and all(
        one == other or (not exactly and one.is_partial() and other.is_replicate()) for one, other in pairs
    )


def bind(
    model: torch.nn.Module,
    optimizer: Optimizers | None,
    targets: Sequence[PlanEntry],
    reads: frozenset[str] | None = None,
) -> list[Bound]:
    """Looks up every target by name, with the optimizer's own tensors for holding; or, with what a scorer
    `reads`, with those for scoring alone: decoded where they are kept in another form (temporaries of the
    size of the weight), with the betas, and with the step counts if they are among it: a capturable or fused
    optimizer keeps them on the device, which is waited for.

    Raises:
        Error, ShapeError: The model has changed; see `targets.lookup`.
        MissingStateError: See `Optimizers.read`.
    """
    groups: Mapping[int, Mapping[str, Any]] = {}
    kept = optimizer or _NO_OPTIMIZERS
    if reads is not None:
        groups = kept.groups()
    scoring = reads is not None
    steps = bool(reads and reads & STEP_READS)
    roles = MOMENTS if reads is None else tuple(role for role in MOMENTS if role in reads)
    bound = []
    for entry in targets:
        parameter = lookup(model, entry)
        state = kept.read(parameter, groups.get(id(parameter)), steps, scoring, roles)
        member = id(parameter) in groups if kept and scoring else None
        bound.append(Bound(entry, parameter, state, member))
    return bound


def score_inputs(bound: Bound, reads: frozenset[str], mask: Mask | None) -> ScoreInputs:
    """What a scorer reads of this target, and the mask that says what is dead."""
    item = bound.inputs(reads, scored=True)
    item.mask = mask
    item.step = bound.state.step
    if bound.state.betas is not None:
        item.betas = bound.state.betas
    return item


def masks_of(targets: Sequence[PlanEntry], given: Mapping[str, Any]) -> dict[str, Mask]:
    """Masks by parameter name, from `Mask` objects or bool arrays under any name of a target.

    Raises:
        ArgumentError: No mapping, a name that is not a target's, or one target under two names.
        ShapeError, DTypeError, DeviceError, LayoutError: A mask that does not fit its weight.
    """
    known = {name: entry for entry in targets for name in (entry.name, *entry.aliases)}
    masks: dict[str, Mask] = {}
    if not isinstance(given, Mapping):
        raise ArgumentError(
            f"masks: found {type(given).__name__}; accepted: a mapping from parameter names to Mask objects "
            "or bool arrays, such as Pruner.masks or what load_masks(path) returns"
        )
    for name, value in given.items():
        entry = known.get(name)
        if entry is None:
            raise ArgumentError(
                f"masks: '{name}' is not among the weights that are pruned: {', '.join(known)}"
            )
        if entry.name in masks:
            raise ArgumentError(f"masks: '{name}' and another name give a mask to the same tied parameter")
        masks[entry.name] = as_mask(part_of(value, entry), entry.local_shape, entry.name).called(entry.name)
    return masks


def part_of(value: Any, entry: PlanEntry) -> Any:
    """What this rank holds of a mask of the whole weight: a bool array, a `Mask`, or a DTensor laid out like
    the weight. A mask of this rank's part, and anything that does not fit, is returned as it is.

    Raises:
        LayoutError: A DTensor that is laid out otherwise.
    """
    return mask_of_part(value, entry.shard, entry.local_shape, entry.name)


def element_items(
    optimizer: Optimizers | None, bound: Sequence[Bound], masks: Mapping[str, Mask]
) -> tuple[list[ScoreInputs], list[Mask]]:
    """Per-element optimizer state beyond the moments, as weights to be masked, with the masks."""
    return _items((optimizer or _NO_OPTIMIZERS).element_state, bound, masks)


def companion_items(
    optimizer: Optimizers | None, bound: Sequence[Bound], masks: Mapping[str, Mask]
) -> tuple[list[ScoreInputs], list[Mask]]:
    """The second copies of the weights that the optimizer keeps, as weights to be masked, with the masks."""
    return _items((optimizer or _NO_OPTIMIZERS).companions, bound, masks)


def moment_items(bound: Sequence[Bound], masks: Mapping[str, Mask]) -> tuple[list[ScoreInputs], list[Mask]]:
    """The moments, as weights to be masked, with the masks."""
    kept = {id(one.parameter): {role: one.tensor(role) for role in MOMENTS} for one in bound}

    def present(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        return {role: found for role, found in kept[id(parameter)].items() if found is not None}

    return _items(present, bound, masks)


def _items(
    kept: Callable[[torch.Tensor], Mapping[str, torch.Tensor]],
    bound: Sequence[Bound],
    masks: Mapping[str, Mask],
) -> tuple[list[ScoreInputs], list[Mask]]:
    items, chosen = [], []
    for one in bound:
        if (mask := masks.get(one.entry.name)) is not None:
            for key, tensor in kept(one.parameter).items():
                items.append(ScoreInputs(local(tensor), name=f"{one.entry.name} ({key})"))
                chosen.append(mask)
    return items, chosen


def competitors(
    bound: Sequence[Bound],
    reads: frozenset[str],
    masks: Mapping[str, Mask],
    norms: InputNorms,
    answers: Mapping[str, Any],
    skip: bool,
) -> tuple[list[ScoreInputs], list[str]]:
    """What the scorer reads of each target; and the names of those that lack something, where `skip` allows.

    Raises:
        MissingStateError: The first that lacks something, if not.
    """
    inputs, skipped = [], []
    for one in bound:
        error = missing_reads(one, reads) or norms.missing(one.entry, reads)
        item = score_inputs(one, reads, masks.get(one.entry.name))
        error = error or supply(item, answers.get(one.entry.name))
        if error is None:
            item.input_norm = norms.here(one.entry) if "input_norm" in reads else None
            inputs.append(item)
        elif skip:
            skipped.append(one.entry.name)
        else:
            raise error
    return inputs, skipped


def missing_reads(bound: Bound, reads: frozenset[str]) -> MissingStateError | None:
    """The error to raise if this target lacks something that the scorer reads; None if it has everything."""
    name, state = bound.entry.name, bound.state
    if "grad" in reads and bound.parameter.grad is None:
        return MissingStateError(
            f"parameter '{name}' has no gradient, and the scorer reads it. Call pruner.step() between "
            "backward() and zero_grad(), or leave such parameters dense with missing='skip'"
        )
    lacking: list[str] = [role for role in MOMENTS[:2] if role in reads and getattr(state, role) is None]
    if reads & STEP_READS and not state.step:
        lacking.append("step")
    if not lacking:
        return None
    missing = f"parameter '{name}' has no {', '.join(lacking)} in the optimizer, and the scorer reads it"
    if bound.in_optimizer is None:
        return MissingStateError(f"{missing}: there is no optimizer. Pass it, or use {WITHOUT_STATE}")
    if bound.in_optimizer is False:
        return MissingStateError(
            f"{missing}: it is not in the optimizer now (was it replaced after the optimizer was made?). "
            f"Give it to the optimizer, {_LEAVE}"
        )
    if not state.keys:
        stateless = f", or because {state.owner} keeps none" if state.owner else ""
        return MissingStateError(
            f"{missing}: the optimizer has no state for it, because it has had no gradient in any optimizer "
            f"step yet{stateless}. Begin the schedule after the first optimizer step, {_LEAVE}"
        )
    told = state.reasons or {}
    why = "; ".join(dict.fromkeys(told[role] for role in lacking if role in told))
    kept = f"{', '.join(map(str, state.keys))} for it{f' ({why})' if why else ''}"
    return MissingStateError(
        f"{missing}: {state.owner} keeps {kept}. Use {WITHOUT_STATE}, say with "
        f"bittersweet.register_optimizer(...) which of these it is, {_LEAVE}"
    )


def supply(item: ScoreInputs, answer: Any) -> MissingStateError | None:
    """Puts a tracker's answer into a tensor's inputs, or returns the error that it is; None is no tracker."""
    if isinstance(answer, MissingStateError):
        return answer
    if isinstance(answer, float):
        item.modifier = answer
    elif answer is not None:
        item.scores = answer
    return None
