"""Who competes at an event, with a table of what the scorer reads of them: checked in full, or as before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..distributed.shards import local
from ..errors import MissingStateError
from ..model.binding import Bound, bind, competitors
from ..model.targets import follow
from ..tensors import devices
from ..tensors.repeating import Repeat
from ..tensors.table import ScoreInputs, Table
from ..tensors.trails import Trail
from .watching import left_alone

if TYPE_CHECKING:
    import torch

    from ..model.targets import Plan
    from ..optimizers.optimizers import Optimizers
    from ..trackers.base import Tracker
    from ..training.settings import Settings
    from ..wanda.input_norms import InputNorms
    from .keeping import Keeper
    from .watching import Watch

__all__ = ["Competition", "Competitors", "unscorable"]

_ROLES = ("weight", "exp_avg", "exp_avg_sq", "grad")


@dataclass
class Competitors:
    """What competes now, with a checked table of it where there is one; and who is left out."""

    inputs: Sequence[ScoreInputs]
    skipped: Sequence[str]
    table: Table | None = None


@dataclass(frozen=True)
class _Kept:
    """The competitors of the event before, all targets, and the way to their tensors."""

    bound: Sequence[Bound]
    roles: tuple[str, ...]
    trail: Trail
    repeat: Repeat


class Competition:
    """Gathers the competitors of one event after the other.

    Args:
        model, optimizers, plan, settings, norms, tracker, keeper, watch: Those of the pruner.
        elsewhere: Names of targets that other ranks decide about.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Optimizers,
        plan: Plan,
        settings: Settings,
        norms: InputNorms,
        tracker: Tracker | None,
        keeper: Keeper,
        watch: Watch,
        elsewhere: Collection[str] = (),
    ) -> None:
        self._model, self._optimizers, self._plan, self._settings = model, optimizers, plan, settings
        self._norms, self._tracker, self._keeper, self._watch = norms, tracker, keeper, watch
        self._entries = [entry for entry in plan.targets if entry.name not in elsewhere]
        self._kept: _Kept | None = None
        self._bound: Sequence[Bound] = ()

    @property
    def parameters(self) -> list[torch.Tensor]:
        """Of the table that was gathered last, row by row."""
        return [one.parameter for one in self._bound]

    def tensors(self) -> list[torch.Tensor]:
        """What the scorer reads of them."""
        roles = [role for role in _ROLES if role in self._settings.reads]
        return [tensor for tensor in _tensors(self._bound, roles) if tensor is not None]

    def gather(self, together: bool) -> Competitors:
        """The competitors of now; with a table if they compete `together` and that is all that is needed.

        Raises:
            Error, ShapeError, MissingStateError: See `bind` and `competitors`.
        """
        if together and (table := self._again()) is not None:
            return Competitors((), (), table)
        self._kept = None
        reads, skip = self._settings.reads, self._settings.missing == "skip"
        answers = {} if self._tracker is None else self._tracker.answers()
        bound = bind(self._model, self._optimizers, self._entries, reads)
        alone = left_alone(self._plan, bound, self._model, self._optimizers, reads, self._watch)
        bound = [one for one in bound if one.entry.name not in alone]
        inputs, skipped = competitors(bound, reads, self._keeper.masks, self._norms, answers, skip)
        found = Competitors(inputs, [*skipped, *alone])
        if together and not found.skipped and self._tracker is None and reads <= set(_ROLES):
            found.table = Table(inputs, self._settings.call._replace(reads=reads))
            self._bound = bound
        return found

    def remember(self, found: Competitors) -> None:
        """To be called when the event has been made from the table of `found`."""
        table = found.table
        if table is None or table.device != devices.HOST:
            return
        if self._kept is None and not found.skipped:
            roles = tuple(role for role in _ROLES if role in self._settings.reads)
            trail = Trail()
            follow(trail, self._model, [one.entry for one in self._bound])
            if set(roles) - {"weight", "grad"}:
                self._optimizers.follow(trail, [one.parameter for one in self._bound])
            repeat = Repeat.of(table, _tensors(self._bound, roles), roles)
            if repeat is not None:
                self._kept = _Kept(self._bound, roles, trail, repeat)
        table.current = []

    def _again(self) -> Table | None:
        kept, optimizers = self._kept, self._optimizers
        if kept is None or not kept.trail.holds():
            return None
        reads = self._settings.reads
        if left_alone(self._plan, kept.bound, self._model, optimizers, reads, self._watch):
            return None
        if not kept.repeat.update(_tensors(kept.bound, kept.roles)):
            return None
        masks = self._keeper.masks
        self._bound = kept.bound
        kept.repeat.table.compete([masks.get(name) for name in kept.repeat.table.names])
        return kept.repeat.table


def _tensors(bound: Sequence[Bound], roles: Sequence[str]) -> list[torch.Tensor | None]:
    return [local(one.tensor(role)) for one in bound for role in roles]


def unscorable(step: int, skipped: Sequence[str], settings: Settings, targets: int) -> MissingStateError:
    """The error of an event for which nothing is left to compete."""
    return MissingStateError(
        f"step {step}: not one of the {targets} targets can be scored by '{settings.call.name}' "
        f"({_first(skipped)} lack what it reads, or are frozen by now). Choose a scorer that does without "
        "(magnitude), or begin the schedule after the first optimizer step"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
