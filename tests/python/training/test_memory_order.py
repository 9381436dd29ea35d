"""Models in channels_last and with transposed weights are pruned while they train as row-major ones are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.steps.sampling import ZeroSample
from bittersweet.tensors.holding import Holder
from bittersweet.tensors.masks import Mask
from bittersweet.tensors.orders import ROW_MAJOR
from bittersweet.tensors.table import ScoreInputs
from pruner_support import adamw, everything, facts
from torch import nn

LINEAR = bs.Linear(0.2, 0.7, begin_step=3, end_step=9, frequency=3)  # due on steps 3, 6 and 9
FORMATS: dict[str, Any] = {"row-major": torch.contiguous_format, "channels_last": torch.channels_last}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.conv = nn.Conv2d(8, 24, 3)
        self.grouped = nn.Conv2d(12, 9, 3, groups=3)
        self.up = nn.ConvTranspose2d(8, 12, 3)
        self.volume = nn.Conv3d(4, 6, 3)
        self.linear = nn.Linear(44, 65)


def lay(model: nn.Module, optimizer: torch.optim.Optimizer | None, layout: str) -> None:
    """Brings every weight, and its state, into the layout; a linear one is transposed."""
    for parameter in model.parameters():
        state = {} if optimizer is None else optimizer.state[parameter]
        for tensor in (parameter, *(x for x in state.values() if x.ndim == parameter.ndim and x.ndim)):
            tensor.data = laid(tensor.data, layout)


def laid(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    plain = tensor.contiguous()
    if layout == "row-major":
        return plain
    if tensor.ndim == 2:
        return plain.t().contiguous().t()
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return plain.contiguous(memory_format=formats.get(tensor.ndim, torch.contiguous_format))


class Run:
    """A model that trains on made-up gradients, the same whatever the layout."""

    def __init__(self, layout: str, **options: Any) -> None:
        self.model, self.layout, self.steps = Net(), layout, 0
        lay(self.model, None, layout)
        self.optimizer = adamw(self.model)
        self.pruner = bs.Pruner(self.model, self.optimizer, **{"schedule": LINEAR, **options})

    def train(self, steps: int, gradients: str | None = None, few: bool = False) -> Run:
        for _ in range(steps):
            self.steps += 1
            generator = torch.Generator().manual_seed(self.steps)
            for parameter in self.model.parameters():
                values = torch.randn(parameter.shape, generator=generator)
                parameter.grad = laid(values.sign() if few else values, gradients or self.layout)
            self.optimizer.step()
            self.pruner.step()
        return self

    def move(self, layout: str) -> Run:
        self.layout = layout
        lay(self.model, self.optimizer, layout)
        return self

    def same_as(self, other: Run) -> None:
        mine, theirs = everything(self.model, self.optimizer), everything(other.model, other.optimizer)
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name
        assert list(self.pruner.masks) == list(other.pruner.masks)
        for name, mask in self.pruner.masks.items():
            assert torch.equal(mask, other.pruner.masks[name]), name
        assert self.pruner.masks.packed == other.pruner.masks.packed
        for event, their in zip(self.pruner.history, other.pruner.history, strict=True):
            assert facts(event) == facts(their)
        saved, expected = self.pruner.state_dict()["masks"], other.pruner.state_dict()["masks"]
        assert saved.keys() == expected.keys()
        assert all(torch.equal(saved[name], expected[name]) for name in saved)


def orders(pruner: bs.Pruner) -> set[Any]:
    return {mask.order for mask in pruner.masks.packed}


OPTIONS: dict[str, dict[str, Any]] = {
    "global": {},
    "tensor": {"scope": "tensor"},
    "row": {"scope": "row"},
    "2:4": {"scope": "2:4", "schedule": bs.OneShot(0.5, 3), "ignore": "grouped.weight"},
    "erk": {"scope": "tensor", "distribution": "erk"},
    "magnitude, capped": {"scorer": "magnitude", "max_tensor_sparsity": 0.6},
    "gradient": {"scorer": "gradient"},
    "random": {"scorer": "random", "seed": 3},
    "regrow": {"regrow": True},
    "regrow, grads": {"regrow": True, "hold": "grads"},
    "grads": {"hold": "grads"},
    "no moments": {"mask_optimizer_state": False},
    "bitter10": {"scorer": "bitter10"},
    "bitter10c": {"scorer": "bitter10c"},
    "movement": {"scorer": "movement"},
}


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_runs_are_those_of_row_major_models(options: str, few: bool) -> None:
    found, expected = (Run(layout, **OPTIONS[options]).train(10, few=few) for layout in ("last", "row-major"))
    found.same_as(expected)
    assert len(orders(found.pruner) - {ROW_MAJOR}) >= 3 and orders(expected.pruner) == {ROW_MAJOR}
    found.pruner.finalize()
    expected.pruner.finalize()
    assert (
        not any(found.pruner.report().violations.values())
        if hasattr(found.pruner.report(), "violations")
        else True
    )
    found.same_as(expected)


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_gradients_in_another_layout(hold: str) -> None:
    found = Run("last", hold=hold, scorer="taylor").train(10, gradients="row-major")
    found.same_as(Run("row-major", hold=hold, scorer="taylor").train(10))


@pytest.mark.parametrize("options", ["global", "row", "regrow", "grads", "bitter10"])
def test_a_model_may_change_its_layout_between_steps(options: str) -> None:
    expected = Run("row-major", **OPTIONS[options]).train(12)
    for steps in ([2, 1, 2, 3, 4], [4, 1, 4, 1, 2]):
        found = Run("last", **OPTIONS[options])
        for at, count in enumerate(steps):
            found.move("row-major" if at % 2 else "last").train(count)
        found.same_as(expected)
        found.move("row-major").train(0).same_as(expected)


def test_a_weight_may_leave_the_layout_of_its_state() -> None:
    """As model.to(memory_format=...) does with an optimizer that has stepped."""
    found, expected = Run("row-major").train(3), Run("row-major").train(10)
    lay(found.model, None, "last")
    found.layout = "last"
    found.train(7).same_as(expected)


@pytest.mark.parametrize("saved", ["row-major", "last"])
@pytest.mark.parametrize("copied", [lambda state: state, copy.deepcopy], ids=["itself", "copy"])
def test_checkpoints_go_from_layout_to_layout(saved: str, copied: Callable[[Any], Any]) -> None:
    loaded = "last" if saved == "row-major" else "row-major"
    expected = Run("row-major").train(10)
    first = Run(saved).train(6)
    second = Run(loaded)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.move(loaded)
    second.pruner.load_state_dict(copied(first.pruner.state_dict()))
    assert orders(second.pruner) == {ROW_MAJOR}
    second.steps = 6
    second.train(4).same_as(expected)
    assert (ROW_MAJOR in orders(first.pruner)) == (saved == "row-major")


def test_masks_go_through_files_and_into_other_models(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    first, plain = Run("last").train(6), Run("row-major").train(6)
    for run, name in ((first, "last"), (plain, "plain")):
        bs.save_masks(tmp_path / name, run.pruner.masks)
    assert bs.load_masks(tmp_path / "last") == bs.load_masks(tmp_path / "plain")
    for masks in (bs.load_masks(tmp_path / "last"), first.pruner.masks, dict(first.pruner.masks)):
        for layout in ("last", "row-major"):
            other = Run(layout, schedule=None)
            other.pruner.load_masks(masks)
            other.train(3)
            assert orders(other.pruner) <= {ROW_MAJOR} | orders(first.pruner)
            for name, keep in plain.pruner.masks.items():
                assert torch.equal(other.pruner.masks[name], keep)
                assert not other.model.get_parameter(name)[~keep].any()
                assert other.model.get_parameter(name)[keep].all()


def test_zeros_are_found_counted_and_applied() -> None:
    run, plain = Run("last").train(9), Run("row-major").train(9)
    averaged = Net()
    lay(averaged, None, "last")
    assert str(run.pruner.apply_to(averaged)) == str(plain.pruner.apply_to(Net()))
    for name, keep in plain.pruner.masks.items():
        assert not averaged.get_parameter(name)[~keep].any() and averaged.get_parameter(name)[keep].all()
    assert run.pruner.sparsity().overall == plain.pruner.sparsity().overall
    found = bs.Pruner.from_zeros(run.model, adamw(run.model))
    expected = bs.Pruner.from_zeros(plain.model, adamw(plain.model))
    assert found.masks.packed == expected.masks.packed and found.masks.packed == plain.pruner.masks.packed


@pytest.mark.parametrize("scope", ["global", "tensor", "row"])
def test_whole_models(scope: str) -> None:
    events = []
    models = [Net(), Net()]
    lay(models[1], None, "last")
    for model in models:
        event = bs.prune_(model, sparsity=0.6, scope=scope, scorer="magnitude")
        events.append(facts(event))
    assert events[0] == events[1]
    for name, parameter in models[0].named_parameters():
        assert torch.equal(parameter, models[1].get_parameter(name))
        assert models[1].get_parameter(name).stride() == laid(parameter.data, "last").stride()


def test_the_holder_goes_on_where_nothing_but_addresses_change() -> None:
    """What it keeps of a call is used again while the tensors lie alike, and made anew when they do not."""
    weight = torch.randn(6, 5, 3, 3).contiguous(memory_format=torch.channels_last)
    keep = torch.rand(6, 5, 3, 3) < 0.5
    masks = (Mask.from_bool(keep, "w"),)
    holder = Holder(("weight",))
    again = []
    kernel_first = weight.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    assert kernel_first.stride() != weight.stride() and not kernel_first.is_contiguous()
    plain = weight.contiguous()
    for tensor in (weight, weight, weight.clone(), kernel_first, kernel_first, plain, plain, weight.clone()):
        tensor.fill_(1.0)
        again.append(holder.again([tensor], masks))
        holder.apply([ScoreInputs(tensor, name="w")], masks)
        assert torch.equal(tensor != 0, keep)
    assert again[1:] == [
        True,
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_a_look_between_steps_reads_no_more_of_them_than_of_others() -> None:
    """Every pruned place is looked at in memory order, in slices, whatever order the masks came in."""
    model = nn.ModuleList([nn.Conv2d(64, 64, 3, bias=False) for _ in range(8)])
    model.to(memory_format=torch.channels_last)
    keep = torch.rand(64, 64, 3, 3) < 0.5
    masks = [Mask.from_bool(keep, f"{i}.weight") for i in range(8)]
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    entries = pruner.plan().targets
    with torch.no_grad():
        for conv in model:
            conv.weight[~keep] = 0.0
    sample = ZeroSample(model, entries, masks)
    total = 8 * keep.numel()
    for _ in range(70):
        assert not sample.look()
        turn = sample._next(on_device=False)
        assert turn is not None
        assert sum(one.end - one.start for one in turn.stretches) < 0.05 * total
        found = [one.item(model.get_parameter(one.entry.name).detach(), "") for one in turn.stretches]
        assert all(item is not None and item[0].weight.is_contiguous() for item in found)
    for tensor, index in ((0, 0), (3, 777), (7, -1)):
        place = tuple((~keep).nonzero()[index].tolist())
        with torch.no_grad():
            model[tensor].weight[place] = 1e-38
        sample = ZeroSample(model, entries, masks)
        assert any(sample.look() for _ in range(64))
        with torch.no_grad():
            model[tensor].weight[place] = 0.0
