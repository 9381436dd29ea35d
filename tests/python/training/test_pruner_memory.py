"""The pruner with scorers that have a memory: what it feeds them, when, and what it saves."""

from __future__ import annotations

import copy
import io
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import notices
from pruner_support import adamw, backward, facts, mlp, train, unchanged
from torch import nn

RAMP = bs.Linear(0.2, 0.6, begin_step=4, end_step=12, frequency=4)  # due on steps 4, 8 and 12
SCORERS = [
    "bitter10",
    "bitter10s",
    "bitter10c",
    "movement",
    bs.Bitter10(a=0.5, c=0.25, decay=0.5),
    bs.Bitter10s(seed=5, floor=0.2),
    bs.Bitter10c(every=3),
    bs.Movement(),
    bs.Bitter10(storage="bfloat16"),
    bs.Bitter10c(every=3, storage="bfloat16"),
    bs.Movement(storage="bfloat16"),
]


def make(scorer: Any, **options: Any) -> tuple[nn.Sequential, torch.optim.AdamW, bs.Pruner]:
    model = mlp()
    optimizer = adamw(model)
    return model, optimizer, bs.Pruner(model, optimizer, scorer=scorer, schedule=RAMP, **options)


def state_of(pruner: bs.Pruner) -> dict[str, Any]:
    state: dict[str, Any] = pruner.state_dict()["tracker"]
    return state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("scorer", SCORERS)
def test_masks_are_those_of_a_tracker_alone(scorer: Any) -> None:
    """The pruner's event equals make_masks with what a tracker of one's own says at that moment."""
    model, optimizer, pruner = make(scorer)
    name = scorer if isinstance(scorer, str) else scorer.name
    given = (
        {} if isinstance(scorer, str) else {k: v for k, v in vars(scorer).items() if k not in ("eps", "path")}
    )
    own = {
        "bitter10": bs.CoherenceTracker,
        "bitter10s": bs.SketchTracker,
        "bitter10c": bs.SnapshotTracker,
        "movement": bs.MovementTracker,
    }[name](model, optimizer, **given)
    for step in range(1, 13):
        backward(model, step)
        optimizer.step()
        if name != "movement":
            own.update(step, pruner.masks)
        expected = None
        if RAMP(step)[0]:
            answers = own.scores() if name == "movement" else own.modifiers()
            items = [
                bs.ScoreInputs(
                    model.get_parameter(key).detach().clone(),
                    exp_avg=optimizer.state[model.get_parameter(key)]["exp_avg"].clone(),
                    name=key,
                    mask=pruner.masks[key],
                    **{"scores" if name == "movement" else "modifier": answers[key]},
                )
                for key in own.names
            ]
            expected = bs.make_masks(items, sparsity=RAMP(step)[1], scorer=name)
        event = pruner.step()
        optimizer.zero_grad()
        assert (event is None) is (expected is None)
        if expected is not None and event is not None and expected.event is not None:
            assert event.threshold == expected.event.threshold
            assert event.scorer == name
            assert all(torch.equal(pruner.masks[m.name], m.bool()) for m in expected)


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("scorer", SCORERS)
def test_resume_equals_the_uninterrupted_run(scorer: Any, regrow: bool, hold: str) -> None:
    model, optimizer, pruner = make(scorer, regrow=regrow, hold=hold)
    train(model, optimizer, pruner, 6)
    file = io.BytesIO()
    torch.save([x.state_dict() for x in (model, optimizer, pruner)], file)
    train(model, optimizer, pruner, 8, first=7)

    again, other, resumed = make(scorer, regrow=regrow, hold=hold)
    file.seek(0)
    for x, state in zip((again, other, resumed), torch.load(file, weights_only=True), strict=True):
        x.load_state_dict(state)
    train(again, other, resumed, 8, first=7)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert [facts(event) for event in pruner.history] == [facts(event) for event in resumed.history]
    assert equal(state_of(pruner), state_of(resumed))


