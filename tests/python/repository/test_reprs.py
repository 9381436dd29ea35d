"""What a notebook shows of an object: one short line without an address."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from pruner_support import adamw, backward, mlp


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    """One of each public kind of object, with many tensors where it can have many."""
    model = torch.nn.Sequential(*[torch.nn.Linear(12, 12) for _ in range(40)], mlp())
    optimizer = adamw(model)
    made: dict[str, Any] = {}
    trackers = {}
    for scorer in ("bitter10", "bitter10s", "bitter10c", "movement"):
        pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=bs.OneShot(0.5, 100))
        trackers[scorer] = pruner.tracker
    pruner = bs.Pruner(model, optimizer, schedule=bs.ConstantSparsity(0.5, 1, frequency=1))
    for step in range(5):
        backward(model, step)
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    batches = [torch.randn(4, 12) for _ in range(2)]
    probe = bs.GradientProbe(model, lambda m, x: m(x).square().mean(), batches, progress=False)
    masks = bs.make_masks(model, sparsity=0.5)
    made = {
        **trackers,
        "pruner": pruner,
        "plan": pruner.plan(),
        "masks": pruner.masks,
        "history": pruner.history,
        "event": pruner.history[0],
        "report": pruner.report(),
        "sparsity": pruner.sparsity(),
        "new masks": masks,
        "packed": masks.packed,
        "mask": masks.packed[0],
        "threshold": bs.threshold(model, sparsity=0.5),
        "zeros": bs.sparsity(model),
        "tensor zeros": bs.sparsity(model).per_tensor["0.weight"],
        "calibrator": bs.Calibrator(model).run(batches),
        "probe": probe,
        "result": probe.prune(0.2),
        "layer": probe.prune(0.3).layers[0],
        "inputs": bs.ScoreInputs(model[0].weight, grad=model[0].weight, name="a"),
        "block input": bs.BlockInput((torch.zeros(2, 3),), {"mask": None, "ids": torch.arange(3)}),
        "custom schedule": pruner.plan().settings["schedule"],
    }
    schedules = [
        bs.PolynomialDecay(0, 0.5, 0, 9), bs.PowerRamp(0, 0.5, 0, 9), bs.LinearRamp(0, 0.5, 0, 9),
        bs.Cosine(0, 0.5, 0, 9), bs.OneShot(0.5, 3), bs.ConstantSparsity(0.5, 3), bs.Schedule(),
    ]  # fmt: skip
    plain = [bs.Global(), bs.Tensor(), bs.Row(), bs.NofM(2, 4), bs.Exact(), bs.Sampling(), bs.Bitter7()]
    made.update({type(one).__name__: one for one in (*schedules, *plain)})
    return made


def test_a_repr_is_short_and_says_what_it_is(objects: dict[str, Any]) -> None:
    for name, value in objects.items():
        text = repr(value)
        assert len(text) <= 200, (name, text)
        assert "\n" not in text, name
        assert "0x" not in text, (name, text)
        if not isinstance(value, str):
            assert type(value).__name__ in text, (name, text)


def test_every_public_class_has_one_of_its_own() -> None:
    for name in dir(bs):
        value = getattr(bs, name)
        if isinstance(value, type) and value.__module__.startswith("bittersweet"):
            assert value.__repr__ is not object.__repr__, name


def test_numbers_are_those_of_the_object(objects: dict[str, Any]) -> None:
    event, zeros = objects["event"], objects["zeros"]
    assert f"sparsity={event.achieved_sparsity:.4f}" in repr(event)
    assert f"{event.pruned:,} of {event.total:,}" in repr(event)
    assert f"{len(objects['history'])} events" in repr(objects["history"])
    assert f"{zeros.zeros:,} of {zeros.elements:,}" in repr(zeros)
    assert repr(objects["inputs"]) == "ScoreInputs('a', shape=(12, 12), with grad)"
    assert repr(objects["block input"]) == "BlockInput(2x3, mask=NoneType, ids=3)"
