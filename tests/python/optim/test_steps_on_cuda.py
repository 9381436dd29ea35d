"""`bs.optim` on CUDA parameters: the CPU's bits, masks in the step, and nothing that waits.

Tests with `cuda` run with the CPU engine in the place of the CUDA engine, with the CUDA engine's kernels on
the emulator, and on a GPU where there is one. What is done on the CPU is done inside `on_cpu`.
"""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from bittersweet.optim.rows_on_cuda import _TURNS
from bittersweet.steps.selecting import InStep
from bittersweet.tensors import devices
from optim_support import KINDS, MOMENTS, give_gradients, same_bits, some_mask, values
from pruner_support import everything, facts, mlp, train
from torch import nn

SHAPES = ((1,), (7, 13), (64,), (40, 33), (1031,))
FORMS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16, float32 states": (torch.bfloat16, {"state_dtype": torch.float32, "maximize": True}),
    "float16, float32 states": (torch.float16, {"state_dtype": torch.float32}),
    "amsgrad": (torch.float32, {"amsgrad": True, "eps": 1e-4}),
    "drawn": (torch.bfloat16, {"rounding": "stochastic", "rounding_seed": 2**40 + 3}),
}
NASTY = (math.nan, math.inf, -0.0, 1e-42, 3e38)


class Trained:
    """Parameters in two groups and their optimizer, on the device or, with `cuda` None, on the CPU."""

    def __init__(self, cuda: Any, kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        self.cuda = cuda
        of = [values(shape, i, dtype=dtype) for i, shape in enumerate(SHAPES)]
        self.parameters = [nn.Parameter(self.put(one)) for one in of]
        groups = [{"params": self.parameters[::2]}, {"params": self.parameters[1::2], "lr": 0.05}]
        self.optimizer: Any = KINDS[kind][0](groups, lr=0.1, weight_decay=0.1, **options)
        self.masks = [some_mask(shape, 0.6, i) for i, shape in enumerate(SHAPES)]
        self.masks[3][:20] = False

    def put(self, value: torch.Tensor) -> torch.Tensor:
        return value.clone() if self.cuda is None else self.cuda.put(value)

    def hold(self) -> None:
        masks = {one: self.put(mask) for one, mask in zip(self.parameters, self.masks, strict=True)}
        self.optimizer.hold(masks)

    def gradients(self, step: int) -> None:
        of = [nn.Parameter(one.detach().cpu()) for one in self.parameters]
        give_gradients(of, step, -3.0, 0.5)
        for i, (one, own, mask) in enumerate(zip(of, self.parameters, self.masks, strict=True)):
            assert one.grad is not None
            if step > 2:
                dead = one.grad[~mask]
                one.grad[~mask] = torch.tensor(NASTY)[(torch.arange(len(dead)) + i) % len(NASTY)].to(
                    one.dtype
                )
            own.grad = self.put(one.grad)

    def step(self, step: int) -> None:
        self.gradients(step)
        self.optimizer.step()

    def all(self) -> list[torch.Tensor]:
        self.optimizer.state_dict()
        of_state = [self.optimizer.state[one] for one in self.parameters]
        found = [*self.parameters, *(kept[key] for kept in of_state for key in sorted(kept))]
        return [one.detach().cpu().clone() for one in found]


def assert_same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> None:
    assert len(one) == len(other)
    for i, (mine, its) in enumerate(zip(one, other, strict=True)):
        assert same_bits(mine, its), i


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_have_the_bits_of_the_cpu(cuda: Any, kind: str, form: str) -> None:
    dtype, options = FORMS[form]
    with cuda.on_cpu():
        here = Trained(None, kind, dtype, **options)
    there = Trained(cuda, kind, dtype, **options)
    for step in range(6):
        if step == 2:
            with cuda.on_cpu():
                here.hold()
            there.hold()
        with cuda.on_cpu():
            here.step(step)
        reads = cuda.reads
        there.step(step)
        assert cuda.reads == reads
        assert_same(there.all(), here.all())
    assert str(there.optimizer.held) == f"{len(SHAPES)} tensors in the step, 0 after it"
    for one, mask in zip(there.parameters, there.masks, strict=True):
        for key, tensor in (("weight", one), *there.optimizer.state[one].items()):
            assert key == "step" or not tensor.detach().cpu()[~mask].float().abs().sum(), key
        assert tensor.device == one.device
    there.optimizer.hold({})
    with cuda.on_cpu():
        here.optimizer.hold({})
        here.step(9)
    there.step(9)
    assert_same(there.all(), here.all())


def test_parameters_in_other_orders_of_memory_are_stepped_where_they_lie(cuda: Any) -> None:
    def laid(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 2:
            return tensor.t().contiguous().t()
        return tensor.contiguous(memory_format=torch.channels_last)

    def made(put: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[nn.Parameter], Any]:
        parameters = [nn.Parameter(put(laid(values(shape, i)))) for i, shape in enumerate(shapes)]
        optimizer: Any = optim.AdamW(parameters, lr=0.1)
        optimizer.hold(
            {one: put(some_mask(shape, 0.6, 1)) for one, shape in zip(parameters, shapes, strict=True)}
        )
        return parameters, optimizer

    shapes = ((40, 33), (6, 4, 3, 3))
    with cuda.on_cpu():
        here, stepping = made(torch.clone)
    there, enqueuing = made(cuda.put)
    for step in range(3):
        for i, (one, other) in enumerate(zip(here, there, strict=True)):
            one.grad = laid(values(tuple(one.shape), 10 * step + i))
            other.grad = cuda.put(one.grad)
        with cuda.on_cpu():
            stepping.step()
        enqueuing.step()
    assert str(enqueuing.held) == "2 tensors in the step, 0 after it"
    for one, other in zip(here, there, strict=True):
        assert other.stride() == one.stride()
        assert same_bits(other.detach().cpu(), one.detach())


def test_scales_and_forbidden_steps_stay_on_the_device(cuda: Any) -> None:
    with cuda.on_cpu():
        here = Trained(None, "AdamW")
        here.hold()
    there = Trained(cuda, "AdamW")
    there.hold()
    for step, (scale, found_inf) in enumerate(((8.0, 0.0), (8.0, 1.0), (2.0, 0.0), (None, 0.0))):
        for one, context in ((here, cuda.on_cpu), (there, None)):
            optimizer = one.optimizer
            optimizer.grad_scale = None if scale is None else one.put(torch.tensor([scale]))
            optimizer.found_inf = one.put(torch.tensor(found_inf))
            if context is None:
                one.step(step)
            else:
                with context():
                    one.step(step)
        gradients = [
            [one.grad.cpu() for one in each.parameters if one.grad is not None] for each in (there, here)
        ]
        assert_same(there.all(), here.all())
        assert_same(*gradients)
    assert cuda.reads == 0


@pytest.mark.parametrize("forbidden", [0.0, 1.0])
def test_what_a_forbidden_step_leaves_is_held_by_the_pruner(cuda: Any, forbidden: float) -> None:
    """The host cannot know whether the step was made: what may not be 0 is written anew."""
    model = cuda.put(mlp())
    optimizer: Any = optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    train(model, optimizer, pruner, 3)
    held = [(one, pruner.masks[name]) for name, one in model.named_parameters() if name in pruner.masks]
    for write in (False, True):
        if write:
            with torch.no_grad():
                for one, _ in held:
                    one.add_(0.5)
        optimizer.grad_scale, optimizer.found_inf = (cuda.put(torch.tensor(x)) for x in (1.0, forbidden))
        for one in model.parameters():
            one.grad = torch.ones_like(one)
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf
        pruner.step(skipped=bool(forbidden))
        for one, mask in held:
            assert not one.detach()[~mask].any() and not optimizer.state[one]["exp_avg"][~mask].any()
            assert float(optimizer.state[one]["step"]) == 3 + (not forbidden) * (1 + write)


def test_zeros_that_are_owed_are_written_though_the_next_step_is_forbidden(cuda: Any) -> None:
    model = cuda.put(mlp())
    optimizer: Any = optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.Linear(0.3, 0.8, 1, 9, frequency=4))
    train(model, optimizer, pruner, 5)  # an event is the last that there was
    optimizer.found_inf = cuda.put(torch.tensor(1.0))
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    optimizer.step()
    for name, mask in pruner.masks.items():
        state = optimizer.state[model.get_parameter(name)]
        assert all(not state[key][~mask].any() for key in MOMENTS if key in state), name


def test_learning_rates_on_the_device_are_read_there(cuda: Any) -> None:
    with cuda.on_cpu():
        here = Trained(None, "AdamW")
    there = Trained(cuda, "AdamW")
    rates = [cuda.put(torch.tensor(0.3)), cuda.put(torch.tensor(0.25, dtype=torch.float64))]
    for group, rate in zip(there.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for step in range(3):
        for group, rate in zip(here.optimizer.param_groups, rates, strict=True):
            group["lr"] = float(torch.as_tensor(rate, dtype=torch.float32))
        with cuda.on_cpu():
            here.step(step)
        there.step(step)
        for rate in rates:
            rate.mul_(0.5)
    assert_same(there.all(), here.all())


def test_what_something_else_wrote_is_told_without_waiting(cuda: Any) -> None:
    there = Trained(cuda, "AdamW")
    there.hold()
    reads, told = [], []
    for step in range(3 * _TURNS):
        if step == 5:
            with torch.no_grad():
                there.parameters[3].add_(1.0)
        before = cuda.reads
        there.step(step)
        told += [(step, id(one)) for one in there.optimizer.violated_lately]
        reads.append(cuda.reads - before)
        if step in (5, 6):
            expected = [id(there.parameters[3])] * (step == 5)
            assert [id(one) for one in there.optimizer.violated] == expected
    assert told == [(2 * _TURNS - 1, id(there.parameters[3]))]
    late = {step: read for step, read in enumerate(reads) if read}
    assert late == {2 * _TURNS - 1: 2, 3 * _TURNS - 1: 1}  # flags twice, and once how many words are empty


@pytest.mark.filterwarnings("error")
def test_a_pruner_warns_of_it(cuda: Any, fresh_warnings: None) -> None:
    model = cuda.put(mlp())
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    train(model, optimizer, pruner, 3)
    with torch.no_grad():
        model[2].weight.add_(0.5)
    with pytest.warns(UserWarning, match=r"not 0 when optimizer.step\(\) began \('2.weight'\)"):
        train(model, optimizer, pruner, 2 * _TURNS, first=4)


def test_dead_rows_are_repaired_after_writes_that_nobody_tells_of(cuda: Any) -> None:
    there = Trained(cuda, "AdamW")
    there.hold()
    found = []
    for step in range(64):
        if step == 20:
            there.parameters[3].data[:19] = 1.0  # whole words, which are left unread
        there.step(1)
        found += [(step, id(one)) for one in there.optimizer.violated]
    assert found == [(63, id(there.parameters[3]))]
    assert not there.parameters[3].detach().cpu()[~there.masks[3]].any()


def test_capture_needs_capturable_and_reads_nothing(host_cuda: Any) -> None:
    plain, capturable = Trained(host_cuda, "AdamW"), Trained(host_cuda, "AdamW", capturable=True)
    assert [one.optimizer.param_groups[0]["capturable"] for one in (plain, capturable)] == [False, True]
    for one in (plain, capturable):
        one.hold()
        for step in range(3):
            one.step(step)
    assert_same(plain.all(), capturable.all())
    host_cuda.capturing = True
    before = plain.all()
    with pytest.raises(bs.Error, match=r"being captured into a CUDA graph; accepted: with capturable=True"):
        plain.step(3)
    assert_same(plain.all(), before)
    with torch.no_grad():
        capturable.parameters[3].data += 1.0  # known to nobody
    capturable.step(3)
    assert host_cuda.reads == 0
    assert not capturable.parameters[3].detach()[~capturable.masks[3]].any()
    host_cuda.capturing = False
    assert [id(one) for one in capturable.optimizer.violated] == [id(capturable.parameters[3])]
    again = copy.deepcopy(capturable.optimizer)
    again.load_state_dict(plain.optimizer.state_dict())
    assert not any(group["capturable"] for group in again.param_groups)


def test_numbers_are_single(host_cuda: Any) -> None:
    one = Trained(host_cuda, "AdamW")
    one.step(0)
    before = one.all()
    one.optimizer.param_groups[1]["lr"] = torch.tensor([0.1, 0.2])
    with pytest.raises(bs.ArgumentError, match="lr: a tensor of 2 elements"):
        one.optimizer.step()
    assert_same(one.all(), before)


def test_what_a_captured_step_points_to_is_kept(host_cuda: Any) -> None:
    one = Trained(host_cuda, "AdamW", capturable=True)
    one.hold()
    one.step(0)
    host_cuda.capturing = True
    one.step(1)
    host_cuda.capturing = False
    rows = one.optimizer._parts.rows[0]
    used = [weakref.ref(tensor) for tensor in (rows._memory.room, rows._flags.words, rows._held[3].held)]
    del rows
    one.masks[3] = ~one.masks[3]
    one.hold()
    for gradients in (one.parameters[:2], ()):  # other rows, then none at all
        for parameter in one.parameters:
            parameter.grad = torch.ones_like(parameter) if any(parameter is p for p in gradients) else None
        one.optimizer.step()
    gc.collect()
    assert all(tensor() is not None for tensor in used)


def test_parameters_on_several_devices(host_cuda: Any) -> None:
    """On the host, cuda:0 and cuda:1, by three passes, with a scale that lies on one of them."""
    with host_cuda.on_cpu():
        here = Trained(None, "Adam")
    there = Trained(host_cuda, "Adam")
    places = [devices.HOST, 0, 1, 0, devices.HOST]
    for one, place in zip(there.parameters, places, strict=True):
        state = {"step": torch.zeros(()), **{key: torch.zeros_like(one) for key in MOMENTS[:2]}}
        there.optimizer.state[one] = state
        for tensor in (one, *state.values()):
            host_cuda.devices[tensor.data_ptr()] = place
    seen: list[int] = []
    inner = host_cuda.native.cuda_step_adam
    native = _Watching(host_cuda.native, lambda queue, *_: seen.append(queue[0]) or inner(queue, *_))
    host_cuda.native = native
    for step in range(3):
        with host_cuda.on_cpu():
            here.step(step)
        there.gradients(step)
        for one, place in zip(there.parameters, places, strict=True):
            assert one.grad is not None
            host_cuda.devices[one.grad.data_ptr()] = place
        there.optimizer.step()
    assert_same(there.all(), here.all())
    assert seen == [1, 0] * 3
    masks = {there.parameters[0]: there.masks[0]}
    with pytest.raises(bs.DeviceError, match=r"mask of 'parameter 0' is on cuda:0 and its weight on the CPU"):
        there.optimizer.hold(masks)


class _Watching:
    def __init__(self, native: Any, step_adam: Callable[..., Any]) -> None:
        self._native, self.cuda_step_adam = native, step_adam

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


def test_a_parameter_that_left_its_mask_behind_is_named(host_cuda: Any) -> None:
    with host_cuda.on_cpu():
        one = Trained(None, "AdamW")
        one.hold()
        one.step(0)
    before = one.all()
    with pytest.raises(bs.DeviceError, match=r"it is on cuda:0 and its mask on the CPU.*hold\(\{\}\)"):
        one.step(1)
    assert_same(one.all(), before)
    one.hold()
    one.step(1)


def test_checkpoints_go_from_device_to_device(cuda: Any) -> None:
    there = Trained(cuda, "AdamW", amsgrad=True)
    with cuda.on_cpu():
        here = Trained(None, "AdamW", amsgrad=True)
        of = [copy.deepcopy(one) for one in here.parameters]
        groups = [{"params": of[::2]}, {"params": of[1::2], "lr": 0.05}]
        theirs = torch.optim.AdamW(groups, 0.1, weight_decay=0.1, amsgrad=True, foreach=True)
        for i, one in enumerate(of):
            one.grad = values(one.shape, 50 + i)
        theirs.step()  # counts on the CPU
        saved = theirs.state_dict()
        here.optimizer.load_state_dict(copy.deepcopy(saved))
    there.optimizer.load_state_dict(copy.deepcopy(saved))
    for one in there.parameters:
        assert all(tensor.device == one.device for tensor in there.optimizer.state[one].values())
    for step in range(2):
        with cuda.on_cpu():
            here.step(step)
        there.step(step)
    assert_same(there.all(), here.all())
    assert str(there.optimizer.held) == "0 tensors in the step, 0 after it"
    mine, its = there.optimizer.state_dict(), here.optimizer.state_dict()
    assert mine["param_groups"] == its["param_groups"] and mine["state"].keys() == its["state"].keys()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scorer": "bitter7"},
        {"sync": False},
        {"regrow": True},
        {"regrow": bs.RigL(0.5)},
        {"mask_optimizer_state": False},
    ],
    ids=str,
)
def test_a_pruned_run_is_that_of_the_cpu_bit_for_bit(
    cuda: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that the CPU makes within the optimizer's step, and a device behind it."""
    within: list[bool] = []
    take = InStep.take

    def taken(self: InStep, *given: Any) -> Any:
        found = take(self, *given)
        within.append(found is not None)
        return found

    monkeypatch.setattr(InStep, "take", taken)

    def start() -> tuple[Any, Any, Any]:
        model = cuda.put(mlp()) if cuda.active else mlp()
        optimizer = optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        schedule = bs.Linear(0.2, 0.7, begin_step=2, end_step=10, frequency=4)
        pruner = bs.Pruner(model, optimizer, schedule=schedule, **{"scorer": "magnitude", **options})
        return model, optimizer, pruner

    if cuda.name == "gpu":
        pytest.skip("torch's own forward and backward pass have other bits on a GPU")
    with cuda.on_cpu():
        model, optimizer, pruner = start()
        expected = train(model, optimizer, pruner, 13)
        pruner.finalize()
        then = everything(model, optimizer)
    assert within == [True] * 3 or isinstance(options.get("regrow"), bs.RigL)
    within.clear()
    model, optimizer, pruner = start()
    events = train(model, optimizer, pruner, 13)
    assert not any(within)
    assert optimizer.held.after_step == 0 and optimizer.held.in_step == 3
    assert [facts(event) for event in events] == [facts(event) for event in expected] and len(events) == 3
    pruner.finalize()
    for name, tensor in everything(model, optimizer).items():
        assert same_bits(tensor, then[name]), name


@pytest.mark.gpu
def test_a_captured_step_is_replayed() -> None:
    eager, captured = (Trained(_Gpu(), "AdamW", capturable=True) for _ in range(2))
    for one in (eager, captured):
        one.hold()
        one.gradients(0)
        one.optimizer.zero_grad(set_to_none=False)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        captured.optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    eager.optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.optimizer.step()
    for step in range(1, 5):
        fixed = [one.grad for one in captured.parameters]
        for one in (eager, captured):
            one.gradients(step)
        for one, grad in zip(captured.parameters, fixed, strict=True):
            assert grad is not None and one.grad is not None
            grad.copy_(one.grad)
            one.grad = grad
        eager.optimizer.step()
        graph.replay()
    torch.cuda.synchronize()
    assert_same(captured.all(), eager.all())


@pytest.mark.gpu
def test_a_grad_scaler_skips_and_unscales() -> None:
    own, theirs = Trained(_Gpu(), "AdamW"), Trained(_Gpu(), "AdamW")
    whole = torch.optim.AdamW(theirs.optimizer.param_groups, fused=True)
    for one, optimizer in ((own, own.optimizer), (theirs, whole)):
        scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
        for step in range(3):
            one.gradients(step)
            scaler.scale(torch.ones((), device="cuda"))
            if step == 1:
                assert one.parameters[3].grad is not None
                one.parameters[3].grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
    for mine, other in zip(own.parameters, theirs.parameters, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        assert float(own.optimizer.state[mine]["step"]) == 2.0


class _Gpu:
    @staticmethod
    def put(value: torch.Tensor) -> torch.Tensor:
        return value.to("cuda:0", copy=True)