@pytest.mark.parametrize("scorer", ["bitter10", "bitter10c"])
def test_masking_does_not_look_like_a_step(scorer: str) -> None:
    """Weights that an event zeroes, or that hold zeroes again, are seen by no difference."""
    model, optimizer, pruner = make(scorer)
    tracker = pruner.tracker
    assert tracker is not None
    train(model, optimizer, pruner, 4)
    before = {name: model.get_parameter(name).detach().clone() for name in tracker.names}
    optimizer.param_groups[0]["lr"] = 0.0  # nothing moves any more but by masks
    optimizer.param_groups[0]["weight_decay"] = 0.0
    kept = copy.deepcopy(state_of(pruner))
    train(model, optimizer, pruner, 5, first=5)  # with an event on step 8
    assert pruner.history[-1].step == 8
    assert any(not torch.equal(before[name], model.get_parameter(name)) for name in before)
    if scorer == "bitter10":
        for name, tensors in state_of(pruner)["tensors"].items():
            # Flip and direction keep what they had: nothing has moved.
            assert float(tensors["scalars"][0]) == 9.0
            live = pruner.masks[name].reshape(-1)
            assert torch.equal(tensors["previous"][live], kept["tensors"][name]["previous"][live])
            assert torch.equal(tensors["scalars"][1:5], kept["tensors"][name]["scalars"][1:5])


def test_skipped_steps_are_no_updates() -> None:
    model, optimizer, pruner = make("bitter10")
    train(model, optimizer, pruner, 3)
    before = copy.deepcopy(state_of(pruner))
    pruner.step(skipped=True)
    assert equal(before, state_of(pruner))
    assert pruner.state_dict()["step"] == 4


def test_a_failed_event_can_be_tried_again_and_counts_the_step_once() -> None:
    model, optimizer, pruner = make("bitter10")
    train(model, optimizer, pruner, 3)
    backward(model, 4)
    optimizer.step()
    with torch.no_grad():
        saved = float(model[0].weight[0, 0])
        model[0].weight[0, 0] = float("nan")
    with unchanged(model, optimizer), pytest.raises(bs.NonFiniteScoreError):
        pruner.step()
    with torch.no_grad():
        model[0].weight[0, 0] = saved
    assert pruner.step() is not None
    assert float(state_of(pruner)["tensors"]["2.weight"]["scalars"][0]) == 4.0


def test_attached() -> None:
    model, optimizer, pruner = make("bitter10s")
    pruner.attach()
    for step in range(1, 14):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    by_hand = make("bitter10s")
    train(*by_hand, 13)
    assert equal(state_of(pruner), state_of(by_hand[2]))


@pytest.mark.parametrize("scorer", ["bitter10s", "movement"])
def test_gradient_accumulation_is_one_step(scorer: str) -> None:
    """Micro-batches before one optimizer step: the tracker sees the sum, once."""
    found = []
    for parts in (1, 3):
        model, optimizer, pruner = make(scorer)
        for step in range(1, 6):
            for _ in range(parts):
                backward(model, step)
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(parts)
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        tensors = state_of(pruner)["tensors"]["0.weight"]
        found.append(tensors["scalars" if scorer == "bitter10s" else "updates"])
        assert float(found[-1][0]) == 5.0
    assert torch.allclose(found[0].double(), found[1].double(), rtol=0.2)


def test_the_report_says_what_is_kept() -> None:
    model, optimizer, pruner = make("bitter10")
    train(model, optimizer, pruner, 4)
    assert pruner.tracker is not None
    assert f"bitter10 keeps {pruner.tracker.nbytes:,} bytes of 3 tensors" in str(pruner.report())
    assert pruner.tracker.milliseconds > 0.0
    assert make("bitter3")[2].tracker is None


def test_movement_ends_with_finalize() -> None:
    model, optimizer, pruner = make("movement")
    train(model, optimizer, pruner, 5)
    pruner.finalize()
    before = copy.deepcopy(state_of(pruner))
    backward(model, 6)
    optimizer.step()
    assert equal(before, state_of(pruner))


def test_missing_history() -> None:
    model = mlp()
    optimizer = adamw(model)
    with pytest.raises(bs.ArgumentError, match="needs 3 steps before its first use"):
        bs.Pruner(model, optimizer, scorer="bitter10", schedule=bs.OneShot(0.5, 2))
    pruner = bs.Pruner(model, optimizer, scorer="bitter10s", schedule=bs.OneShot(0.5, 2))
    pruner.step(skipped=True)
    backward(model, 1)
    optimizer.step()
    with pytest.raises(bs.MissingStateError, match=r"0\.weight.*1 of the 2 updates"):
        pruner.step()
    pruner = bs.Pruner(model, optimizer, scorer="bitter10s", schedule=RAMP, missing="skip")
    model[2].weight.grad = None
    del optimizer.state[model[2].weight]
    for step in range(1, 4):
        backward(model, step)
        model[2].weight.grad = None
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    backward(model, 4)
    optimizer.step()
    event = pruner.step()
    assert event is not None
    assert event.skipped == ("2.weight",)
    assert set(event.per_tensor) == {"0.weight", "4.weight"}


