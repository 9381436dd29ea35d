"""What the pass does not take is stepped by torch and held after it, and `held` says which and why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from optim_support import KINDS, assert_equal, assert_held, give_gradients, same_bits, some_mask, values
from torch import nn

Make = Callable[[], list[nn.Parameter]]


def channels_last() -> list[nn.Parameter]:
    """Their gradients here are row-major."""
    return [nn.Parameter(values((6, 5, 3, 3), 0).to(memory_format=torch.channels_last))]


def transposed() -> list[nn.Parameter]:
    return [nn.Parameter(values((33, 7), 0).t())]


def half() -> list[nn.Parameter]:
    return [nn.Parameter(values((33, 7), 0, dtype=torch.float16))]


def tied() -> list[nn.Parameter]:
    """Two parameters over one storage, and one over half of it."""
    memory = values((64, 33), 0)
    return [nn.Parameter(memory), nn.Parameter(memory.view(33, 64)), nn.Parameter(memory[:32])]


def tied_apart() -> list[nn.Parameter]:
    """A block, and two parts of it that do not meet."""
    memory = values((64, 33), 0)
    return [nn.Parameter(memory), nn.Parameter(memory[:4]), nn.Parameter(memory[40:44])]


def empty() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(0, 3))]


CASES: dict[str, tuple[Make, str]] = {
    "channels_last": (channels_last, "do not lie in memory in one order"),
    "transposed": (transposed, "do not lie in memory in one order"),
    "float16": (half, "float16"),
    "tied": (tied, "shares memory"),
    "tied apart": (tied_apart, "shares memory"),
    "empty": (empty, "empty"),
}


def usual() -> list[nn.Parameter]:
    return [nn.Parameter(values((20, 30), 7)), nn.Parameter(values((9,), 8))]


@pytest.mark.parametrize("with_others", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_torchs_result_and_the_hold_after_it(kind: str, case: str, with_others: bool) -> None:
    make, why = CASES[case]
    own, other = ([*make(), *(usual() if with_others else ())] for _ in range(2))
    options = {"betas": (0.3, 0.95), "weight_decay": 0.1}
    optimizer, theirs = KINDS[kind][0](own, **options), KINDS[kind][1](other, fused=True, **options)
    for step in range(4):
        for of, one in ((own, optimizer), (other, theirs)):
            give_gradients(of, step)
            if step == 2:
                one.grad_scale, one.found_inf = torch.tensor(3.0), torch.tensor(0.0)
            one.step()
            one.grad_scale = one.found_inf = None
        assert_equal(own, optimizer, other, theirs, gradients=True)
    masks = {one: some_mask(one.shape, 0.5, i) for i, one in enumerate(own)}
    if case.startswith("tied"):
        masks = {one: masks[one] for one in (own[0], *own[3:])}
    optimizer.hold(masks)
    for step in range(4, 8):
        for of, one in ((own, optimizer), (other, theirs)):
            give_gradients(of, step)
            with torch.no_grad():
                if step == 4:
                    for mine, its in zip(own, other, strict=True):
                        if mine in masks:
                            zero(theirs, its, masks[mine])
            one.step()
        with torch.no_grad():
            for mine, its in zip(own, other, strict=True):
                if mine in masks:
                    zero(theirs, its, masks[mine])
        assert_equal(own, optimizer, other, theirs)
        for one, mask in masks.items():
            assert_held(optimizer, one, mask)
    found = optimizer.held
    outside = 1
    assert (found.in_step, found.after_step) == (len(masks) - outside, outside), str(found)
    assert why in str(found) and all(reason in str(found) for reason in found.reasons)
    assert len(found.reasons) == outside


def zero(optimizer: Any, parameter: torch.Tensor, mask: torch.Tensor) -> None:
    parameter.masked_fill_(~mask, 0.0)
    for key, value in optimizer.state[parameter].items():
        if key != "step":
            value.masked_fill_(~mask, 0.0)


def test_float64_is_torchs_and_cannot_be_held() -> None:
    own, other = ([nn.Parameter(values((20, 30), 7).double())] for _ in range(2))
    optimizer, theirs = optim.AdamW(own), torch.optim.AdamW(other, fused=True)
    for step in range(3):
        for of, one in ((own, optimizer), (other, theirs)):
            give_gradients(of, step)
            one.step()
    assert_equal(own, optimizer, other, theirs)
    with pytest.raises(bs.DTypeError, match=r"parameter 0.*float64; accepted: float32"):
        optimizer.hold({own[0]: some_mask((20, 30), 0.5)})
    give_gradients(own, 3)
    optimizer.step()
    assert bool((own[0] != 0).all())


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_of_another_shape_are_refused_before_anything_is_written(kind: str, key: str) -> None:
    """torch loads them, and its fused step would write beyond their ends."""
    own = [nn.Parameter(values((20, 30), 7)), nn.Parameter(values((9,), 8))]
    optimizer = KINDS[kind][0](own)
    give_gradients(own, 0)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0][key] = torch.zeros(3, 3)
    optimizer.load_state_dict(state)
    before = [one.detach().clone() for one in own]
    give_gradients(own, 1)
    with pytest.raises(bs.ShapeError, match=r"shape \(20, 30\).*\(3, 3\)"):
        optimizer.step()
    assert all(same_bits(one.detach(), was) for one, was in zip(own, before, strict=True))
    assert all(kept["step"] == 1 for kept in optimizer.state.values())


def test_a_gradient_of_another_layout_or_dtype() -> None:
    layouts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda grad: grad.t().contiguous().t(),
        lambda grad: torch.cat([grad, grad], 1)[:, ::2],
        lambda grad: grad[:1].expand(20, 20),
    ]
    own, other = ([nn.Parameter(values((20, 20), 7))] for _ in range(2))
    optimizer, theirs = optim.AdamW(own), torch.optim.AdamW(other, fused=True)
    mask = torch.ones(20, 20, dtype=torch.bool)
    optimizer.hold({own[0]: mask})
    for step, layout in enumerate((*layouts, lambda grad: grad)):
        for of, one in ((own, optimizer), (other, theirs)):
            give_gradients(of, step)
            of[0].grad = layout(of[0].grad)
            one.step()
        assert_equal(own, optimizer, other, theirs)
        assert optimizer.held.after_step == int(step < len(layouts))


@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_refuses_is_refused_in_its_words(kind: str) -> None:
    def sparse(parameter: nn.Parameter) -> None:
        parameter.grad = torch.eye(6).to_sparse()

    def imaginary(parameter: nn.Parameter) -> None:
        parameter.data = torch.complex(torch.ones(6, 6), torch.ones(6, 6))
        parameter.grad = torch.complex(torch.ones(6, 6), torch.ones(6, 6))

    for change in (sparse, imaginary):
        said = []
        for make, options in ((KINDS[kind][0], {}), (KINDS[kind][1], {"fused": True})):
            both = [nn.Parameter(torch.ones(6, 6)), nn.Parameter(torch.ones(3))]
            optimizer = make(both, **options)
            both[1].grad = torch.ones(3)
            change(both[0])
            with pytest.raises(RuntimeError) as caught:
                optimizer.step()
            said.append(str(caught.value))
            assert torch.equal(both[1], torch.ones(3)), "nothing has been changed"
        assert said[0] == said[1] or (change is imaginary and "'ComplexFloat'" in said[0])


def test_parameters_that_come_to_share_memory_are_stepped_one_after_the_other() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        own, other = ([nn.Parameter(values((200, 150), i)) for i in range(16)] for _ in range(2))
        optimizer, theirs = optim.AdamW(own, lr=0.1), torch.optim.AdamW(other, lr=0.1, fused=True)
        optimizer.hold({own[0]: torch.ones(200, 150, dtype=torch.bool)})
        for step in range(6):
            for of, one in ((own, optimizer), (other, theirs)):
                give_gradients(of, step)
                if step == 2:
                    for parameter in of[1:]:
                        parameter.data = of[0].data
                one.step()
            assert_equal(own, optimizer, other, theirs)
        assert optimizer.held.after_step == 1
    finally:
        torch.set_num_threads(before)


def test_what_is_outside_may_change() -> None:
    """In, out and in again, with others beside it."""
    own, other = (usual() for _ in range(2))
    optimizer, theirs = optim.AdamW(own), torch.optim.AdamW(other, fused=True)
    mask = some_mask((20, 30), 0.5)
    optimizer.hold({own[0]: torch.ones(20, 30, dtype=torch.bool)})
    for step in range(9):
        for of, one in ((own, optimizer), (other, theirs)):
            if step in (3, 6):
                dtype = torch.float16 if step == 3 else torch.float32
                of[0].data = of[0].data.to(dtype)
                for key in ("exp_avg", "exp_avg_sq"):
                    one.state[of[0]][key] = one.state[of[0]][key].to(dtype)
            give_gradients(of, step)
            one.step()
        assert_equal(own, optimizer, other, theirs)
        assert optimizer.held.after_step == (3 <= step < 6)
    optimizer.hold({own[0]: mask})
    assert_held(optimizer, own[0], mask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_orders_of_memory_are_stepped_and_held_in_the_pass(kind: str, dtype: torch.dtype) -> None:
    """channels_last in two and three dimensions, and a transposed matrix: masks are by logical index."""
    layouts = [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.to(memory_format=torch.channels_last_3d),
        lambda x: x.t().contiguous().t(),
        lambda x: x.contiguous(),
    ]
    shapes = [(6, 5, 3, 3), (4, 3, 2, 3, 2), (33, 7), (9,)]
    own, other = (
        [
            nn.Parameter(turn(values(shape, i, dtype=dtype)))
            for i, (shape, turn) in enumerate(zip(shapes, layouts, strict=True))
        ]
        for _ in range(2)
    )
    optimizer, theirs = KINDS[kind][0](own, lr=0.1), KINDS[kind][1](other, lr=0.1, fused=True)
    masks = {one: some_mask(one.shape, 0.5, i) for i, one in enumerate(own)}
    for step in range(9):
        if step == 4:
            optimizer.hold(masks)
            with torch.no_grad():
                for mine, its in zip(own, other, strict=True):
                    zero(theirs, its, masks[mine])
        if step == 6:  # the same masks on another layout
            for of, one in ((own, optimizer), (other, theirs)):
                of[0].data = of[0].data.contiguous()
                for key in ("exp_avg", "exp_avg_sq"):
                    one.state[of[0]][key] = one.state[of[0]][key].contiguous()
        for of, one in ((own, optimizer), (other, theirs)):
            give_gradients(of, step)
            for i, (parameter, turn) in enumerate(zip(of, layouts, strict=True)):
                parameter.grad = parameter.grad if i == 0 and step >= 6 else turn(parameter.grad)
            one.step()
        if step >= 4:
            with torch.no_grad():
                for mine, its in zip(own, other, strict=True):
                    zero(theirs, its, masks[mine])
            assert str(optimizer.held) == "4 tensors in the step, 0 after it"
            for one, mask in masks.items():
                assert_held(optimizer, one, mask)
        assert_equal(own, optimizer, other, theirs)


def test_16_bit_with_float32_states_that_torch_cannot_step_is_said_clearly() -> None:
    own = [nn.Parameter(values((6, 5, 3, 3), 0, dtype=torch.bfloat16).to(memory_format=torch.channels_last))]
    optimizer = optim.AdamW(own, state_dtype=torch.float32)
    give_gradients(own, 0)
    before = own[0].detach().clone()
    with pytest.raises(bs.Error, match="state_dtype"):
        optimizer.step()
    assert same_bits(own[0], before)
