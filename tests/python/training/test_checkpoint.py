"""Saving and resuming: the run that was stopped is the run that was not."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.select.columns import from_text
from pruner_support import dead_values, everything, facts, mlp, train, unchanged, weights
from torch import nn

RAMP = bs.PolynomialDecay(0.1, 0.8, begin_step=3, end_step=19, frequency=4)  # due on 3, 7, 11, 15, 19
STOP = 9  # mid-ramp, between two events
STEPS = 23


def build(**options: Any) -> tuple[nn.Sequential, torch.optim.AdamW, bs.Pruner]:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, amsgrad=True)
    return model, optimizer, bs.Pruner(model, optimizer, **{"schedule": RAMP, **options})


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, pruner: bs.Pruner) -> None:
    parts = {"model": model, "optimizer": optimizer, "pruner": pruner}
    torch.save({name: part.state_dict() for name, part in parts.items()}, path)


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: bs.Pruner) -> dict[str, Any]:
    """Everything that must agree: w, m, v, masks, events, down to the bit."""
    tensors = everything(model, optimizer)
    tensors.update({f"{name} mask": mask for name, mask in pruner.masks.items()})
    return {
        "tensors": tensors,
        "events": [facts(event) for event in pruner.history],
        "step": pruner.state_dict()["step"],
    }


def assert_same_run(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["step"] == expected["step"]
    assert found["events"] == expected["events"]
    assert found["tensors"].keys() == expected["tensors"].keys()
    for name, tensor in expected["tensors"].items():
        assert torch.equal(found["tensors"][name], tensor), name


def resume(path: str, hold: str, out: str) -> None:
    """The second half of a run, in a process of its own."""
    model, optimizer, pruner = build(hold=hold)
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    pruner.load_state_dict(saved["pruner"])
    train(model, optimizer, pruner, STEPS - STOP, first=STOP + 1)
    torch.save(fingerprint(model, optimizer, pruner), out)


def everything_in(state: Any) -> Any:
    """A state as plain values."""
    if isinstance(state, dict):
        return {key: everything_in(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_resumed_in_a_new_process_the_run_is_bit_for_bit_the_uninterrupted_one(
    hold: str, tmp_path: Path
) -> None:
    model, optimizer, pruner = build(hold=hold)
    train(model, optimizer, pruner, STEPS)
    expected = fingerprint(model, optimizer, pruner)
    assert [event["step"] for event in expected["events"]] == [3, 7, 11, 15, 19]

    model, optimizer, pruner = build(hold=hold)
    train(model, optimizer, pruner, STOP)
    save(tmp_path / "half.pt", model, optimizer, pruner)
    arguments = (str(tmp_path / "half.pt"), hold, str(tmp_path / "rest.pt"))
    code = f"import test_checkpoint; test_checkpoint.resume{arguments!r}"
    search = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {search!r}; {code}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(torch.load(tmp_path / "rest.pt", weights_only=True), expected)


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_resumed_at_any_step_the_run_is_the_same(stop: int) -> None:
    model, optimizer, pruner = build(scorer="bitter8_bias_corrected")
    train(model, optimizer, pruner, STEPS)
    expected = fingerprint(model, optimizer, pruner)
    model, optimizer, pruner = build(scorer="bitter8_bias_corrected")
    train(model, optimizer, pruner, stop)
    states = copy.deepcopy([part.state_dict() for part in (model, optimizer, pruner)])
    train(model, optimizer, pruner, 2, first=stop + 1)  # what was saved does not move with the run
    model, optimizer, pruner = build(scorer="bitter8_bias_corrected")
    for part, state in zip((model, optimizer, pruner), states, strict=True):
        part.load_state_dict(state)
    train(model, optimizer, pruner, STEPS - stop, first=stop + 1)
    assert_same_run(fingerprint(model, optimizer, pruner), expected)


def test_the_state_is_plain_and_does_not_follow_the_run(tmp_path: Path) -> None:
    model, optimizer, pruner = build()
    train(model, optimizer, pruner, STOP)
    state = pruner.state_dict()
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["version"] == 2
    assert (loaded["step"], loaded["fired"]) == (STOP, STOP)
    assert loaded["config"]["schedule"] == {"kind": "PolynomialDecay", **vars(RAMP)}
    assert loaded["shapes"] == {"0.weight": [40, 12], "2.weight": [33, 40], "4.weight": [5, 33]}
    for name, words in loaded["masks"].items():
        bits = (
            torch.from_numpy(words.numpy().view("uint8")).unsqueeze(1).bitwise_right_shift(torch.arange(8))
            & 1
        )
        mask = pruner.masks[name]
        assert torch.equal(bits.reshape(-1)[: mask.numel()].reshape(mask.shape).bool(), mask)
        assert words.numel() == -(-mask.numel() // 64)
    train(model, optimizer, pruner, 6, first=STOP + 1)
    assert all(torch.equal(words, loaded["masks"][name]) for name, words in state["masks"].items())
    assert len(from_text(state["history"])) == 2
    masks = dict(pruner.masks)
    other = build()[2]
    state = pruner.state_dict()
    other.load_state_dict(state)
    for words in state["masks"].values():  # the state is a copy, on the way out and on the way in
        words.zero_()
    for each in (pruner, other):
        assert all(torch.equal(masks[name], mask) for name, mask in each.masks.items())


def test_a_state_saved_before_the_first_event_keeps_everything() -> None:
    model, optimizer, pruner = build()
    train(model, optimizer, pruner, 2)
    state = pruner.state_dict()
    for name, mask in pruner.masks.items():
        words, numel = state["masks"][name], mask.numel()
        assert sum(int(word).bit_count() if word >= 0 else 64 for word in words) == numel
    other = build()
    other[2].load_state_dict(state)
    assert other[2].masks.nbytes == 0
    assert everything_in(other[2].state_dict()) == everything_in(state)


def test_loading_writes_the_zeros_at_once_and_nothing_else() -> None:
    model, optimizer, pruner = build()
    train(model, optimizer, pruner, STOP)
    state = pruner.state_dict()
    model, optimizer, pruner = build()
    train(model, optimizer, None, 1)
    before = weights(model)
    pruner.load_state_dict(state)
    for name, weight in weights(model).items():
        assert torch.equal(weight, torch.where(pruner.masks[name], before[name], 0.0))
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            moment = optimizer.state[model.get_parameter(name)][key]
            assert not moment[~pruner.masks[name]].any()
    assert [event.step for event in pruner.history] == [3, 7]


def test_loading_twice_takes_the_second_state_alone() -> None:
    model, optimizer, pruner = build(regrow=True)
    train(model, optimizer, pruner, 8)
    early = pruner.state_dict()
    train(model, optimizer, pruner, 12, first=9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    pruner.load_state_dict(early)
    assert pruner.sparsity().zero == pruner.sparsity().masked < 0.7


def test_infinite_thresholds_survive() -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.Linear(0.0, 0.5, 1, 3, 1))
    pruner.step()
    assert pruner.history[0].threshold == -float("inf")
    other = bs.Pruner(mlp(), scorer="magnitude", schedule=bs.Linear(0.0, 0.5, 1, 3, 1))
    other.load_state_dict(pruner.state_dict())
    assert other.history == pruner.history


# --- names under wrappers ---


class Wrapped(nn.Module):
    """A wrapper that Bittersweet does not know, with the attribute names of those it does."""

    def __init__(self, model: nn.Module, attribute: str) -> None:
        super().__init__()
        self.add_module(attribute, model)


@pytest.mark.parametrize("prefix", [["module"], ["_orig_mod"], ["module", "_orig_mod"]])
def test_prefixes_are_understood_both_ways(prefix: list[str]) -> None:
    plain = bs.Pruner(mlp(), scorer="magnitude", schedule=RAMP)
    model: nn.Module = mlp()
    for attribute in prefix:
        model = Wrapped(model, attribute)
    wrapped = bs.Pruner(model, scorer="magnitude", schedule=RAMP)
    start = ".".join(reversed(prefix)) + "."
    assert list(wrapped.masks) == [start + name for name in plain.masks]
    for _ in range(STOP):
        plain.step()
        wrapped.step()
    assert len(plain.history) == 2
    for source, target in ((plain, bs.Pruner(model, scorer="magnitude", schedule=RAMP)), (wrapped, plain)):
        target.load_state_dict(source.state_dict())
        for ours, theirs in zip(target.masks.values(), source.masks.values(), strict=True):
            assert torch.equal(ours, theirs)


def test_names_that_differ_by_a_prefix_alone_are_not_guessed() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.module = nn.Sequential()
            self.module.add_module("fc", nn.Linear(4, 4))

    pruner = bs.Pruner(Both(), scorer="magnitude", schedule=RAMP)
    assert set(pruner.masks) == {"fc.weight", "module.fc.weight"}
    pruner.load_state_dict(pruner.state_dict())
    state = pruner.state_dict()
    state["shapes"]["_orig_mod.fc.weight"] = state["shapes"].pop("fc.weight")
    with pytest.raises(bs.CheckpointError, match=r"_orig_mod\.fc\.weight"):
        pruner.load_state_dict(state)


def test_a_tied_parameter_is_found_under_its_other_name() -> None:
    model = mlp()
    model.add_module("twin", nn.Linear(12, 40))
    model.twin.weight = model[0].weight
    pruner = bs.Pruner(model, scorer="magnitude", schedule=RAMP)
    state = pruner.state_dict()
    for part in ("shapes", "masks"):
        state[part]["twin.weight"] = state[part].pop("0.weight")
    pruner.load_state_dict(state)


# --- what does not fit ---


def damaged(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    state = copy.deepcopy(state)
    *keys, last = path.split("/")
    inner = state
    for key in keys:
        inner = inner[key]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return state


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "not the state of a Pruner"),
        ("version", 3, "format version 3.*reads versions 1 and 2"),
        ("version", KeyError, "format version None"),
        ("masks", KeyError, "lacks masks"),
        ("history", KeyError, "lacks history"),
        ("masks/2.weight", KeyError, r"no mask for '2\.weight'"),
        ("config/schedule/end_step", 20, r"schedule \(saved .*'end_step': 20.*here .*'end_step': 19"),
        ("config/scorer/name", "bitter3", r"scorer \(saved .*bitter3.*here .*bitter7"),
        ("config/scorer/eps", 1e-6, "scorer"),
        ("config/hold", "grads", "hold.*saved 'grads', here 'weights'"),
        ("config/seed", KeyError, "seed"),
        ("config/extra", 1, "extra"),
        (
            "shapes/2.weight",
            [40, 33],
            r"'2\.weight': the saved state has shape \(40, 33\), the model \(33, 40\)",
        ),
        ("shapes/2.weight", KeyError, r"'2\.weight' is not in the saved state"),
        ("shapes/9.weight", [3], r"prunes '9\.weight', which this Pruner does not.*Near names.*weight"),
        ("shapes/module.2.weight", [33, 40], r"'2\.weight' twice"),
        ("masks/9.weight", torch.zeros(1, dtype=torch.int64), r"mask for '9\.weight'"),
        (
            "masks/2.weight",
            torch.zeros(20, dtype=torch.int64),
            r"'2\.weight' is torch.int64 \(20,\); expected 21",
        ),
        ("masks/2.weight", torch.zeros(21), r"expected 21 words of torch.int64"),
        ("masks/2.weight", [0] * 21, "is a list"),
        ("masks/2.weight", torch.full((21,), -1), "bits beyond its 1320 elements"),
        ("step", -1, "step -1"),
        ("step", 1.5, "step 1.5"),
        ("fired", STOP + 1, "beyond its step"),
        ("history", [{"step": 1}], "history cannot be read"),
        ("history", 7, "history cannot be read"),
        ("history", "{}", "history cannot be read"),
        ("history", "[1]", "history cannot be read"),
        ("history", "no JSON", "history cannot be read"),
    ],
)
def test_what_differs_is_named_and_nothing_changes(path: str, value: Any, message: str) -> None:
    model, optimizer, pruner = build()
    train(model, optimizer, pruner, STOP)
    state = damaged(pruner.state_dict(), path, value)
    masks = dict(pruner.masks)
    with unchanged(model, optimizer), pytest.raises(bs.CheckpointError, match=message):
        pruner.load_state_dict(state)
    assert pruner.state_dict()["step"] == STOP
    assert all(torch.equal(masks[name], mask) for name, mask in pruner.masks.items())


def test_something_else_altogether_is_refused() -> None:
    _, _, pruner = build()
    with pytest.raises(bs.CheckpointError, match="found a list"):
        pruner.load_state_dict([])


def test_another_configuration_can_be_asked_for() -> None:
    model, optimizer, pruner = build()
    train(model, optimizer, pruner, STOP)
    state = pruner.state_dict()
    longer = bs.PolynomialDecay(0.1, 0.9, begin_step=3, end_step=27, frequency=4)
    other = bs.Pruner(model, optimizer, schedule=longer, scorer="bitter3")
    with pytest.raises(bs.CheckpointError, match=r"scorer.*schedule"):
        other.load_state_dict(state)
    other.load_state_dict(state, strict=False)
    train(model, optimizer, other, 20, first=STOP + 1)
    assert other.sparsity().masked == pytest.approx(0.9, abs=1e-3)
    assert not dead_values(other, weights(model)).any()


def test_a_name_and_the_object_it_stands_for_are_the_same_configuration() -> None:
    for name, thing in (
        ("bitter7", bs.Bitter7()),
        ("adam_variance", bs.AdamVariance()),
        ("random", bs.Random()),
    ):
        model, optimizer, pruner = build(scorer=name, selector="sampling", scope="row")
        other = bs.Pruner(
            model, optimizer, scorer=thing, selector=bs.Sampling(), scope=bs.Row(), schedule=RAMP
        )
        other.load_state_dict(pruner.state_dict())
    _, _, pruner = build(scorer=bs.Bitter7(eps=0))
    with pytest.raises(bs.CheckpointError, match="scorer"):
        pruner.load_state_dict(build()[2].state_dict())
