"""The weights of a model that a one-shot function works on, with what the scorer reads of each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from ..distributed.collective import Group
from ..errors import ArgumentError, MissingStateError
from ..model.binding import Bound, bind, companion_items, masks_of, missing_reads, score_inputs
from ..model.gathering import reshard
from ..model.targets import Plan, find_targets, unwrap
from ..optimizers.optimizers import Optimizers
from ..options.scorers import TRACKED, Scorer, resolve_scorer
from ..options.values import one_of
from ..steps.ranks import Ranks
from ..tensors import devices
from ..tensors.mask_list import Masks
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs, Table
from ..wanda.input_norms import InputNorms

if TYPE_CHECKING:
    import torch

    from ..distributed.members import Members

_STATE = frozenset(("exp_avg", "exp_avg_sq", "step", "bias_correction1"))

__all__ = ["Given", "ModelWeights", "gather", "is_module"]


@dataclass(frozen=True)
class Given:
    """What a caller says about a model, beside the options that tensors have too. See `pruning.prune_`."""

    optimizer: Any = None
    targets: Any = None
    ignore: Any = None
    masks: Any = None
    input_norms: Any = None
    in_dim: Any = None
    missing: str = "error"

    def refuse(self) -> None:
        """Raises ArgumentError if anything is said: there is no model."""
        for argument in ("optimizer", "targets", "ignore", "masks", "input_norms", "in_dim"):
            if getattr(self, argument) is not None:
                raise ArgumentError(
                    f"{argument}: given beside ScoreInputs; it belongs to a module. Put the tensors of each "
                    "weight into its ScoreInputs, or pass the module"
                )
        one_of("missing", self.missing, ("error",))


@dataclass(frozen=True)
class ModelWeights:
    """Every target (`bound`), its current mask if it has one, and those that compete (`items`) or lack
    something (`skipped`); and, where several ranks decide together, those, and who competes over them."""

    model: torch.nn.Module
    optimizers: Optimizers
    plan: Plan
    scorer: str | Scorer
    items: list[ScoreInputs]
    bound: list[Bound]
    masks: dict[str, Mask]
    skipped: tuple[str, ...]
    ranks: Ranks | None = None
    members: Members | None = None

    def written(
        self, masks: Mapping[str, Mask], roles: Sequence[str]
    ) -> tuple[list[ScoreInputs], list[Mask]]:
        """What is zeroed under `masks`, and the mask of each: these `roles`, and copies that the optimizers
        write back into the weights."""
        entries = [entry for entry in self.plan.targets if entry.name in masks]
        ordered = {entry.name: masks[entry.name] for entry in entries}
        bound = bind(self.model, self.optimizers, entries)
        copies, chosen = companion_items(self.optimizers, bound, ordered)
        return [*(one.inputs(roles) for one in bound), *copies], [*ordered.values(), *chosen]

    def rehearse(self, roles: Sequence[str]) -> None:
        """Raises what would keep these roles of what is pruned from being written, before a rank decides."""
        names = {*self.masks, *(item.name for item in self.items)}
        entries = [entry for entry in self.plan.targets if entry.name in names]
        bound = bind(self.model, self.optimizers, entries)
        Table([one.inputs(roles) for one in bound], writes=roles)

    @property
    def group(self) -> Group | None:
        return None if self.ranks is None else self.ranks.group

    @property
    def place(self) -> torch.device | None:
        return self.bound[0].parameter.device if self.bound else None

    @property
    def numel(self) -> int:
        if self.ranks is not None:
            return sum(self.ranks.members.numels)
        return sum(entry.numel for entry in self.plan.targets)


def is_module(inputs: Any) -> TypeGuard[torch.nn.Module]:
    """Whether this is a torch module; False for what the tensor functions take.

    Raises:
        ArgumentError: It is neither, but something that people have at hand; the message says what to do.
    """
    torch = sys.modules.get("torch")  # what has made a module has loaded it
    if torch is not None and isinstance(inputs, torch.nn.Module):
        return True
    found = type(inputs).__name__
    accepted = "accepted: a torch module, a ScoreInputs or a list of them"
    if isinstance(inputs, Mapping):
        raise ArgumentError(
            f"inputs: a mapping ({found}); {accepted}. Load a state dict into its model first, or wrap what "
            "is to be pruned: [ScoreInputs(w, name=n) for n, w in state.items() if w.ndim > 1]"
        )
    if hasattr(inputs, "param_groups"):
        raise ArgumentError(
            f"inputs: an optimizer ({found}); {accepted}. Pass the model, and optimizer= beside it"
        )
    if hasattr(inputs, "__next__"):
        raise ArgumentError(
            f"inputs: an iterator ({found}), such as model.parameters(); {accepted}. Pass the model itself"
        )
    if hasattr(inputs, "shape") and hasattr(inputs, "dtype"):
        raise ArgumentError(f"inputs: a bare tensor ({found}); {accepted}. Wrap it: ScoreInputs(weight)")
    if isinstance(inputs, (str, bytes)) or hasattr(inputs, "__fspath__"):
        raise ArgumentError(f"inputs: a path or a name ({found}); {accepted}. Load the model first")
    return False


def gather(
    model: torch.nn.Module,
    given: Given,
    scorer: str | Scorer | None,
    eps: Any,
    seed: int,
    process_group: Any = None,
) -> ModelWeights:
    """Finds the targets of a model, and what `scorer` reads of each. Weights that fully_shard has gathered
    are put back into their shards. Collective where ranks decide together: what is wrong on one is raised on
    all.

    Raises:
        ArgumentError: A bad option, a pattern or a mask without a target, nothing to prune, or a scorer that
            reads what a model at one moment does not have.
        MissingStateError: A target lacks what the scorer reads, under ``missing="error"``; or all do.
    """
    group = Group.of(process_group, model.parameters())
    if group is None:
        return _gather(model, given, scorer, eps, seed, False)

    def here() -> ModelWeights:
        reshard(model)
        return _gather(model, given, scorer, eps, seed, True)

    found = group.together(here)
    ranks = Ranks.meet(group, found.plan.targets, None)
    members = ranks.competing(lambda: found.skipped)
    if not members.names:
        raise MissingStateError(
            f"missing: all {len(ranks.members.names)} targets lack what the scorer reads, so that nothing "
            "can be pruned. Choose a scorer that does without"
        )
    left_out = tuple(name for name in ranks.members.names if name not in members.index)
    items = [item for item in found.items if item.name in members.index]
    return replace(found, items=items, skipped=left_out, ranks=ranks, members=members)


def _gather(
    model: torch.nn.Module, given: Given, scorer: str | Scorer | None, eps: Any, seed: int, over_ranks: bool
) -> ModelWeights:
    one_of("missing", given.missing, ("error", "skip"))
    optimizers = Optimizers.of(given.optimizer)
    scorer = scorer if scorer is not None else "bitter7" if optimizers else "magnitude"
    reads = _checked_reads(scorer, eps, seed, bool(optimizers), given.input_norms is not None)
    norms = InputNorms(given.input_norms)
    root = unwrap(model)
    plan = find_targets(
        model, optimizers, given.targets, given.ignore, in_dim=given.in_dim, frozen=not optimizers,
        over_ranks=over_ranks,
    )  # fmt: skip
    bound = bind(root, optimizers, plan.targets, reads)
    if given.missing == "error":
        name = resolve_scorer(scorer, eps, seed).name
        optimizers.require_state(reads, name, [one.parameter for one in bound])
    masks = _masks(given.masks, plan, bound)
    norms.check(plan.targets, skip=given.missing == "skip")
    items, skipped = [], []
    for one in bound:
        error = _missing(one, reads) or norms.missing(one.entry, reads)
        if error is not None and given.missing == "error":
            raise error
        if error is not None:
            skipped.append(one.entry.name)
            continue
        item = score_inputs(one, reads, masks.get(one.entry.name))
        item.input_norm = norms.here(one.entry) if "input_norm" in reads else None
        items.append(item)
    if not items and not over_ranks:
        raise MissingStateError(
            f"missing: every target lacks what the scorer reads, so that nothing can be pruned. For example: "
            f"{_missing(bound[0], reads) or norms.missing(bound[0].entry, reads)}"
        )
    return ModelWeights(root, optimizers, plan, scorer, items, bound, masks, tuple(skipped))


def _checked_reads(
    scorer: str | Scorer, eps: Any, seed: int, has_optimizer: bool, has_norms: bool
) -> frozenset[str]:
    call = resolve_scorer(scorer, eps, seed)
    if call.name in TRACKED:
        raise ArgumentError(
            f"scorer: '{call.name}' follows a whole training, which a single call has not seen. Use it in a "
            "Pruner"
        )
    if "scores" in call.reads:
        raise ArgumentError(
            f"scorer: '{call.name}' reads scores of your own. Pass ScoreInputs(weight, scores=...) for each "
            "weight"
        )
    if "input_norm" in call.reads and not has_norms:
        raise ArgumentError(
            f"scorer: '{call.name}' reads the norms of its inputs. Pass "
            "input_norms=Calibrator(model).run(batches).norms"
        )
    if has_norms and "input_norm" not in call.reads:
        raise ArgumentError(f"input_norms: given, and scorer '{call.name}' does not read them")
    state = sorted(call.reads & _STATE)
    if state and not has_optimizer:
        raise ArgumentError(
            f"optimizer: None, and scorer '{call.name}' reads {', '.join(state)} of it. Pass the optimizer "
            "that trained the model, or choose a scorer that does without (magnitude, wanda, gradient, "
            "taylor, random)"
        )
    return call.reads


def _missing(one: Bound, reads: frozenset[str]) -> MissingStateError | None:
    name, state = one.entry.name, one.state
    if "grad" in reads and one.parameter.grad is None:
        return MissingStateError(
            f"parameter '{name}' has no gradient, and the scorer reads it. Call backward() first, or leave "
            "such parameters dense with missing='skip'"
        )
    if state.keys or one.in_optimizer is False:
        return missing_reads(one, reads)
    lacking = sorted(key for key in reads & _STATE if not getattr(state, key, None))
    if not lacking:
        return None
    return MissingStateError(
        f"parameter '{name}' has no {', '.join(lacking)} in the optimizer, which has taken no step with its "
        "gradient yet, and the scorer reads it. Choose a scorer that does without (scorer='magnitude'), or "
        "leave such parameters dense with missing='skip'"
    )


def _masks(given: Any, plan: Plan, bound: list[Bound]) -> dict[str, Mask]:
    """The current masks, each where its weight is."""
    if given is None:
        return {}
    if isinstance(given, Masks):
        given = {mask.name: mask for mask in given}
    if not isinstance(given, Mapping):
        raise ArgumentError(
            f"masks: found {type(given).__name__}; accepted: a mapping from parameter names to masks, such "
            "as pruner.masks, or what load_masks returns"
        )
    places = {one.entry.name: devices.runtime.index_of(one.parameter) for one in bound}
    return {name: mask.to(places[name]) for name, mask in masks_of(plan.targets, given).items()}
