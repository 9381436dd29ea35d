"""Drives the rounds of one decision: a vector of int32 is added up over ranks, until there is none.

Whether another round comes, and every error of the decision itself, depends on sums alone, so that all ranks
take the same way. What fails on one rank alone travels as a fault in the next vector; only then, and where
ranks disagree, are texts exchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .. import _core
from ..errors import Error, NonFiniteScoreError, RankFailed, RanksDisagree, ReplicasDiffer
from .collective import Failure, Group, first_failure, listed, on_ranks

__all__ = ["Agreement", "agree", "as_text", "completed", "decide", "digest", "fault", "reported"]

Agreement = Mapping[str, str]
"""What every rank must say alike: values by what they are called, in words that a message can show."""


def as_text(agreement: Agreement) -> str:
    """The text whose equality over ranks the first round proves: lines ``name: value``."""
    return "".join(f"{what}: {json.dumps(value)}\n" for what, value in agreement.items())


def completed(agreement: Agreement, text: str) -> Agreement:
    """What a rank says, and what the compiled module says for it beside that, by the lines of its text."""
    lines = (line.partition(": ") for line in text.splitlines())
    return {**agreement, **{what: value for what, _, value in lines if what not in agreement}}


def digest(values: Any) -> str:
    """A short name for a long value, such as the list of all tensors."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def decide(group: Group, start: Callable[[], tuple[Agreement, Any]]) -> Any:
    """Makes one decision over the ranks of `group`, and returns the report. Collective.

    Args:
        group: The ranks.
        start: Gives what this rank says, and its ``_core.ShardedPrune``, which was given the text of it; or
            raises.

    Raises:
        RanksDisagree: Naming what differs, and on which ranks.
        Error: What `start` raised on this rank, or what another rank raised, in its class.
        NonFiniteScoreError, ReplicasDiffer: As the compiled module found; on all ranks alike.
    """
    raised: BaseException | None = None
    agreement: Agreement = {}
    prune: Any = None
    with _interrupts_kept() as interrupted:
        try:
            agreement, prune = start()
            vector = prune.next()
        except BaseException as error:
            raised, vector = error, _core.fault_vector()
        while vector is not None:
            group.sum_(vector)
            if raised is None:
                raised = KeyboardInterrupt() if interrupted() else None
            else:
                _exchange(group, agreement, raised)
                raise raised
            try:
                vector = prune.next(raised is not None)
            except (RanksDisagree, RankFailed):
                raise _explained(group, agreement) from None
            except (NonFiniteScoreError, ReplicasDiffer):
                raise  # found in sums: the others raise the same
            except BaseException as error:  # of this rank alone, which its last vector said
                _exchange(group, agreement, error)
                raise
        return prune.report()


def agree(group: Group, agreement: Agreement) -> None:
    """Raises RanksDisagree on all ranks unless they say the same. Collective."""
    said = group.gather(dict(agreement))
    if any(texts != said[0] for texts in said):
        raise RanksDisagree(_disagreement(group, said))


def fault(group: Group, error: BaseException) -> None:
    """Tells the other ranks, which are making a decision, that this one cannot. The caller raises `error`."""
    group.sum_(_core.fault_vector())
    _exchange(group, {}, error)


@contextlib.contextmanager
def reported(group: Group | None) -> Iterator[None]:
    """Around what a rank does before a decision: what is raised there is raised on the other ranks too."""
    try:
        yield
    except BaseException as error:
        if group is not None:
            fault(group, error)
        raise


def _exchange(
    group: Group, agreement: Agreement, raised: BaseException | None
) -> list[tuple[Failure | None, Agreement]]:
    return group.gather((None if raised is None else Failure.of(raised), dict(agreement)))


def _explained(group: Group, agreement: Agreement) -> Error:
    """The error of a decision that some rank gave up, or that ranks do not agree about, in words."""
    said = _exchange(group, agreement, None)
    failure = first_failure([failed for failed, _ in said], group.names)
    return failure or RanksDisagree(_disagreement(group, [texts for _, texts in said]))


def _disagreement(group: Group, said: Sequence[Agreement]) -> str:
    """The first thing that ranks say differently."""
    for what in dict.fromkeys(key for texts in said for key in texts):
        holders: dict[str | None, list[int]] = {}
        for name, texts in zip(group.names, said, strict=True):
            holders.setdefault(texts.get(what), []).append(name)
        if len(holders) > 1:
            found = [f"{_shown(value)} {on_ranks(names)}" for value, names in holders.items()]
            return (
                f"ranks disagree about {what}: {'; '.join(found[:4])}"
                f"{f' and {len(found) - 4} more' if len(found) > 4 else ''}. Nothing has been written. Give "
                "all ranks the same, and call together"
            )
    return (
        f"ranks {listed(group.names)} made different sums from equal arguments. Nothing has been written. "
        "Check that all run the same release on the same kind of machine"
    )


def _shown(value: str | None) -> str:
    text = "nothing" if value is None else value
    return text if len(text) <= 80 else f"{text[:70]}... ({digest(text)})"


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C back for as long as ranks depend on each other; gives whether there was one.

    An interrupt that came too late for the others to hear of it is raised at the end.
    """
    count = 0

    def keep(number: int, frame: Any) -> None:
        nonlocal count
        count += 1

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, keep)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if count:
        raise KeyboardInterrupt
