"""CUDA tensors in other orders of memory than row-major: what they are pruned to is what row-major ones are
on the CPU, and none of them is copied."""

from __future__ import annotations

import itertools
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.tensors.masks import COLUMN
from bittersweet.tensors.orders import ROW_MAJOR, Order
from bittersweet.tensors.table import Table
from torch import nn

ROLES = ("weight", "exp_avg", "exp_avg_sq", "grad")
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv": ((24, 12, 3, 3), (0, 2, 3, 1), {}),
    "linear": ((65, 44), (1, 0), {}),
    "experts": ((4, 8, 20), (0, 2, 1), {"in_dim": 1, "kernel_dims": 0}),
}


def laid(tensor: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Lays a tensor so that `axes` follow one another in memory."""
    return tensor.permute(axes).contiguous().permute([axes.index(i) for i in range(len(axes))])


def items(few: bool) -> tuple[list[bs.ScoreInputs], list[bs.ScoreInputs]]:
    """Row-major tensors, and the same ones laid otherwise but for the last."""
    generator = torch.Generator().manual_seed(3)
    plain, turned = [], []
    for name, (shape, axes, geometry) in CASES.items():
        arrays = {}
        for role in ROLES:
            values = torch.randn(shape, generator=generator)
            values = values.sign() * values.abs().mul(2).round() if few else values
            arrays[role] = values.abs() if "sq" in role else values
        plain.append(bs.ScoreInputs(**arrays, **geometry, name=name))
        other = {role: laid(array, axes) for role, array in arrays.items()}
        turned.append(bs.ScoreInputs(**other, **geometry, name=name))
    flat = torch.randn(500, generator=generator).mul(2).round()
    for listed in (plain, turned):
        listed.append(bs.ScoreInputs(flat, flat, flat.abs(), flat, name="flat"))
    return plain, turned


def moved(cuda: Any, listed: list[bs.ScoreInputs]) -> list[bs.ScoreInputs]:
    return [
        bs.ScoreInputs(
            *(cuda.put(getattr(item, role)) for role in ROLES),
            name=item.name,
            in_dim=item.in_dim,
            kernel_dims=item.kernel_dims,
            mask=item.mask if item.mask is None else cuda.put(item.mask),
        )
        for item in listed
    ]


def facts(event: Any) -> dict[str, Any]:
    values = event.to_dict()
    for name in ("milliseconds", "passes", "extra_bytes"):
        del values[name]
    return values


OPTIONS: list[dict[str, Any]] = [
    {"scope": "global", "sparsity": 0.5},
    {"scope": "global", "sparsity": 0.03, "scorer": "random", "seed": 4},
    {"scope": "global", "sparsity": 0.7, "ties": "below"},
    {"scope": "tensor", "sparsity": 0.4, "regrow": True},
    {"scope": "global", "sparsity": 0.6, "max_tensor_sparsity": 0.65},
    {"scope": "row", "sparsity": 0.3},
    {"scope": "global", "sparsity": 0.5, "selector": "histogram"},
    {"scope": "global", "sparsity": 0.5, "selector": "kthvalue"},
    {"scope": "global", "sparsity": 0.5, "selector": bs.Sampling(0.4, by="element")},
]


@pytest.mark.parametrize("few", [False, True])
def test_masks_events_and_zeros_are_those_of_row_major_tensors_on_the_cpu(cuda: Any, few: bool) -> None:
    plain, turned = items(few)
    keep = torch.rand(CASES["conv"][0], generator=torch.Generator().manual_seed(1)) < 0.8
    for options, masked in itertools.product(OPTIONS, (False, True)):
        how = {"scorer": "magnitude", **options}
        plain[0].mask = turned[0].mask = keep if masked else None
        with cuda.on_cpu():
            expected = bs.make_masks(plain, **how)
        there = moved(cuda, turned)
        found = bs.make_masks(there, **how)
        assert facts(found.event) == facts(expected.event), options
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.bool().cpu(), other.bool())
            assert one.to_host().tolist() == other.words.tolist()
        assert [mask.order for mask in found][1:] == [Order(65, 44), Order(8, 20), ROW_MAJOR]
        places = [(item.weight.data_ptr(), item.weight.stride()) for item in there]
        event = bs.prune_(there, **how)
        assert facts(event) == facts(expected.event)
        assert [(item.weight.data_ptr(), item.weight.stride()) for item in there] == places
        for item, other, mask in zip(there, plain, expected, strict=True):
            assert torch.equal(item.weight.cpu(), other.weight.where(mask.bool(), 0.0))


def test_nothing_is_copied(cuda: Any) -> None:
    there = moved(cuda, items(False)[1])
    table = Table(there, bs.select.functional.resolve_scorer("bitter3", None, 0), ("weight", "exp_avg"))
    assert not table.relaid
    assert table.copied_bytes == 0


def test_bits_of_masks_come_and_go_between_orders(cuda: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    for shape, order in (((130, 9), (130, 9)), ((5, 7, 9), (7, 9)), ((1,), (1, 1))):
        keep = torch.rand(shape, generator=generator) < 0.5
        with cuda.on_cpu():
            here = bs.Mask.from_bool(keep, "w")
            expected = here.ordered(Order(*order))
        mask = bs.Mask.from_bool(cuda.put(keep), "w")
        there = mask.ordered(Order(*order))
        assert there.held.cpu().tolist() == expected.held.view("int64").tolist()
        assert there.to_host().tolist() == here.words.tolist()
        assert torch.equal(there.bool().cpu(), keep)
        assert there == mask and there.kept() == here.kept()
        assert there.ordered(ROW_MAJOR).held.cpu().tolist() == mask.held.cpu().tolist()


def test_the_first_nan_is_named_by_its_logical_index(cuda: Any) -> None:
    there = moved(cuda, items(False)[1])
    weight = there[1].weight
    weight[7, 30] = weight[7, 31] = weight[60, 0] = torch.nan  # (60, 0) comes first in memory
    for options in ({}, {"scope": "tensor"}, {"selector": "histogram"}):
        with pytest.raises(bs.NonFiniteScoreError, match=rf"'linear' at flat index {7 * 44 + 30};"):
            bs.prune_(there, sparsity=0.5, scorer="magnitude", **options)


def test_a_capturable_step_works_where_the_tensors_lie(cuda: Any) -> None:
    plain, turned = items(True)
    there = moved(cuda, turned)
    step = bs.CapturableStep(there, scorer="magnitude")
    for sparsity in (0.3, 0.6):
        step.set_budget(sparsity=sparsity)
        step.run()
        with cuda.on_cpu():
            expected = bs.prune_(plain, sparsity=sparsity, scorer="magnitude")
            masks = bs.make_masks(plain, sparsity=sparsity, scorer="magnitude")
        assert step.read().pruned == expected.pruned
        for item, other in zip(there, plain, strict=True):
            assert torch.equal(item.weight.cpu(), other.weight)
        for mask, other in zip(step.masks, masks, strict=True):
            assert mask.to_host().tolist() == other.words.tolist()


class Run:
    """A model that trains on made-up gradients, the same whatever its layout."""

    def __init__(self, put: Any, turn: bool) -> None:
        torch.manual_seed(7)
        self.model = put(nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 1), nn.Linear(20, 16)))
        self.put, self.turn, self.steps = put, turn, 0
        for parameter in self.model.parameters():
            parameter.data = self.lay(parameter.data)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        schedule = bs.Linear(0.2, 0.7, begin_step=2, end_step=6, frequency=2)
        self.pruner = bs.Pruner(self.model, self.optimizer, schedule=schedule)

    def lay(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.turn or tensor.ndim < 2:
            return tensor.contiguous()
        return laid(tensor, (0, 2, 3, 1) if tensor.ndim == 4 else (1, 0))

    def train(self, steps: int) -> Run:
        for _ in range(steps):
            self.steps += 1
            generator = torch.Generator().manual_seed(self.steps)
            for parameter in self.model.parameters():
                parameter.grad = self.put(self.lay(torch.randn(parameter.shape, generator=generator)))
            self.optimizer.step()
            self.pruner.step()
        return self


@pytest.mark.parametrize("cuda", ["host", "emulated"], indirect=True)  # a GPU's optimizer rounds otherwise
def test_a_pruner_over_a_model_in_other_orders(cuda: Any) -> None:
    with cuda.on_cpu():
        here = Run(lambda value: value, False).train(9)
    there = Run(cuda.put, True).train(9)
    assert {mask.order for mask in there.pruner.masks.packed} >= {Order(16, 20), Order(6, 9)}
    for name, mask in here.pruner.masks.items():
        assert torch.equal(there.pruner.masks[name], mask), name
    for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [facts(event) for event in here.pruner.history] == [facts(e) for e in there.pruner.history]
    saved = there.pruner.state_dict()
    there.pruner.load_state_dict(saved)
    there.turn = False  # and back to row-major memory
    for parameter in there.model.parameters():
        parameter.data = parameter.data.contiguous()
    there.train(1)
    with cuda.on_cpu():
        here.train(1)
    assert there.pruner.masks.packed == here.pruner.masks.packed
    for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_tracker_looks_at_masks_that_live(host_cuda: Any) -> None:
    """Masks of transposed weights are put in row-major order for it, by copies on a device."""
    weight = torch.nn.Parameter(torch.randn(30, 20).t())
    optimizer = torch.optim.Adam([weight])
    tracker = bs.CoherenceTracker({"weight": weight}, optimizer)
    weight.grad = torch.randn(20, 30)
    optimizer.step()
    mask = bs.make_masks(bs.ScoreInputs(weight, name="weight"), sparsity=0.5, scorer="magnitude")[0]
    tracker.update(1, {"weight": mask})
    (ordered,) = tracker._feed._ordered
    assert tracker._feed.data[COLUMN["mask"]] == ordered.pointer


def test_the_first_nan_where_a_sample_holds_no_number(cuda: Any) -> None:
    weight = torch.full((200, 250), float("nan"))
    weight[0, :5] = 1.0
    errors = []
    for item in (weight, laid(weight, (1, 0))):
        there = cuda.put(item) if item.is_contiguous() else laid(cuda.put(item.contiguous()), (1, 0))
        with pytest.raises(bs.NonFiniteScoreError) as found:
            bs.threshold(bs.ScoreInputs(there), sparsity=0.5, scorer="magnitude", selector="sampling")
        errors.append((found.value.count, found.value.first_index))
    assert errors[0] == errors[1] == (49_995, 5)
