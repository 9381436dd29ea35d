"""The united list of tensors: its order, what ranks must say alike, what is left out, what scopes need."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet import _core
from bittersweet.distributed.members import Members, Part
from bittersweet.distributed.shards import Shard
from bittersweet.options.scorers import resolve_scorer
from bittersweet.options.selectors import resolve_selector
from simulated_ranks import on_all


def part(
    name: str, shape: tuple[int, ...] = (4, 3), rows: tuple[int, int] | None = None, **said: Any
) -> Part:
    """A tensor, or some of its rows."""
    low, high = rows or (0, shape[0])
    position = said.pop("position", None)
    whole = Shard(shape, (low,) + (0,) * (len(shape) - 1), position)
    alike = {key: said.pop(key) for key in ("dtype", "step") if key in said}
    return Part(name, whole, (high - low, *shape[1:]), alike, **said)


def meet(ranks: Sequence[Sequence[Part]], order: Any = None) -> list[Any]:
    """What every rank finds, or raises."""
    return on_all(len(ranks), lambda group: Members.meet(group, lambda: ranks[group.rank], order))[0]


def alike(found: list[Any]) -> Any:
    """What all ranks found, of which each must have the same."""
    for one in found:
        if isinstance(one, BaseException):
            raise one
    assert len({(tuple(one.names), one.skipped) for one in found}) == 1
    return found[0]


def test_the_order_is_that_of_first_appearance() -> None:
    ranks = [
        [part("b", rows=(0, 2)), part("a", rows=(0, 1))],
        [part("c", (2,)), part("a", rows=(1, 4)), part("b", rows=(2, 4))],
        [],
    ]
    found = alike(meet(ranks))
    assert found.names == ["b", "a", "c"] and found.shapes == [(4, 3), (4, 3), (2,)]
    assert found.numels == [12, 12, 2] and found.index == {"b": 0, "a": 1, "c": 2}
    assert [one.parts.keys() for one in meet(ranks)] == [{"b", "a"}, {"c", "a", "b"}, set()]


def test_positions_and_order_say_it_otherwise() -> None:
    ranks = [[part("b", position=7), part("a", position=9)], [part("c", position=2), part("a", position=9)]]
    assert alike(meet(ranks)).names == ["c", "b", "a"]
    ranks = [[part("b"), part("a")], [part("c"), part("a")]]
    assert alike(meet(ranks, ["a", "none", "c", "b"])).names == ["a", "c", "b"]


def test_the_first_holder_counts() -> None:
    ranks = [
        [part("a", rows=(2, 4)), part("b")],
        [part("a", rows=(0, 2)), part("b")],
        [part("a", rows=(0, 2)), part("b", rows=(4, 4))],
    ]
    found = meet(ranks)
    assert [one.counts("a") for one in found] == [True, True, False]
    assert [one.counts("b") for one in found] == [True, False, False]
    assert [one.holders("a") for one in found] == [[0], [1, 2], [1, 2]]
    assert [one.holders("b") for one in found] == [[0, 1], [0, 1], []]


SAID = [
    (
        [[part("a")], [part("a", (4, 5))]],
        None,
        bs.ShapeError,
        r"'a' has shape \(4, 3\) on rank 0 and \(4, 5\) on rank 1.*names of their own.*Shard",
    ),
    (
        [[part("b")], [part("a", dtype="float32")], [part("a", dtype="bfloat16")]],
        None,
        bs.DTypeError,
        "dtype of 'a' is float32 on rank 1 and bfloat16 on rank 2",
    ),
    (
        [[part("a", step=3)], [part("a", step=4)]],
        None,
        bs.RanksDisagree,
        "step of 'a' is 3 on rank 0 and 4",
    ),
    ([[part("a", step=3)], [part("a")]], None, bs.RanksDisagree, "step of 'a' is 3 on rank 0 and None on"),
    (
        [[part("a", position=1)], [part("a", position=2)]],
        None,
        bs.RanksDisagree,
        "position of 'a' is 1",
    ),
    ([[part("a", position=1)], [part("b")]], None, bs.ArgumentError, "'a' has a position and 'b' has none"),
    (
        [[part("a", position=1)], [part("b", position=1)]],
        None,
        bs.ArgumentError,
        "both have position 1",
    ),
    ([[part("a", position=1)], []], ["a"], bs.ArgumentError, "order: given beside the position of 'a'"),
    ([[part("a")], [part("b")]], ["a"], bs.ArgumentError, "order: it lacks 'b', which a rank holds"),
    ([[part("a")], []], ["a", "b", "a"], bs.ArgumentError, "order: 'a' is named twice"),
    (
        [[part("a", skipped="no gradient")], [part("a")]],
        None,
        bs.RanksDisagree,
        r"ranks disagree about 'a': it is left out on rank 0 \(no gradient\) and not on rank 1",
    ),
    (
        [[part("a", rows=(0, 2))], [part("a", rows=(1, 4))]],
        None,
        bs.ShapeError,
        "ranks 0 and 1 hold overlapping parts of 'a'",
    ),
    (
        [[part("a", rows=(0, 2))], [part("a", rows=(3, 4))]],
        None,
        bs.ShapeError,
        "shard: no rank holds its .* 6 on, of 'a'",
    ),
    ([[part("a", rows=(0, 0))], [part("a", rows=(4, 4))]], None, bs.ShapeError, "no rank holds .*'a'"),
]


@pytest.mark.parametrize("ranks, order, error, said", SAID)
def test_what_ranks_say_differently_is_raised_on_all(
    ranks: Any, order: Any, error: type[Exception], said: str
) -> None:
    found = meet(ranks, order)
    assert {type(one) for one in found} == {error}
    assert len({str(one) for one in found}) == 1
    with pytest.raises(error, match=said):
        raise found[0]


def test_different_orders_are_noticed() -> None:
    found = on_all(2, lambda group: Members.meet(group, lambda: [part("a")], ["a"] if group.rank else None))[
        0
    ]
    assert {type(one) for one in found} == {bs.RanksDisagree} and "ranks 0 and 1" in str(found[0])


@pytest.mark.parametrize("error", [bs.MissingStateError("none"), MemoryError("full"), KeyboardInterrupt()])
def test_what_one_rank_raises_is_raised_on_all(error: BaseException) -> None:
    def parts(rank: int) -> list[Part]:
        if rank == 2:
            raise error
        return [part("a")]

    found, meeting = on_all(4, lambda group: Members.meet(group, lambda: parts(group.rank)))
    assert found[2] is error
    others = [found[0], found[1], found[3]]
    known = isinstance(error, bs.Error)
    assert {type(one) for one in others} == {type(error) if known else bs.RankFailed}
    assert all("on rank 2: " in str(one) and str(error) in str(one) for one in others)
    assert meeting.exchanges == 1


def test_a_tensor_that_all_leave_out_does_not_compete() -> None:
    ranks = [
        [part("a", rows=(0, 4), skipped="no gradient"), part("b", rows=(0, 2))],
        [part("a", rows=(4, 4)), part("b", rows=(2, 4))],
    ]
    found = alike(meet(ranks))
    assert found.names == ["b"] and found.skipped == ("a",)
    again = [one.without(["a"]) for one in meet(ranks)]
    assert all(one.names == ["b"] for one in again)


def test_members_without_some_need_no_words() -> None:
    ranks = [[part("a", rows=(0, 2)), part("b")], [part("a", rows=(2, 4)), part("c")]]

    def work(group: Any) -> Any:
        members = Members.meet(group, lambda: ranks[group.rank])
        before = group.meeting.exchanges
        less = members.without(["a", "c"])
        assert members.without([]) is members and group.meeting.exchanges == before
        return less

    found = on_all(2, work)[0]
    assert [one.names for one in found] == [["b"], ["b"]] and found[0].skipped == ("a", "c")
    assert [one.counts("b") for one in found] == [True, False]


def test_empty_tensors_and_empty_ranks() -> None:
    found = alike(meet([[part("a", (0, 3))], [], [part("a", (0, 3)), part("b", (1,))]]))
    assert found.names == ["a", "b"] and found.numels == [0, 1]


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]])
def test_options_are_checked_with_a_name_for_each_tensor(names: list[str]) -> None:
    box = [*[0] * 8, 2, 2, *[0] * 6]
    map = _core.ShardMap([[2, 2], [2, 2]], array("q", [0, 0, *box, 1, 0, *box]), 1)
    call = resolve_scorer("magnitude", None, 0)
    options: dict[str, Any] = dict.fromkeys(
        ("k", "distribution", "max_tensor_sparsity", "tensor_sparsity", "ties")
    )
    options |= {"sparsity": 0.5, "scope": "global", "rounding": "nearest", "remainder": "error"}
    options |= {"nonfinite": "error", "seed": 0, "regrow": False}
    with pytest.raises(bs.ShapeError, match=f"names: {len(names)} for 2 tensors"):
        _core.check_over_ranks(map, names, call.spec, resolve_selector("exact"), **options)


def test_zeros_of_other_tensors_under_one_name_are_refused() -> None:
    shapes = [(4, 4), (4,)]
    found, _ = on_all(2, lambda group: bs.sparsity({"w": np.zeros(shapes[group.rank])}, process_group=group))
    for error in found:
        assert type(error) is bs.ShapeError
        assert "'w' has shape (4,) and (4, 4) on different ranks" in str(error)
