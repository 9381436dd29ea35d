"""Scopes row and N:M on CUDA tensors: the masks, counts and events of the CPU, for functions and `Pruner`.

Every test runs with the CPU engine in the place of the CUDA engine, with the CUDA engine's kernels on the
emulator, and on a GPU where there is one.
"""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from pruner_support import LINEAR, adamw, everything, facts, mlp, train

SHAPES = ((64, 2), (17, 64), (9, 65), (5, 96), (3, 600), (2, 2048), (12, 8, 3, 3))


def model(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[dict[str, Any]]:
    """Arguments of ScoreInputs on the CPU: ties, zeros of both signs and input norms among them."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for shape in SHAPES:
        weight = torch.randn(shape, generator=generator)
        weight.view(-1)[::5] = 0.25
        weight.view(-1)[1::9] = -0.0
        items.append({"weight": weight.to(dtype), "input_norm": torch.rand(shape[1], generator=generator)})
    return items


def inputs(items: list[dict[str, Any]], put: Any, masks: list[Any] | None = None) -> list[bs.ScoreInputs]:
    return [
        bs.ScoreInputs(
            **{argument: put(value) for argument, value in item.items()},
            mask=None if masks is None else put(masks[i]),
            name=f"layer{i}",
        )
        for i, item in enumerate(items)
    ]


def clone(value: torch.Tensor) -> torch.Tensor:
    return value.clone(memory_format=torch.preserve_format)


OPTIONS = [
    {"scope": "row", "sparsity": 0.5},
    {"scope": "row", "sparsity": 0.3, "distribution": "erk"},
    {"scope": "row", "k": 3000, "distribution": "layer_adaptive"},
    {"scope": bs.Row(rounding="floor"), "sparsity": 0.37},
    {"scope": bs.NofM(2, 4, remainder="keep")},
    {"scope": bs.NofM(3, 8, remainder="keep"), "sparsity": 0.4},
    {"scope": bs.NofM(20, 48, remainder="keep"), "regrow": True},
]


@pytest.mark.parametrize("scorer", ["magnitude", "wanda"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options["scope"]))
def test_masks_and_events_are_those_of_the_cpu(cuda: Any, options: dict[str, Any], scorer: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        items = model(dtype)
        dead = [torch.rand(item["weight"].shape) > 0.2 for item in items]
        for masks in (None, dead):
            with cuda.on_cpu():
                expected = bs.make_masks(inputs(items, clone, masks), scorer=scorer, **options)
            found = bs.make_masks(inputs(items, cuda.put, masks), scorer=scorer, **options)
            for a, b in zip(found, expected, strict=True):
                assert torch.equal(a.bool().cpu(), b.bool()), a.name
            assert found.event is not None and expected.event is not None
            ours, theirs = facts(found.event), facts(expected.event)
            assert ours == theirs


@pytest.mark.parametrize("scope", ["row", "2:4"])
def test_weights_get_their_zeros_in_the_same_step(cuda: Any, scope: str) -> None:
    items = [item for item in model() if item["weight"].shape[1] % 4 == 0]
    options = {"scorer": "magnitude", "scope": scope, "sparsity": 0.5 if scope == "row" else None}
    with cuda.on_cpu():
        expected = inputs(items, clone)
        bs.prune_(expected, **options)
    found = inputs(items, cuda.put)
    bs.prune_(found, **options)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.weight.cpu(), b.weight)


def test_channels_last_weights_are_pruned_as_their_copies(cuda: Any) -> None:
    weight = torch.randn(16, 8, 3, 3)
    for scope, sparsity in (("row", 0.4), ("2:4", None)):
        options: dict[str, Any] = {"scorer": "magnitude", "scope": scope, "sparsity": sparsity}
        with cuda.on_cpu():
            expected = bs.make_masks(
                bs.ScoreInputs(weight), scorer="magnitude", scope=scope, sparsity=sparsity
            )
        other = cuda.put(weight.to(memory_format=torch.channels_last))
        found = bs.make_masks(bs.ScoreInputs(other), **options)
        assert torch.equal(found[0].bool().cpu(), expected[0].bool())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scope": "2:4"}, bs.ShapeError, r"scope: '2:4' does not divide the 2 inputs of tensor 'layer0'"),
        (
            {"scope": "row", "sparsity": 0.5, "ties": "below"},
            bs.ArgumentError,
            "ties: scopes 'row' and 'N:M'",
        ),
        (
            {"scope": "row", "sparsity": 0.5, "max_tensor_sparsity": 0.9},
            bs.ArgumentError,
            "it guards scope 'global'",
        ),
        ({"scope": bs.NofM(2, 4, remainder="keep"), "sparsity": 0.6}, bs.ArgumentError, "more than 1 - N/M"),
    ],
)
def test_what_is_refused_is_what_the_cpu_refuses(
    cuda: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    items = inputs(model(), cuda.put)
    before = [item.weight.cpu().clone() for item in items]
    with pytest.raises(error, match=message):
        bs.prune_(items, scorer="magnitude", **options)
    assert all(torch.equal(item.weight.cpu(), b) for item, b in zip(items, before, strict=True))


def test_a_nan_is_named_and_nothing_is_written(cuda: Any) -> None:
    items = model()
    items[4]["weight"][1, 7] = float("nan")
    found = inputs(items, cuda.put)
    before = [item.weight.cpu().clone() for item in found]
    with pytest.raises(bs.NonFiniteScoreError) as raised:
        bs.prune_(found, scorer="magnitude", scope="row", sparsity=0.5)
    assert raised.value.parameter == "layer4" and raised.value.first_index == 607
    for item, weight in zip(found, before, strict=True):
        assert torch.equal(torch.nan_to_num(item.weight.cpu()), torch.nan_to_num(weight))


@pytest.mark.parametrize(
    "options",
    [
        {"scope": bs.NofM(1, 4, remainder="keep"), "scorer": "magnitude"},
        {"scope": "row", "scorer": "bitter7"},
        {"scope": "row", "scorer": "wanda"},
        {"scope": "row", "scorer": "wanda", "sync": False, "regrow": True},
    ],
)
def test_a_run_of_the_pruner_is_that_of_the_cpu(host_cuda: Any, options: dict[str, Any]) -> None:
    def run(put: Any) -> tuple[Any, ...]:
        net = put(mlp())
        optimizer = adamw(net)
        extra = dict(options)
        if options["scorer"] == "wanda":
            sizes = {"0.weight": 12, "2.weight": 40, "4.weight": 33}
            extra["input_norms"] = {
                name: put(torch.arange(1.0, n + 1) % 7 + 0.5) for name, n in sizes.items()
            }
        pruner = bs.Pruner(net, optimizer, schedule=LINEAR, **extra)
        events = train(net, optimizer, pruner, 13)
        return net, optimizer, pruner, [facts(event) for event in events]

    with host_cuda.on_cpu():
        net, optimizer, pruner, expected_events = run(lambda value: value)
        expected = everything(net, optimizer)
        masks = {name: mask.clone() for name, mask in pruner.masks.items()}
    net, optimizer, pruner, events = run(host_cuda.put)
    assert events == expected_events and len(events) == 3
    for name, tensor in everything(net, optimizer).items():
        assert torch.equal(tensor, expected[name]), name
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks.items())
