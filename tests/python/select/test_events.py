"""Mask events: the numbers they carry, how they print and travel, and the warnings that come with them."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.select.columns import from_text, to_text
from oracle import BF16, spread


def event_of(**options: Any) -> bs.MaskEvent:
    w = np.abs(spread(1000, 1)).reshape(10, 100)
    v = np.full((10, 100), 1e-4, np.float32)
    v[0, :25] = 0.0
    event = bs.make_masks(
        [bs.ScoreInputs(w, exp_avg_sq=v, name="a"), bs.ScoreInputs(v + 1, exp_avg_sq=v)], **options
    ).event
    assert event is not None
    return event


def test_every_field() -> None:
    event = event_of(sparsity=0.25)
    w = np.abs(spread(1000, 1))
    assert (event.requested_sparsity, event.achieved_sparsity, event.k, event.total, event.pruned) == (
        0.25, 0.25, 500, 2000, 500,
    )  # fmt: skip
    assert event.step is None
    assert event.count_below == 499
    assert event.count_equal == 1
    assert event.churn == 500
    assert event.per_tensor == {"a": 0.5, "tensor1": 0.0}
    assert event.threshold is not None
    assert event.per_tensor_threshold == {"a": event.threshold, "tensor1": event.threshold}
    assert event.empty_rows == 0
    assert event.v_below_eps == event.v_zero == 25 / 1000
    assert (event.selector, event.scorer, event.scope) == ("exact", "bitter7", "global")
    assert (event.nonfinite, event.skipped, event.achieved_sparsity_all, event.standard_error) == (
        0,
        (),
        None,
        None,
    )
    assert event.converged
    assert event.passes > 0
    assert event.milliseconds > 0
    assert event.extra_bytes > 0
    assert w.size == 1000


def test_requested_sparsity_of_a_count() -> None:
    assert event_of(k=100).requested_sparsity == 0.05
    assert event_of(scope="2:4").requested_sparsity == 0.5
    empty = bs.make_masks([], sparsity=0.5, scorer="magnitude").event
    assert empty is not None
    assert (empty.achieved_sparsity, empty.total, empty.per_tensor) == (0.0, 0, {})


def test_what_ranks_decided_together() -> None:
    alone = event_of(sparsity=0.5)
    assert (alone.ranks, alone.rounds, alone.bytes_sent) == (None, None, None)
    assert "ranks" not in str(alone) and not {"ranks", "rounds", "bytes_sent"} & alone.scalars().keys()
    event = dataclasses.replace(alone, ranks=4, rounds=5, bytes_sent=1_234_567, empty_rows=None)
    assert "4 ranks, 5 rounds, 1,234,567 bytes summed" in str(event)
    assert "empty rows uncounted" in str(event) and "uncounted" in str(bs.MaskHistory([event]))
    scalars = event.scalars()
    assert (scalars["ranks"], scalars["rounds"], scalars["bytes_sent"]) == (4, 5, 1_234_567)
    assert "empty_rows" not in scalars
    assert bs.MaskEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event
    assert list(from_text(to_text(bs.MaskHistory([alone, event])))) == [alone, event]


def test_what_was_saved_before_ranks_is_read() -> None:
    event = event_of(sparsity=0.5)
    new = ("ranks", "rounds", "bytes_sent")
    old = {name: value for name, value in event.to_dict().items() if name not in new}
    assert bs.MaskEvent.from_dict(old) == event
    text = json.loads(to_text(bs.MaskHistory([event])))
    for name in new:
        del text["columns"][name]
    assert list(from_text(json.dumps(text))) == [event]


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.3}, {"k": 0}, {"sparsity": 0.3, "scope": "row"},
        {"sparsity": 0.3, "scope": "tensor", "distribution": "erk"},
        {"sparsity": 0.3, "selector": "sampling"}, {"sparsity": 0.3, "selector": "streaming"},
    ],
    ids=str,
)  # fmt: skip
def test_json(options: dict[str, Any], tmp_path: Path) -> None:
    event = event_of(**options)
    text = json.dumps(event.to_dict(), allow_nan=False)
    assert bs.MaskEvent.from_dict(json.loads(text)) == event
    trained = dataclasses.replace(
        event, step=7, skipped=("head",), achieved_sparsity_all=0.2, threshold=-math.inf
    )
    history = bs.MaskHistory([event, trained])
    history.to_jsonl(tmp_path / "events.jsonl")
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
    again = bs.MaskHistory.from_jsonl(tmp_path / "events.jsonl")
    assert again == history
    assert isinstance(again, bs.MaskHistory)
    with pytest.raises(bs.ArgumentError, match="speed"):
        bs.MaskEvent.from_dict({**event.to_dict(), "speed": 1})
    with pytest.raises(bs.ArgumentError, match="total"):
        bs.MaskEvent.from_dict({key: x for key, x in event.to_dict().items() if key != "total"})


def test_text() -> None:
    event = dataclasses.replace(event_of(sparsity=0.25), step=300, skipped=("head",), converged=False)
    text = str(event)
    for part in ("step 300", "0.2500", "500 of 2,000", "bitter7", "churn 500", "head", "not converged"):
        assert part in text
    assert "per group" in str(event_of(sparsity=0.5, scope="row"))
    table = str(bs.MaskHistory([event, dataclasses.replace(event, step=400)])).splitlines()
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1
    assert [line.split()[0] for line in table] == ["step", "-" * len(table[1]), "300", "400"]
    assert str(bs.MaskHistory()) == "no mask events yet"


def test_warns_once_when_eps_swamps_the_second_moment(fresh_warnings: None) -> None:
    w, v = np.abs(spread(1000, 1)), np.full(1000, 1e-12, np.float32)
    v[:400] = 1e-3
    inputs = bs.ScoreInputs(w, exp_avg_sq=v)
    expected = r"60% .* below eps=1e-08: scorer 'bitter7' then ranks like magnitude"
    with pytest.warns(UserWarning, match=expected) as caught:
        event = bs.make_masks(inputs, sparsity=0.5).event
    assert event is not None
    assert event.v_below_eps == 0.6
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bs.make_masks(inputs, sparsity=0.5)  # not again
        bs.make_masks(inputs, sparsity=0.5, scorer=bs.Bitter7(eps=0))
        bs.make_masks(inputs, sparsity=0.5, scorer="magnitude")
        with_momentum = bs.ScoreInputs(w, exp_avg=w, exp_avg_sq=v)
        bs.make_masks(with_momentum, sparsity=0.5, scorer="bitter0")  # its eps stands beside sqrt(v)
    with pytest.warns(UserWarning, match="'bitter8'"):
        bs.make_masks(inputs, sparsity=0.5, scorer="bitter8")


def test_half_of_v_below_eps_is_no_reason_to_warn(fresh_warnings: None) -> None:
    v = np.full(1000, 1e-12, np.float32)
    v[:500] = 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        event = bs.make_masks(bs.ScoreInputs(np.ones(1000, np.float32), exp_avg_sq=v), sparsity=0.5).event
    assert event is not None
    assert event.v_below_eps == 0.5


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_warns_when_float16_lost_the_second_moment(framework: str, fresh_warnings: None) -> None:
    w, v = np.ones(1000, np.float32), np.full(1000, 1e-3, np.float32)
    v[:20] = 1e-9  # 2 % underflow in float16

    def masks(dtype: Any) -> bs.Masks:
        stored: Any = v.astype(dtype)
        if framework == "torch":
            tensor = torch.from_numpy(v).to(
                {np.float16: torch.float16, BF16: torch.bfloat16}.get(dtype, torch.float32)
            )
            return bs.make_masks(bs.ScoreInputs(torch.from_numpy(w), exp_avg_sq=tensor), sparsity=0.5)
        return bs.make_masks(bs.ScoreInputs(w, exp_avg_sq=stored), sparsity=0.5)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks(np.float32)
        masks(BF16)
        zeros = np.where(v < 1e-6, np.float32(0), v)  # nothing that a dtype lost
        bs.make_masks(bs.ScoreInputs(w, exp_avg_sq=zeros), sparsity=0.5)
    with pytest.warns(UserWarning, match="bfloat16"):
        event = masks(np.float16).event
    assert event is not None
    assert event.v_zero == 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks(np.float16)


def test_milliseconds_are_of_the_whole_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from bittersweet import _core

    monkeypatch.setattr(_core, "apply_masks", lambda *_: time.sleep(0.03))
    event = bs.prune_(bs.ScoreInputs(np.ones(10, np.float32)), k=5, scorer="magnitude")
    assert event.milliseconds >= 30


def test_dead_second_moments_are_not_counted(fresh_warnings: None) -> None:
    v = np.zeros(1000, np.float32)
    v[:100] = 1e-3
    mask = np.zeros(1000, bool)
    mask[:100] = True
    inputs = bs.ScoreInputs(np.ones(1000, np.float32), exp_avg_sq=v, mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        event = bs.make_masks(inputs, sparsity=0.95).event
    assert event is not None
    assert (event.v_below_eps, event.v_zero) == (0.0, 0.0)
