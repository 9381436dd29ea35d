"""From the arguments of `Pruner` to a `Loop`: everything that can be refused is refused here."""

from __future__ import annotations

from typing import Any

from ..model.targets import find_targets, lookup, unwrap
from ..optimizers.optimizers import Optimizers
from ..options.values import as_bool
from ..steps.firing import group_targets
from ..steps.loop import Loop
from ..wanda.input_norms import InputNorms
from .remembering import make_tracker
from .settings import Settings

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
    **options: Any,
) -> Loop:
    """Checks the arguments of `Pruner`, chooses the targets, makes a tracker if the scorer has a memory."""
    sync = as_bool("sync", sync)
    model, optimizers, norms = unwrap(model), Optimizers.of(optimizer), InputNorms(input_norms)
    settings = Settings.checked(optimizers, scorer, norms_digest=norms.digest(), **options)
    plan = find_targets(model, optimizers, targets, ignore, settings.describe(optimizers), in_dim=in_dim)
    group_targets(settings.schedule, plan)  # refuses globs that meet nothing
    settings.check_shapes(plan.targets)
    parameters = [lookup(model, entry) for entry in plan.targets]
    settings.check_devices(parameters)
    if settings.schedule is not None and settings.missing == "error":
        optimizers.require_state(settings.call.reads, settings.call.name, parameters)
    norms.check(plan.targets, skip=settings.missing == "skip")
    tracker = None
    if settings.schedule is not None:
        tracker = make_tracker(scorer, settings.seed, model, optimizers, plan.targets)
    return Loop(model, optimizers, plan, settings, norms, tracker, sync)
