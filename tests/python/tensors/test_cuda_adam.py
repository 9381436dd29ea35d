"""The compiled CUDA form of the optimizer's pass from rows of addresses, against the CPU's on the same rows.

Every test runs with the CPU engine in the place of the CUDA engine, with the CUDA engine's kernel on the
emulator, and on a GPU where there is one.
"""

from __future__ import annotations

import copy
import dataclasses
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from bittersweet import ArgumentError, DeviceError, DTypeError, LayoutError, MissingStateError, _core

SIZES = (1, 0, 31, 64, 1030, 4097)
OPTIONS = (1e-3, 0.3, 0.95, 1e-8, 0.1, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # rows of OPTION_COLUMNS
CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
STORAGES = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
]
ROUNDINGS = [(True, 8, 16), (False, 8, 16)]


@dataclass
class Parameter:
    """The arrays of one row, by the names of its columns."""

    arrays: dict[str, torch.Tensor]
    group: int = 0
    trusted: bool = False
    number: int = 0  # of the stream that it draws from

    def row(self) -> list[int]:
        values = {name: tensor.data_ptr() for name, tensor in self.arrays.items()}
        values |= {
            "weight_dtype": CODES[self.arrays["weight"].dtype],
            "state_dtype": CODES[self.arrays["exp_avg"].dtype],
            "numel": self.arrays["weight"].numel(),
            "group": self.group,
            "trusted": self.trusted,
            "number": self.number,
        }
        return [values.get(name, 0) for name in _core.OPTIM_COLUMNS]


@dataclass
class Model:
    parameters: list[Parameter]
    groups: list[tuple[float, ...]] = field(default_factory=lambda: [OPTIONS])

    def table(self) -> array[int]:
        return array("Q", [word for parameter in self.parameters for word in parameter.row()])

    def options(self) -> array[float]:
        return array("d", [value for group in self.groups for value in group])

    def on(self, cuda: Any) -> Model:
        moved = copy.copy(self)
        moved.parameters = [
            dataclasses.replace(p, arrays={name: cuda.put(tensor) for name, tensor in p.arrays.items()})
            for p in self.parameters
        ]
        return moved