def test_options_that_do_not_fit() -> None:
    model = mlp()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for scorer in ("bitter10", "bitter10s", "bitter10c"):
        with pytest.raises(bs.ArgumentError, match="exp_avg"):
            bs.Pruner(model, sgd, scorer=scorer, schedule=RAMP)
    for scorer in ("bitter10", "movement"):
        with pytest.raises(bs.ArgumentError, match="Pass the optimizer"):
            bs.Pruner(model, scorer=scorer, schedule=RAMP)
    bs.Pruner(model, sgd, scorer="movement", schedule=RAMP).finalize()


def test_checkpoints_know_the_tracker() -> None:
    model, optimizer, pruner = make("bitter10")
    train(model, optimizer, pruner, 4)
    state = pruner.state_dict()
    for scorer in ("bitter10s", bs.Bitter10(decay=0.5)):
        with pytest.raises(bs.CheckpointError, match="scorer"):
            make(scorer)[2].load_state_dict(state)
    other = make("bitter10")[2]
    with pytest.raises(bs.CheckpointError, match="tracker"):
        other.load_state_dict({key: value for key, value in state.items() if key != "tracker"})
    assert not other.masks.nbytes
    other.load_state_dict(state)
    assert equal(state_of(other), state["tracker"])
    sketch = make("bitter10s")[2]
    sketch.load_state_dict(state, strict=False)  # the masks, but another scorer's memory is of no use
    assert not any(state_of(sketch)["seen"].values())
    assert sketch.masks.nbytes == other.masks.nbytes


@pytest.mark.parametrize("scope", ["tensor", "row", "2:4"])
def test_scopes_without_competition_warn_once(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_warned", set())
    model = nn.Sequential(nn.Linear(12, 40), nn.Linear(40, 8))
    with pytest.warns(UserWarning, match=f"'bitter10s' ranks as bitter3 under scope '{scope}'") as caught:
        optimizer = adamw(model)
        schedule = bs.OneShot(0.5, 3)
        pruner = bs.Pruner(model, optimizer, scorer="bitter10s", schedule=schedule, scope=scope)
        plain = bs.Pruner(model, optimizer, scorer=bs.Bitter3(eps=1e-12), schedule=schedule, scope=scope)
        for step in range(1, 4):
            model(
                torch.randn(4, 12, generator=torch.Generator().manual_seed(step))
            ).square().mean().backward()
            optimizer.step()
            if step < 3:
                pruner.step()
                plain.step()
        plain.step()
        weights = [layer.weight.detach().clone() for layer in model]
        pruner.step()
    assert len(caught) == 1
    assert all(torch.equal(a, layer.weight) for a, layer in zip(weights, model, strict=True))
    assert all(torch.equal(pruner.masks[name], plain.masks[name]) for name in pruner.masks)


def test_functions_need_the_modifier_and_the_sums() -> None:
    w, m = torch.randn(8, 8), torch.randn(8, 8)
    for name in ("bitter10", "bitter10s", "bitter10c"):
        for call in (
            lambda name=name: bs.score(w, name, exp_avg=m),
            lambda name=name: bs.make_masks(bs.ScoreInputs(w, exp_avg=m), sparsity=0.5, scorer=name),
            lambda name=name: bs.threshold(bs.ScoreInputs(w, exp_avg=m), k=3, scorer=name),
        ):
            with pytest.raises(bs.MissingStateError, match="modifier"):
                call()
        expected = bs.score(w, "bitter3", exp_avg=m, eps=1e-12) * 0.5
        assert torch.equal(bs.score(w, name, exp_avg=m, modifier=0.5), expected)
    with pytest.raises(bs.MissingStateError, match="scores"):
        bs.score(w, "movement")
    with pytest.raises(bs.MissingStateError, match="scores"):
        bs.make_masks(bs.ScoreInputs(w), sparsity=0.5, scorer="movement")
    signed = bs.make_masks(bs.ScoreInputs(w, scores=m), sparsity=0.5, scorer="movement")
    assert torch.equal(signed.bool(), m > m.flatten().kthvalue(32).values)
