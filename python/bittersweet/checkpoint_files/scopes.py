"""How a budget is met over blocks, by scope: what is read first, and what is zeroed then."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import _core
from ..errors import CheckpointError, Error, NonFiniteScoreError, ShapeError
from ..options.scopes import ScopeCall
from .blocks import Block, Cut, blocks, is_stacked, sample_block
from .choosing import Choice
from .norms import StoredNorms
from .reading import Memory, read_ahead, read_scattered

__all__ = ["ByBlock", "ByTensor", "Globally", "Job", "Strategy", "strategy_for"]

_SAMPLED = 32
Passed = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """What all strategies work on: the chosen tensors in the order of ties, and how they are scored."""

    paths: Sequence[Path]
    choices: Sequence[Choice]
    spec: tuple[Any, ...]
    norms: StoredNorms | None
    sparsity: float
    scope: ScopeCall
    memory: Memory
    passed: Passed

    @property
    def cut(self) -> Cut:
        """Where blocks may end whose scores do not depend on each other."""
        return Cut.ANYWHERE if self.norms is None else Cut.FEATURES

    def of(self, block: Block) -> tuple[int, tuple[int, int, int, bool], Any, str]:
        """A block as the compiled module takes it, after its bytes."""
        norms = None if self.norms is None else self.norms.of(block.tensor)[slice(*block.features)]
        return block.code, block.shape, norms, block.tensor.name

    def read(self, wanted: Iterable[Block]) -> Generator[tuple[Block, memoryview], None, None]:
        with closing(read_ahead(self.paths, wanted, self.memory)) as stream:
            for block, memory in stream:
                yield block, memory
                self.passed(block.nbytes)

    def blocks_of(self, choices: Iterable[Choice], cut: Cut | None = None) -> Iterator[Block]:
        group = int(self.scope.text.partition(":")[2] or 1)
        for choice in choices:
            yield from blocks(choice.tensor, choice.transposed, cut or self.cut, group, self.memory.room)


class Strategy:
    """`prepare` reads what it must, `blocks` is what is then written, each by `write`, all before `finish`,
    and as often as wanted: the same zeros every time.
    """

    reads = 1
    """How often `prepare` is expected to read everything."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.threshold: dict[str, float | None] = {}
        self.counts: dict[str, int] = {}

    @property
    def k(self) -> int:
        """How many elements are to be pruned."""
        return sum(self.planned(choice) or 0 for choice in self.job.choices)

    def planned(self, choice: Choice) -> int | None:
        """How many elements of this tensor are to be pruned; None if that takes a look at the scores."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Raises NonFiniteScoreError before anything is written."""
        raise NotImplementedError

    def blocks(self) -> Iterator[Block]:
        return self.job.blocks_of(self.job.choices)

    def write(self, block: Block, memory: memoryview) -> int:
        """Zeroes the block's pruned elements, and returns how many these are."""
        raise NotImplementedError

    def finish(self, pruned: int) -> None:
        """Raises CheckpointError if the elements were not those that were read before."""


class Globally(Strategy):
    """One threshold over all tensors."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._run = _Run(job, job.choices)

    @property
    def k(self) -> int:
        return int(self._run.core.report()["k"])

    def planned(self, choice: Choice) -> int | None:
        return None

    def prepare(self) -> None:
        self._run.select()
        found = self._run.core.report()
        self.threshold = dict.fromkeys(
            (choice.tensor.name for choice in self.job.choices), found["threshold"]
        )
        self.counts = {key: found[key] for key in ("count_below", "count_equal")}
        self.reads = found["passes"]

    def write(self, block: Block, memory: memoryview) -> int:
        return self._run.core.write(memory, *self.job.of(block))

    def finish(self, pruned: int) -> None:
        self._run.finish()


class ByTensor(Strategy):
    """One threshold a tensor: those that fit a block at once, the others by passes of their own."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._runs: dict[str, _Run] = {}

    def planned(self, choice: Choice) -> int | None:
        return _share(self.job.sparsity * choice.tensor.numel)

    def prepare(self) -> None:
        ranked = [choice for choice in self.job.choices if self.planned(choice)]
        try:
            self._look_and_select(ranked)
        except NonFiniteScoreError:
            _look(replace(self.job, passed=lambda _: None), ranked)  # counts those of all tensors, and raises
            raise

    def _look_and_select(self, ranked: Iterable[Choice]) -> None:
        for large, choices in itertools.groupby(ranked, self._is_large):
            if not large:
                _look(self.job, choices)
                continue
            for choice in choices:
                run = self._runs[choice.tensor.name] = _Run(self.job, [choice])
                run.select()
                self.threshold[choice.tensor.name] = run.core.report()["threshold"]

    def _is_large(self, choice: Choice) -> bool:
        return choice.tensor.nbytes > self.job.memory.room or is_stacked(choice.tensor)

    def write(self, block: Block, memory: memoryview) -> int:
        run = self._runs.get(block.tensor.name)
        if run is not None:
            return run.core.write(memory, *self.job.of(block))
        return _prune_block(self.job, block, memory)

    def finish(self, pruned: int) -> None:
        for run in self._runs.values():
            run.finish()
        _expect(self.k, pruned)