def model(weight: torch.dtype, state: torch.dtype, dead: float = 0.5) -> Model:
    generator = torch.Generator().manual_seed(1)
    parameters = []
    for i, size in enumerate(SIZES):
        w, g, m, v, largest = (torch.randn(size, generator=generator) for _ in range(5))
        keep = (torch.rand(-(-size // 64) * 64, generator=generator) >= dead).numpy()
        keep[size:] = False
        words = torch.from_numpy(np.packbits(keep, bitorder="little").view(np.int64).copy())
        arrays = {
            "weight": w.to(weight),
            "grad": g.to(weight),
            "exp_avg": m.to(state),
            "exp_avg_sq": (v * v).to(state),
            "max_exp_avg_sq": (largest * largest).to(state),
            "step": torch.tensor(float(3 * i)),
        }
        parameters.append(Parameter(arrays | ({"mask": words} if size else {})))
    return Model(parameters)


class Call:
    """`cuda_step_adam` on a model, with the memory that it needs."""

    def __init__(self, cuda: Any, moved: Model) -> None:
        self.native, self.queue, self.moved = cuda.native, cuda.queue(0), moved
        self.bytes = self.native.cuda_adam_bytes(moved.table(), moved.options())
        device = moved.parameters[0].arrays["weight"].device
        self.workspace = torch.empty(self.bytes, dtype=torch.uint8, device=device)
        self.dirty = torch.full((len(moved.parameters),), 7, dtype=torch.int32, device=device)

    def __call__(
        self,
        rounding: tuple[bool, int, int] = (True, 8, 16),
        weights_only: bool = False,
        rates: tuple[int, ...] = (),
        **memory: Any,
    ) -> list[int]:
        given = {name: 0 if value is None else value.data_ptr() for name, value in memory.items()}
        addresses = (
            given.get("grad_scale", 0),
            given.get("found_inf", 0),
            self.dirty.data_ptr(),
            self.workspace.data_ptr(),
            self.bytes,
        )
        self.native.cuda_step_adam(
            self.queue, self.moved.table(), self.moved.options(), *rounding, weights_only,
            array("Q", rates), addresses,
        )  # fmt: skip
        return [i for i, flag in enumerate(self.dirty.tolist()) if flag]


def expect_same(expected: Model, found: Model) -> None:
    for i, (want, got) in enumerate(zip(expected.parameters, found.parameters, strict=True)):
        for name, tensor in want.arrays.items():
            bits = tensor.reshape(-1).view(torch.uint8)
            assert torch.equal(bits, got.arrays[name].cpu().reshape(-1).view(torch.uint8)), f"{name} of {i}"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_steps_have_the_bits_of_the_cpu(
    cuda: Any, storage: Any, rounding: Any, weights_only: bool, amsgrad: bool
) -> None:
    here = model(*storage)
    here.groups = [OPTIONS, (0.1, 0.5, 0.5, 0.0, 0.0, 0.0, float(amsgrad), 1.0, 0.0, 0.0, 0.0)]
    for parameter in here.parameters[::2]:
        parameter.group = 1
    there = here.on(cuda)
    call = Call(cuda, there)
    for _ in range(3):
        dirty = _core.step_adam(here.table(), here.options(), *rounding, 0.0, weights_only)
        assert call(rounding, weights_only) == dirty
    expect_same(here, there)


@pytest.mark.parametrize("storage", STORAGES[1:3], ids=str)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_drawn_steps_have_the_bits_of_the_cpu(cuda: Any, storage: Any, amsgrad: bool) -> None:
    here = model(*storage)
    drawn = (0.1, 0.5, 0.5, 0.0, 0.1, 0.0, float(amsgrad), 0.0, 1.0, 12345.0, 2.0**31)
    here.groups = [OPTIONS, drawn]
    for number, parameter in enumerate(here.parameters):
        parameter.group, parameter.number = int(number != 3), 7 * number
    nearest = copy.deepcopy(here)
    nearest.groups[1] = (*drawn[:8], 0.0, 0.0, 0.0)
    there = here.on(cuda)
    call = Call(cuda, there)
    for _ in range(3):
        dirty = _core.step_adam(here.table(), here.options(), True, 8, 16, 0.0, False)
        assert call() == dirty
        _core.step_adam(nearest.table(), nearest.options(), True, 8, 16, 0.0, False)
    expect_same(here, there)
    with pytest.raises(AssertionError, match="weight of"):
        expect_same(nearest, there)


def test_dead_places_end_as_zeros_and_are_told_of(cuda: Any) -> None:
    here = model(torch.float32, torch.float32, dead=1.0)
    for parameter in here.parameters:
        for name in ("weight", "grad", "exp_avg", "exp_avg_sq"):
            parameter.arrays[name].fill_(float("nan"))
    there = here.on(cuda)
    call = Call(cuda, there)
    assert call() == [0, 2, 3, 4, 5]
    assert call() == []
    for parameter in there.parameters:
        for name in ("weight", "exp_avg", "exp_avg_sq"):
            assert not parameter.arrays[name].view(torch.int32).any()
        assert parameter.arrays["grad"].isnan().all()


def test_gradients_are_divided_in_place(cuda: Any) -> None:
    here = model(torch.bfloat16, torch.bfloat16)
    there = here.on(cuda)
    _core.step_adam(here.table(), here.options(), True, 8, 16, 1024.0, False)
    Call(cuda, there)(grad_scale=cuda.put(torch.tensor(1024.0)))
    expect_same(here, there)


def test_infinite_gradients_forbid_the_step(cuda: Any) -> None:
    here = model(torch.float32, torch.float32)
    there = here.on(cuda)
    found_inf, scale = cuda.put(torch.tensor(1.0)), cuda.put(torch.tensor(8.0))
    assert Call(cuda, there)(found_inf=found_inf, grad_scale=scale) == []
    expect_same(here, there)
    found_inf.zero_()
    Call(cuda, there)(found_inf=found_inf)
    _core.step_adam(here.table(), here.options(), True, 8, 16, 0.0, False)
    expect_same(here, there)


def test_learning_rates_may_lie_on_the_device(cuda: Any) -> None:
    here = model(torch.float32, torch.float32)
    here.groups = [OPTIONS, OPTIONS]
    here.parameters[-1].group = 1
    there = here.on(cuda)
    rate = cuda.put(torch.tensor(0.25))
    Call(cuda, there)(rates=(0, rate.data_ptr()))
    here.groups = [OPTIONS, (0.25, *OPTIONS[1:])]
    _core.step_adam(here.table(), here.options(), True, 8, 16, 0.0, False)
    expect_same(here, there)


def test_what_does_not_fit_is_refused_before_anything_changes(cuda: Any) -> None:
    here = model(torch.float32, torch.float32)
    there = here.on(cuda)
    call = Call(cuda, there)
    with pytest.raises(ArgumentError, match="rates"):
        call(rates=(0, 0))
    with pytest.raises(LayoutError, match="rates"):
        call(rates=(2,))
    with pytest.raises(LayoutError, match="grad_scale"):
        call.native.cuda_step_adam(
            call.queue, there.table(), there.options(), True, 8, 16, False, array("Q"),
            (1, 0, call.dirty.data_ptr(), call.workspace.data_ptr(), call.bytes),
        )  # fmt: skip
    with pytest.raises(LayoutError, match="dirty"):
        call.native.cuda_step_adam(
            call.queue, there.table(), there.options(), True, 8, 16, False, array("Q"),
            (0, 0, 0, call.workspace.data_ptr(), call.bytes),
        )  # fmt: skip
    there.groups = [(-1.0, *OPTIONS[1:])]
    with pytest.raises(ArgumentError, match="lr"):
        call()
    there.groups = [OPTIONS]
    there.parameters[2].group = 1
    with pytest.raises(ArgumentError, match="group 1"):
        call()
    there.parameters[2].group = 0
    grad = there.parameters[2].arrays.pop("grad")
    with pytest.raises(MissingStateError, match="grad"):
        call()
    there.parameters[2].arrays["grad"] = grad
    exp_avg = there.parameters[2].arrays["exp_avg"]
    there.parameters[2].arrays["exp_avg"] = exp_avg.half()
    with pytest.raises(DTypeError):
        call()
    there.parameters[2].arrays["exp_avg"] = exp_avg
    expect_same(here, there)


def test_a_build_without_cuda_says_why() -> None:
    if _core.CUDA_BUILT:
        pytest.skip("this build has a CUDA engine")
    here = model(torch.float32, torch.float32)
    with pytest.raises(DeviceError, match="has no CUDA engine"):
        _core.cuda_adam_bytes(here.table(), here.options())
