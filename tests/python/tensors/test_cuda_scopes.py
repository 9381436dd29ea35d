"""Scope tensor and bounds of tensors on CUDA: masks, numbers and errors as on the CPU.

Every test runs with the CPU engine in the place of the CUDA engine, with the CUDA engine's kernels on the
emulator, and on a GPU where there is one.
"""

from __future__ import annotations

import copy
from typing import Any

import bittersweet as bs
import pytest
import torch

SHAPES = ((1,), (31, 33), (64,), (0,), (90, 23), (700,))


def model(seed: int = 0, dead: float = 0.0) -> list[Any]:
    """ScoreInputs on the CPU whose tensors differ in the size of their scores, with ties and zeros."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for index, shape in enumerate(SHAPES):
        w = torch.randn(shape, generator=generator) * (0.1 if index == 2 else 1 + index)
        w.view(-1)[::7] = 0.0
        v = 1e-9 * torch.exp(3 * torch.randn(shape, generator=generator))
        item = bs.ScoreInputs(w, exp_avg_sq=v, name=f"layer{index}")
        if dead:
            item.mask = torch.rand(shape, generator=generator) >= dead
        items.append(item)
    return items


def moved(cuda: Any, items: list[Any]) -> list[Any]:
    found = []
    for item in items:
        new = copy.copy(item)
        for argument in ("weight", "exp_avg_sq", "mask"):
            value = getattr(item, argument)
            setattr(new, argument, None if value is None else cuda.put(value))
        found.append(new)
    return found


def words(masks: Any) -> list[list[int]]:
    return [mask.to_host().tolist() for mask in masks]


def facts(event: Any) -> dict[str, Any]:
    values = event.to_dict()
    for name in ("milliseconds", "passes", "extra_bytes"):
        del values[name]
    return values


def both(cuda: Any, items: list[Any], **options: Any) -> tuple[Any, Any]:
    with cuda.on_cpu():
        expected = bs.make_masks(items, **options)
    return bs.make_masks(moved(cuda, items), **options), expected


@pytest.mark.parametrize("distribution", [None, "uniform", "erk", "layer_adaptive"])
@pytest.mark.parametrize("dead", [0.0, 0.4])
@pytest.mark.parametrize("budget", [{"sparsity": 0.6}, {"k": 1700}])
def test_scope_tensor(cuda: Any, distribution: str | None, dead: float, budget: dict[str, Any]) -> None:
    for scorer, ties in (("bitter7", None), ("magnitude", "exact"), ("magnitude", "at_or_below")):
        found, expected = both(
            cuda,
            model(3, dead),
            scope="tensor",
            distribution=distribution,
            scorer=scorer,
            ties=ties,
            **budget,
        )
        assert words(found) == words(expected)
        assert facts(found.event) == facts(expected.event)
        assert found.event.threshold is None and found.event.passes > 0
        assert all(isinstance(x, float) for x in found.event.per_tensor_threshold.values())


@pytest.mark.parametrize("dead", [0.0, 0.4])
@pytest.mark.parametrize("cap", [0.62, 0.8, 1.0])
def test_caps(cuda: Any, dead: float, cap: float) -> None:
    found, expected = both(cuda, model(4, dead), sparsity=0.6, max_tensor_sparsity=cap, scorer="magnitude")
    assert words(found) == words(expected)
    assert facts(found.event) == facts(expected.event)


SELECTORS = [
    "histogram", "kthvalue", "streaming", bs.Streaming(tolerance=0),
    "sampling", bs.Sampling(0.4, verify=True), bs.Sampling(0.9, by="element"),
]  # fmt: skip


def with_a_large_one(seed: int) -> list[Any]:
    """More than what is looked at whole by `sampling`, with dead elements."""
    generator = torch.Generator().manual_seed(seed)
    large = bs.ScoreInputs(3 * torch.rand(11_000, generator=generator), exp_avg_sq=torch.ones(11_000))
    large.name = "large"
    return [*model(seed, 0.3), large]


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_scope_tensor_by_every_selector(cuda: Any, selector: Any) -> None:
    for distribution, ties in ((None, None), ("erk", "below"), ("layer_adaptive", "at_or_below")):
        found, expected = both(
            cuda,
            with_a_large_one(7),
            scope="tensor",
            distribution=distribution,
            selector=selector,
            ties=ties,
            sparsity=0.6,
            seed=3,
        )
        assert words(found) == words(expected)
        assert facts(found.event) == facts(expected.event)


@pytest.mark.parametrize("selector", ["exact", *SELECTORS], ids=str)
def test_caps_by_every_selector_and_rule_of_ties(cuda: Any, selector: Any) -> None:
    for ties, cap in ((None, 0.62), ("below", 0.7), ("at_or_below", 0.7)):
        found, expected = both(
            cuda,
            with_a_large_one(8),
            selector=selector,
            scorer="magnitude",
            ties=ties,
            sparsity=0.6,
            max_tensor_sparsity=cap,
        )
        assert words(found) == words(expected)
        assert facts(found.event) == facts(expected.event)
        assert found.event.at_bounds


@pytest.mark.parametrize("selector", ["histogram", "kthvalue"])
def test_ranges_by_exact_selectors(cuda: Any, selector: str) -> None:
    ranges = {"layer1": (0.7, 0.75), "layer2": (0.0, 0.3), "large": (0.0, 0.5)}
    found, expected = both(
        cuda, with_a_large_one(9), sparsity=0.5, tensor_sparsity=ranges, scorer="magnitude", selector=selector
    )
    assert words(found) == words(expected)
    assert facts(found.event) == facts(expected.event)


@pytest.mark.parametrize("selector", ["exact", "histogram", "kthvalue"])
def test_ranges_and_what_they_do_not_allow(cuda: Any, selector: str) -> None:
    ranges = {"layer1": (0.7, 0.75), "layer2": (0.0, 0.3), "layer5": (0.0, 0.5)}
    given: Any = {"tensor_sparsity": ranges, "scorer": "magnitude", "selector": selector}
    found, expected = both(cuda, model(5), sparsity=0.5, **given)
    assert words(found) == words(expected)
    assert facts(found.event) == facts(expected.event)
    assert found.event.at_bounds
    items = model(5)
    there = moved(cuda, items)
    for sparsity in (0.05, 0.99):
        with cuda.on_cpu(), pytest.raises(bs.ArgumentError) as wanted:
            bs.make_masks(items, sparsity=sparsity, **given)
        with pytest.raises(bs.ArgumentError) as refused:
            bs.prune_(there, sparsity=sparsity, **given)
        assert str(refused.value) == str(wanted.value)
        assert all(torch.equal(a.weight.cpu(), b.weight) for a, b in zip(there, items, strict=True))


def test_a_budget_beyond_all_caps(cuda: Any) -> None:
    found, expected = both(cuda, model(8), sparsity=0.5, max_tensor_sparsity=0.3, scorer="magnitude")
    assert words(found) == words(expected)
    assert found.event.pruned == expected.event.pruned


def test_nan_in_one_tensor_stops_all(cuda: Any) -> None:
    items = model(6)
    items[4].weight[3, 5] = float("nan")
    there = moved(cuda, items)
    with pytest.raises(bs.NonFiniteScoreError) as found:
        bs.prune_(there, sparsity=0.5, scope="tensor", scorer="magnitude")
    assert (found.value.parameter, found.value.count, found.value.first_index) == ("layer4", 1, 74)
    for a, b in zip(there, items, strict=True):
        assert torch.equal(a.weight.cpu().nan_to_num(9), b.weight.nan_to_num(9))
    kept, expected = both(cuda, items, sparsity=0.5, scope="tensor", scorer="magnitude", nonfinite="keep")
    assert words(kept) == words(expected) and facts(kept.event) == facts(expected.event)


def test_a_pruner_by_tensor(cuda: Any) -> None:
    torch.manual_seed(1)
    source = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.Linear(40, 10))

    def run(module: Any) -> tuple[list[list[float]], list[Any]]:
        pruner = bs.Pruner(
            module, schedule=bs.OneShot(0.7, 1), scorer="magnitude", scope="tensor", distribution="erk"
        )
        event = pruner.step()
        weights = [p.detach().cpu().flatten().tolist() for p in module.parameters()]
        return weights, [event.k, event.pruned, dict(event.per_tensor), dict(event.per_tensor_threshold)]

    with cuda.on_cpu():
        expected = run(copy.deepcopy(source))
    module = copy.deepcopy(source)
    for parameter in module.parameters():
        parameter.data = cuda.put(parameter.data)
    assert run(module) == expected