class ByBlock(Strategy):
    """Rows, or N:M groups: each block holds whole ones."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._cut = Cut.ROWS if job.scope.fixed_sparsity is None else Cut.GROUPS
        for choice in job.choices:
            _planned_rows(job, choice)  # raises what N:M does not divide
            next(job.blocks_of([choice], self._cut))  # raises what cannot be cut

    def planned(self, choice: Choice) -> int | None:
        return _planned_rows(self.job, choice)

    def prepare(self) -> None:
        _look(self.job, self.job.choices, Cut.GROUPS if self._cut is Cut.GROUPS else None)

    def blocks(self) -> Iterator[Block]:
        return self.job.blocks_of(self.job.choices, self._cut)

    def write(self, block: Block, memory: memoryview) -> int:
        return _prune_block(self.job, block, memory)

    def finish(self, pruned: int) -> None:
        _expect(self.k, pruned)


def strategy_for(job: Job) -> Strategy:
    match job.scope.text:
        case "global":
            return Globally(job)
        case "tensor":
            return ByTensor(job)
    return ByBlock(job)


class _Run:
    """One selection over some tensors, fed by reading them as often as it asks."""

    def __init__(self, job: Job, choices: Sequence[Choice]) -> None:
        self._job, self._choices = job, choices
        total = sum(choice.tensor.numel for choice in choices)
        self.core = _core.BlockwisePrune(total, job.sparsity, job.spec)

    def select(self) -> None:
        while self.core.stage != "write":
            if self.core.stage == "sample":
                for block, memory in read_scattered(self._job.paths, list(self._samples())):
                    self.core.sample(memory, *self._job.of(block))
            else:
                with closing(self._job.read(self._job.blocks_of(self._choices))) as stream:
                    for block, memory in stream:
                        self.core.count(memory, *self._job.of(block), block.first)
            self.core.next()

    def finish(self) -> None:
        try:
            self.core.finish()
        except Error as error:
            raise CheckpointError(f"the source changed while it was read ({error})") from None

    def _samples(self) -> Iterator[Block]:
        begin, rest = 0, iter(self._choices)
        choice = next(rest)
        for position in self.core.sample_positions():
            while position - begin >= choice.tensor.numel:
                begin += choice.tensor.numel
                choice = next(rest)
            yield sample_block(choice.tensor, choice.transposed, self._job.cut, position - begin, _SAMPLED)


def _look(job: Job, choices: Iterable[Choice], cut: Cut | None = None) -> None:
    """Reads tensors once. NaN raise, after all have been counted; by groups, those that are ranked."""
    watch = _core.NonFiniteWatch()
    scope = job.scope.text if cut is Cut.GROUPS else "tensor"
    with closing(job.read(job.blocks_of(choices, cut))) as stream:
        for block, memory in stream:
            watch.look(memory, *job.of(block), block.first, job.spec, scope)
    watch.raise_if_found()


def _prune_block(job: Job, block: Block, memory: memoryview) -> int:
    scope = job.scope
    return _core.prune_block(
        memory, *job.of(block), job.spec, job.sparsity, scope.text, scope.rounding, scope.remainder
    )


def _share(wanted: float) -> int:
    return math.floor(wanted + 0.5)


def _planned_rows(job: Job, choice: Choice) -> int:
    """How many elements the rows or groups of a tensor give. Raises ShapeError where M does not divide."""
    shape = choice.tensor.shape
    stacked = is_stacked(choice.tensor)
    axes = shape[1:] if stacked else shape
    inputs = axes[0 if choice.transposed else 1]
    inner = 1 if stacked else math.prod(axes[2:])
    rows = choice.tensor.numel // max(inputs * inner, 1)
    if job.scope.fixed_sparsity is None:
        wanted = job.sparsity * (inputs * inner)
        return rows * (_share(wanted) if job.scope.rounding == "nearest" else math.floor(wanted))
    keep, of = map(int, job.scope.text.split(":"))
    if inputs % of and job.scope.remainder == "error":
        raise ShapeError(
            f"scope: '{job.scope.text}' does not divide the {inputs} inputs of '{choice.tensor.name}'. Leave "
            f"it out by exclude, or leave the last {inputs % of} of each row dense by "
            f'scope=bs.NofM({keep}, {of}, remainder="keep")'
        )
    return rows * inner * (inputs // of) * min(_share(job.sparsity * of), of - keep)


def _expect(planned: int, pruned: int) -> None:
    if planned != pruned:
        raise CheckpointError(
            f"{pruned:,} elements were pruned where {planned:,} were to be: the source changed while it was "
            "read"
        )
