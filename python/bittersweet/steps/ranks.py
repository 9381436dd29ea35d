"""The ranks that a pruner decides with: who holds what, who leaves what out, and masks that are passed on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..distributed.members import Members, Part
from ..distributed.parts import part_of
from ..distributed.rounds import reported
from ..distributed.shards import Shard
from ..errors import Error
from ..tensors.devices import HOST, Words
from ..tensors.masks import Mask
from ..tensors.packing import words_for
from ..tensors.table import ScoreInputs

if TYPE_CHECKING:
    from ..distributed.collective import Group
    from ..model.plan import PlanEntry
    from ..options.budgets import Schedules

__all__ = ["Ranks"]

_WORDS = 2**21
"""Of masks that ranks add up at once: 16 MiB."""


class Ranks:
    """What a pruner knows of the other ranks.

    Attributes:
        group: The ranks.
        members: The targets of all of them, and who holds which part.
        elsewhere: Names of own targets that other ranks decide about, who keep the optimizer's state of them;
            their masks are passed on.
    """

    def __init__(
        self, members: Members, elsewhere: frozenset[str], aliases: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.group, self.members, self.elsewhere = members.group, members, elsewhere
        told = self.group.gather((sorted(members.parts), sorted(elsewhere), dict(aliases)))
        self._passed_on = any(others for _, others, _ in told)
        self._alike = not self._passed_on and all(names == told[0][0] for names, _, _ in told)
        self._aliases = {name: others for _, _, each in told for name, others in each.items()}

    @classmethod
    def meet(
        cls,
        group: Group,
        entries: Sequence[PlanEntry],
        order: Sequence[str] | None,
        elsewhere: frozenset[str] = frozenset(),
    ) -> Ranks:
        """Collective: unites the targets of all ranks. Errors are those of `Members.meet`."""

        def parts() -> list[Part]:
            return [_part(entry, entry.name in elsewhere) for entry in entries]

        members = Members.meet(group, parts, order)
        return cls(members, elsewhere, {entry.name: entry.aliases for entry in entries})

    def __deepcopy__(self, _: Any) -> Ranks:
        return self

    def __reduce__(self) -> NoReturn:
        raise Error(
            "a Pruner that decides over ranks cannot be pickled: its process group belongs to this process. "
            "Save its state_dict()"
        )

    def competing(self, left_out: Callable[[], Iterable[str]], *, asked: bool = False) -> Members:
        """The members without what this rank, or another, leaves out, which `left_out` says. All ranks are on
        their way to an event: what it raises on one is raised on all.

        Where not all ranks decide about the same targets, they tell each other; elsewhere the first round
        proves that they leave out the same. `asked`: they talk of something else before that round, so that
        they tell each other too.
        """
        if self._alike and not asked:
            with reported(self.group):
                return self.members.without(left_out())
        told = self.group.gathered(lambda: sorted(left_out()))
        return self.members.without(name for names in told for name in names)

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """The targets of all ranks, and their further names."""
        return {name: self._aliases.get(name, ()) for name in self.members.names}

    def groups(self, schedule: Schedules) -> Mapping[str, Sequence[str]]:
        """The targets of all ranks by the globs that they follow. Raises ArgumentError for a glob that meets
        none."""
        return schedule.group(self.aliases()).members

    def dead(self, masks: Mapping[str, Mask], entries: Sequence[PlanEntry], names: Collection[str]) -> int:
        """How many elements of these targets the masks of all ranks prune. Collective."""
        own = {
            (entry.name, _offset(entry)): masks[entry.name].numel - masks[entry.name].kept()
            for entry in entries
            if entry.name in names and entry.name in masks and entry.local_numel
        }
        every = {where: dead for told in self.group.gather(own) for where, dead in told.items()}
        return sum(every.values())

    def pass_on(self, made: Mapping[str, Mask], names: Sequence[str]) -> dict[str, Mask]:
        """The masks of this rank's targets among `names`, which have all been decided about, those too that
        other ranks made. Collective where any rank has targets that others decide about."""
        if not (self._passed_on and names):
            return dict(made)
        device = next((mask.device for mask in made.values()), HOST)
        every = self._added_up([self._bits(name, made.get(name)) for name in names])
        masks = [
            Mask(words, self._shape(name), name, "torch") for name, words in zip(names, every, strict=True)
        ]
        return {**made, **{mask.name: mask.to(device) for mask in masks if mask.name in self.elsewhere}}

    def whole(self, name: str, mask: Mask | None) -> Mask:
        """The mask of a whole target, from what each rank has of it (None: all kept). Collective."""
        return Mask(self._added_up([self._bits(name, mask)])[0], self._shape(name), name, "torch")

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.members.shapes[self.members.index[name]]

    def _bits(self, name: str, mask: Mask | None) -> Words:
        """The words of a whole target's mask, with the bits that this rank counts for."""
        shape, part = self._shape(name), self.members.parts.get(name)
        words = np.zeros(words_for(math.prod(shape)), np.uint64)
        if part is not None and self.members.counts(name):
            if mask is None:
                mask = Mask.full(part.shape, name, "torch")
            if part.shape == shape:
                return mask.to_host()
            bits = np.zeros(shape, np.bool_)
            box = zip(part.shard.offset, part.shape, strict=True)
            bits[tuple(slice(start, start + size) for start, size in box)] = mask.to(HOST).bool()
            words[:] = Mask.from_bool(bits, name).words
        return words

    def _added_up(self, words: Sequence[Words]) -> list[Words]:
        """Over ranks, of which one has each bit."""
        together = np.concatenate(words)
        for start in range(0, len(together), _WORDS):
            self.group.sum_(together[start : start + _WORDS].view(np.int32))
        return np.split(together, np.cumsum([len(each) for each in words])[:-1])


def _offset(entry: PlanEntry) -> tuple[int, ...]:
    return (0,) * len(entry.shape) if entry.shard is None else entry.shard.offset


def _part(entry: PlanEntry, elsewhere: bool) -> Part:
    """What this rank holds of a target; none of it, if another rank decides."""
    shape = entry.local_shape
    shard = entry.shard or Shard(entry.shape, _offset(entry))
    alike = {"dtype": entry.dtype, "axes": tuple(entry.axes)}
    if elsewhere:
        return Part(entry.name, shard, (0,) * len(shape), alike)
    item = ScoreInputs(None, name=entry.name, **entry.axes._asdict(), shard=shard)
    return part_of(item, shape, alike)
