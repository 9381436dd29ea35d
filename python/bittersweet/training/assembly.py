"""From the arguments of `Pruner` to a `Loop`: everything that can be refused is refused here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..distributed.collective import Group
from ..errors import ArgumentError
from ..model.gathering import reshard
from ..model.targets import Plan, find_targets, lookup, unwrap
from ..optimizers.optimizers import Optimizers
from ..options.values import as_bool
from ..steps.firing import group_targets
from ..steps.loop import Loop
from ..steps.ranks import Ranks
from ..wanda.input_norms import InputNorms
from .conflicts import check_ranks
from .remembering import make_tracker
from .settings import Settings

if TYPE_CHECKING:
    import torch

    from ..trackers.base import Tracker

__all__ = ["assemble"]


def assemble(
    model: Any,
    optimizer: Any,
    scorer: Any,
    targets: Any,
    ignore: Any,
    in_dim: Any,
    sync: Any,
    input_norms: Any,
    process_group: Any = None,
    order: Any = None,
    shards: Any = None,
    **options: Any,
) -> Loop:
    """Checks the arguments of `Pruner`, chooses the targets, makes a tracker if the scorer has a memory. With
    a group, or DTensors, all ranks do so together, and an error of one is raised on all."""
    model = unwrap(model)
    reshard(model)  # a gathered parameter is none of the optimizer's
    group = Group.of(process_group, model.parameters())
    if group is None and (shards is not None or order is not None):
        raise ArgumentError(
            f"{'order' if shards is None else 'shards'}: given without process_group. Pass the group of the "
            "ranks that decide together, such as torch.distributed.group.WORLD"
        )

    def here() -> _Parts:
        return _parts(
            model, optimizer, scorer, targets, ignore, in_dim, sync, input_norms, shards,
            over_ranks=group is not None, **options,
        )  # fmt: skip

    if group is None:
        return Loop(*here())
    parts = group.together(here)
    entries = parts.plan.targets
    elsewhere = parts.optimizers.kept_elsewhere() if parts.settings.reads_state else set()
    others = {entry.name for entry in entries if id(lookup(model, entry)) in elsewhere}
    ranks = Ranks.meet(group, entries, order, frozenset(others))
    parts = parts._replace(settings=parts.settings.agree(ranks))
    return Loop(*parts, ranks)


class _Parts(NamedTuple):
    """What a `Loop` takes, of this process."""

    model: torch.nn.Module
    optimizers: Optimizers
    plan: Plan
    settings: Settings
    norms: InputNorms
    tracker: Tracker | None
    sync: bool


def _parts(
    model: torch.nn.Module,
    optimizer: Any,
    scorer: Any,
    targets: Any,
    ignore: Any,
    in_dim: Any,
    sync: Any,
    input_norms: Any,
    shards: Any,
    over_ranks: bool,
    **options: Any,
) -> _Parts:
    sync = as_bool("sync", sync)
    optimizers, norms = Optimizers.of(optimizer), InputNorms(input_norms)
    digest = norms.digest()
    settings = Settings.checked(optimizers, scorer, norms_digest=digest, over_ranks=over_ranks, **options)
    described = settings.describe(optimizers)
    plan = find_targets(
        model, optimizers, targets, ignore, described, in_dim=in_dim, over_ranks=over_ranks, shards=shards
    )
    settings.check_shapes(plan.targets)
    parameters = [lookup(model, entry) for entry in plan.targets]
    if settings.schedule is not None and settings.missing == "error":
        optimizers.require_state(settings.call.reads, settings.call.name, parameters, over_ranks=over_ranks)
    norms.check(plan.targets, skip=settings.missing == "skip")
    if over_ranks:
        check_ranks(settings, plan.targets, optimizers)
    else:
        group_targets(settings.schedule, plan)  # refuses globs that meet nothing
        names = {entry.name: entry.aliases for entry in plan.targets}
        settings = settings.among(names, {entry.name: entry.numel for entry in plan.targets})
    tracker = None
    if settings.schedule is not None and plan.targets:
        tracker = make_tracker(scorer, settings.seed, model, optimizers, plan.targets)
    return _Parts(model, optimizers, plan, settings, norms, tracker, sync)
