"""The first masks of a sparse start: one event before the first training step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, Error
from ..options.budgets import Schedules
from ..options.scopes import resolve_scope
from ..options.scorers import Scorer, resolve_scorer
from ..options.values import as_fraction
from .competing import Competition
from .firing import fire
from .selecting import InStep

if TYPE_CHECKING:
    from ..select.events import MaskEvent
    from ..training.settings import Settings
    from .loop import Loop

__all__ = ["start"]

_THERE = frozenset(("weight", "grad"))
"""What there can be before an optimizer has stepped."""


def start(loop: Loop, sparsity: Any, scorer: str | Scorer) -> MaskEvent:
    """See `Pruner.start`."""
    loop.require_open()
    if loop.step or loop.keeper.masks:
        found = f"step {loop.step:,}" if loop.step else "a pruner that has masks already"
        raise Error(
            f"start: {found}; it makes the first masks, before the first step() and before load_masks(). A "
            "run that goes on needs none: its masks come with load_state_dict()"
        )
    settings, due = _settings(loop.settings, scorer), _budgets(loop.settings, sparsity)
    competition = Competition(
        loop.model,
        loop.optimizers,
        loop.plan,
        settings,
        loop.norms,
        None,
        loop.keeper,
        loop.watch,
        () if loop.ranks is None else loop.ranks.elsewhere,
    )

    event = fire(
        0,
        due,
        ready=lambda: competition.gather(together="" in due),
        competition=competition,
        in_step=InStep(competition, settings, loop.keeper, possible=False),
        plan=loop.plan,
        settings=settings,
        keeper=loop.keeper,
        watch=loop.watch,
        sync=loop.sync,
        ranks=loop.ranks,
    )
    loop.history.append(event)
    return event


def _settings(settings: Settings, scorer: str | Scorer) -> Settings:
    """Those of the first event: nothing is grown, and another scorer chooses."""
    call = resolve_scorer(scorer, None, settings.seed)
    if lacking := sorted(call.reads - _THERE):
        raise ArgumentError(
            f"scorer: '{call.name}' reads {', '.join(lacking)}, which there is not before training; "
            "accepted: 'random', 'magnitude', and after a backward() 'gradient' and 'taylor'"
        )
    return replace(settings, scorer=scorer, call=call, regrow=False)


def _budgets(settings: Settings, sparsity: Any) -> dict[str, float]:
    """What is to be pruned by glob of the schedule, or of all ("")."""
    if isinstance(settings.schedule, Schedules):
        first = {glob: one.first_sparsity for glob, one in settings.schedule.given.items()}
    elif settings.schedule is not None:
        first = {"": settings.schedule.first_sparsity}
    else:
        first = {"": resolve_scope(settings.scope, "nearest", "error").fixed_sparsity}
    given = None if sparsity is None else as_fraction("sparsity", sparsity)
    wanted = {glob: share if given is None else given for glob, share in first.items()}
    if any(share is None for share in wanted.values()):
        raise ArgumentError(
            "sparsity: None, and no schedule says what it begins with. Pass a share, such as start(0.9)"
        )
    if given is None and not any(wanted.values()):
        raise ArgumentError(
            "sparsity: None, and the schedule begins with 0, so that nothing would be pruned. Pass a share, "
            "such as start(0.9), or begin the schedule with one"
        )
    return {glob: share for glob, share in wanted.items() if share is not None}
