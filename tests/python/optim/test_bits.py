"""The step against torch's fused one, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from optim_support import KINDS, ODD, Pair, assert_equal, give_gradients, parameters, values

SMALL = tuple((size,) for size in range(1, 71))
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no decay": {"weight_decay": 0.0},
    "decay": {"weight_decay": 0.1},
    "low betas": {"betas": (0.3, 0.95), "weight_decay": 0.1},
    "beta1 at the turn": {"betas": (0.5, 0.9)},
    "no momentum": {"betas": (0.0, 0.0), "weight_decay": 0.1},
    "eps 0": {"eps": 0.0, "betas": (0.3, 0.95)},
    "great eps": {"eps": 1e3},
    "amsgrad": {"amsgrad": True, "betas": (0.3, 0.5), "weight_decay": 0.1},
    "maximize": {"maximize": True, "betas": (0.3, 0.95), "weight_decay": 0.1},
    "all": {"amsgrad": True, "maximize": True, "betas": (0.3, 0.95), "weight_decay": 0.1, "lr": 0.1},
    "lr 0": {"lr": 0.0, "weight_decay": 0.1},
    "lr beyond 1": {"lr": 3.0, "weight_decay": 0.5},
    "tensor lr": {"lr": torch.tensor(3e-3), "betas": (0.3, 0.95)},
    "double tensor lr": {"lr": torch.tensor([3e-3], dtype=torch.float64)},
    "denormal decay": {"weight_decay": 1e-42},
}


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_small_and_odd_sizes(kind: str, dtype: torch.dtype, options: str) -> None:
    pair = Pair(kind, (*SMALL, *ODD[:2], (0, 3), (), (1, 1, 64)), dtype, **OPTIONS[options])
    pair.run(20)
    pair.assert_equal()


def test_adam_with_the_decay_of_adamw() -> None:
    pair = Pair("Adam", SMALL, betas=(0.3, 0.95), weight_decay=0.1, decoupled_weight_decay=True)
    pair.run(6)
    pair.assert_equal()
    other = Pair("AdamW", SMALL, betas=(0.3, 0.95), weight_decay=0.1)
    other.run(6)
    assert_equal(pair.own_parameters, pair.own, other.own_parameters, other.own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_threads(kind: str, dtype: torch.dtype) -> None:
    for count in (1, 2, 3, 7):
        pair = Pair(kind, ODD, dtype, betas=(0.3, 0.95), weight_decay=0.1, amsgrad=count == 3)
        with torch_threads(count):
            pair.run(5)
        pair.assert_equal()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_three_hundred_steps(kind: str, dtype: torch.dtype) -> None:
    pair = Pair(kind, ((7, 13), (37,), (64,), (130,)), dtype, betas=(0.8, 0.97), weight_decay=0.1)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(one, 300) for one in (pair.own, pair.theirs)]
    for step in range(300):
        pair.step(step)
        for scheduler in schedulers:
            scheduler.step()
    pair.assert_equal()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("orders", [(-38.0, -17.0), (-20.0, 18.0), (17.0, 30.0)])
def test_gradients_of_any_size(orders: tuple[float, float], dtype: torch.dtype) -> None:
    """Squares that are denormal, zero or infinite."""
    for kind in KINDS:
        pair = Pair(kind, (*SMALL, (127, 129)), dtype, betas=(0.3, 0.95))
        pair.run(12, low=orders[0], high=orders[1])
        pair.assert_equal()


@pytest.mark.parametrize("flush", [False, True])
def test_denormals_are_flushed_where_torch_flushes_them(flush: bool) -> None:
    """With one thread: torch's others do not flush when the calling one is told to."""
    pair, before = Pair("AdamW", (*SMALL, (127, 129)), betas=(0.3, 0.95)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.set_flush_denormal(flush)
        pair.run(12, low=-39.0, high=-18.0)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
    pair.assert_equal()
    second = pair.own.state[pair.own_parameters[-1]]["exp_avg_sq"]
    tiny = (second != 0) & (second.abs() < torch.finfo(torch.float32).tiny)
    assert bool(tiny.any()) is not flush


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", ["defaults", "amsgrad", "maximize"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_no_numbers(kind: str, options: str, dtype: torch.dtype) -> None:
    shapes = [shape for shape in SMALL if options != "amsgrad" or shape[0] % 16 == 0]
    pair = Pair(kind, shapes, dtype, **OPTIONS[options])
    for step, value in enumerate((1.0, math.nan, 2.0, math.inf, -math.inf, -0.0, 1.0)):
        for of in (pair.own_parameters, pair.their_parameters):
            give_gradients(of, step)
            for i, parameter in enumerate(of):
                assert parameter.grad is not None
                parameter.grad[(step * 7 + i) % parameter.numel()] = value
        pair.own.step()
        pair.theirs.step()
        pair.assert_equal()


@pytest.mark.parametrize("kind", KINDS)
def test_groups_with_options_of_their_own(kind: str) -> None:
    groups: list[dict[str, Any]] = [
        {"lr": 1e-2, "betas": (0.3, 0.95)},
        {"weight_decay": 0.3, "amsgrad": True},
        {"eps": 0.1, "maximize": True},
        {"lr": torch.tensor(2e-3)},
    ]
    pair = Pair(kind, SMALL[:40], groups=groups, weight_decay=0.01)
    for step in range(12):
        pair.step(step)
        for one in (pair.own, pair.theirs):
            one.param_groups[0]["lr"] *= 0.9
            one.param_groups[1]["betas"] = (0.5 + step / 100, 0.9)
            one.param_groups[3]["lr"].mul_(0.8)
    pair.assert_equal()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_scaled_gradients_and_skipped_steps(kind: str, dtype: torch.dtype) -> None:
    pair = Pair(kind, (*SMALL, (127, 129)), dtype, betas=(0.3, 0.95), maximize=True)
    for step, (scale, found) in enumerate(
        ((3.0, 0), (7.0, 1), (None, 0), (65536.0, None), (0.1, 0), (None, 1))
    ):
        for one in (pair.own, pair.theirs):
            one.grad_scale = None if scale is None else torch.tensor(scale)
            one.found_inf = None if found is None else torch.tensor(float(found))
        pair.step(step)
        pair.assert_equal(gradients=True)
    assert pair.own.state[pair.own_parameters[0]]["step"] == 4.0


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_a_gradient_wait(kind: str) -> None:
    pair = Pair(kind, SMALL[:20], betas=(0.3, 0.95))
    for step in range(12):
        for of, one in ((pair.own_parameters, pair.own), (pair.their_parameters, pair.theirs)):
            give_gradients(of, step)
            for i, parameter in enumerate(of):
                if (step + i) % 3 == 0:
                    parameter.grad = None
                if step == 5:
                    parameter.grad = None
            one.step()
    pair.assert_equal()
    counts = {float(state["step"]) for state in pair.own.state.values()}
    assert len(counts) > 1


def test_a_step_without_any_gradient_does_nothing() -> None:
    pair = Pair("AdamW", SMALL[:3])
    pair.own.step()
    assert not pair.own.state
    assert all(torch.equal(a, b) for a, b in zip(pair.own_parameters, pair.their_parameters, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_late_steps(kind: str) -> None:
    """Bias corrections of any count, and one where float32 counts no further."""
    pair = Pair(kind, SMALL[:40], betas=(0.9, 0.999))
    pair.step(0)
    for count in (999.0, 123456.0, 2.0**24, 2.0**24 + 2):
        for one in (pair.own, pair.theirs):
            for state in one.state.values():
                state["step"].fill_(count)
        pair.step(int(count) % 100)
        pair.assert_equal()


def rule(
    w: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, step: int, decoupled: bool, **o: float
) -> None:
    """Adam in float64, w, m and v in place."""
    b1, b2, wd = o["beta1"], o["beta2"], o["weight_decay"]
    g = g.double()
    if decoupled:
        w.mul_(1 - o["lr"] * wd)
    else:
        g = g + wd * w
    m.mul_(b1).add_((1 - b1) * g)
    v.mul_(b2).add_((1 - b2) * g * g)
    w.sub_(o["lr"] / (1 - b1**step) * m / (v.sqrt() / math.sqrt(1 - b2**step) + o["eps"]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_16_bit_parameters_with_float32_states(kind: str, dtype: torch.dtype) -> None:
    shapes = (*SMALL, (127, 129))
    own = parameters(shapes, dtype)
    options = {"lr": 1e-2, "eps": 1e-6, "weight_decay": 0.1}
    optimizer = KINDS[kind][0](own, betas=(0.3, 0.95), state_dtype=torch.float32, **options)
    m = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    v = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    for step in range(1, 11):
        give_gradients(own, step, low=-2.0)
        expected = []
        for i, parameter in enumerate(own):  # each step from the stored weight, which is rounded once
            w = parameter.detach().double()
            assert parameter.grad is not None
            rule(w, parameter.grad, m[i], v[i], step, kind == "AdamW", beta1=0.3, beta2=0.95, **options)
            expected.append(w)
        optimizer.step()
        unit = torch.finfo(dtype).eps / 2
        for i, parameter in enumerate(own):
            state = optimizer.state[parameter]
            assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
            torch.testing.assert_close(state["exp_avg"].double(), m[i], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(state["exp_avg_sq"].double(), v[i], rtol=1e-5, atol=1e-12)
            error = (parameter.detach().double() - expected[i]).abs()
            assert bool((error <= 1.01 * unit * expected[i].abs() + 1e-6).all()), (i, error.max())
            m[i], v[i] = state["exp_avg"].double(), state["exp_avg_sq"].double()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_16_bit_with_float32_states_rounds_the_float32_step_once(kind: str, dtype: torch.dtype) -> None:
    """The arithmetic is that of the float32 step: its weight is rounded where it is stored."""
    shapes = (
        *(((16 * size),) for size in range(1, 9)),
        (64, 33),
    )  # without scalar ends, whose lengths differ
    narrow, wide = parameters(shapes, dtype), parameters(shapes, dtype)
    wide = [torch.nn.Parameter(one.detach().float()) for one in wide]
    own = KINDS[kind][0](narrow, betas=(0.3, 0.95), state_dtype=torch.float32)
    theirs = KINDS[kind][1](wide, betas=(0.3, 0.95), fused=True)
    for step in range(12):
        give_gradients(narrow, step, low=-3.0)
        for one, other in zip(narrow, wide, strict=True):
            assert one.grad is not None
            other.data.copy_(one.detach().float())
            other.grad = one.grad.float()
        own.step()
        theirs.step()
        for other in wide:
            other.data = other.detach().to(dtype).float()
        assert_equal([one.detach().float() for one in narrow], _States(own, narrow), wide, theirs)


class _States:
    """The states of an optimizer by copies of its parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer, of: list[Any]) -> None:
        self.optimizer, self.of = optimizer, list(of)
        self.turn = 0

    @property
    def state(self) -> Any:
        return self

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def __getitem__(self, _: Any) -> Any:
        self.turn += 1
        return self.optimizer.state[self.of[self.turn - 1]]


def test_values_draws_the_same_numbers_again() -> None:
    assert torch.equal(values((5,), 3), values((5,), 3))
