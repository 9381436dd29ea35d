"""Rows that are pruned whole are left unread, and nobody can tell; what others write there is repaired."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from optim_support import assert_equal, assert_held, give_gradients, parameters, same_bits, some_mask, values

SHAPES = ((256, 130), (70001,), (64, 64), (3, 1000))
DTYPES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "amsgrad": (torch.float32, {"amsgrad": True}),
    "float16, float32 states": (torch.float16, {"state_dtype": torch.float32}),
}


def half_of_rows(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Runs of 128 elements or whole rows, live or dead; a few more elements of the live ones are dead."""
    mask = some_mask(shape, 0.05, seed)
    width = shape[1] if len(shape) > 1 else 128
    flat = mask.view(-1)
    for start in range(0, flat.numel(), 2 * width):
        flat[start : start + width] = False
    return mask


def almost_all(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return some_mask(shape, 0.99, seed)


def all_dead(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bool)


PATTERNS: dict[str, Callable[[tuple[int, ...], int], torch.Tensor]] = {
    "half of the rows": half_of_rows,
    "99 %": almost_all,
    "all": all_dead,
}


def held(
    pattern: str, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[list[Any], Any, dict[Any, torch.Tensor]]:
    own = parameters(SHAPES, dtype)
    optimizer = optim.AdamW(own, betas=(0.3, 0.95), weight_decay=0.1, **options)
    masks = {one: PATTERNS[pattern](tuple(one.shape), i) for i, one in enumerate(own)}
    optimizer.hold(masks)
    return own, optimizer, masks


@pytest.mark.parametrize("form", DTYPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_bits_are_those_of_a_pass_over_everything(pattern: str, form: str) -> None:
    dtype, options = DTYPES[form]
    own, optimizer, masks = held(pattern, dtype, **options)
    other, whole, _ = held(pattern, dtype, **options)
    whole.hold({})
    for step in range(10):
        for of in (own, other):
            give_gradients(of, step)
        optimizer.step()
        whole.step()
        with torch.no_grad():
            for mine, one in zip(own, other, strict=True):
                one[~masks[mine]] = 0.0
                for key, value in whole.state[one].items():
                    if key != "step":
                        value[~masks[mine]] = 0.0
        assert_equal(own, optimizer, other, whole)
        assert optimizer.violated == []


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_gradients_of_dead_rows_do_not_matter(threads: int) -> None:
    own, optimizer, masks = held("half of the rows")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step in range(4):
            give_gradients(own, step)
            for one in own:
                one.grad[~masks[one]] = float("nan")
            optimizer.step()
    finally:
        torch.set_num_threads(before)
    for one in own:
        assert_held(optimizer, one, masks[one])
        assert bool(one.isfinite().all())


WRITES: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "in place": lambda tensor, dead: tensor.view(-1).index_fill_(0, dead, 2.0),
    "a number": lambda tensor, dead: tensor.view(-1).__setitem__(int(dead[-1]), 1e-42),
    "not a number": lambda tensor, dead: tensor.view(-1).__setitem__(int(dead[0]), float("nan")),
    "all": lambda tensor, dead: tensor.fill_(3.0),
    "negative zero": lambda tensor, dead: tensor.view(-1).index_fill_(0, dead, -0.0),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("role", ["weight", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_written_into_dead_rows_is_repaired_at_once(pattern: str, role: str, write: str) -> None:
    own, optimizer, masks = held(pattern)
    for step in range(8):
        give_gradients(own, step)
        optimizer.step()
        assert optimizer.violated == []
        chosen = own[step % len(own)]
        if step % 2:
            dead = (~masks[chosen]).view(-1).nonzero()[:, 0]
            with torch.no_grad():
                WRITES[write](chosen if role == "weight" else optimizer.state[chosen][role], dead)
            give_gradients(own, step)
            optimizer.step()
            weights = role == "weight" and write != "negative zero"
            assert [id(one) for one in optimizer.violated] == ([id(chosen)] if weights else [])
        for one in own:
            assert_held(optimizer, one, masks[one])


@pytest.mark.parametrize("role", ["weight", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_written_past_autograd_is_repaired_within_64_steps(pattern: str, role: str) -> None:
    own, optimizer, masks = held(pattern)
    for step in range(5):
        give_gradients(own, step)
        optimizer.step()
    written = own[0] if role == "weight" else optimizer.state[own[0]][role]
    written.data[~masks[own[0]]] = 5.0
    said = 0
    for step in range(64):
        give_gradients(own, step % 7)
        optimizer.step()
        said += any(one is own[0] for one in optimizer.violated)
    assert_held(optimizer, own[0], masks[own[0]])
    assert 1 <= said <= 2 if role == "weight" else said == 0  # what lies among live ones is found at once


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_state_that_is_replaced_is_not_taken_for_zero(pattern: str) -> None:
    own, optimizer, masks = held(pattern)
    for step in range(12):
        give_gradients(own, step)
        optimizer.step()
        for one in own:
            assert_held(optimizer, one, masks[one])
            key = ("exp_avg", "exp_avg_sq")[step % 2]
            version = optimizer.state[one][key]._version
            if step % 3 == 0:
                del optimizer.state[one][key]  # its memory is free again
                optimizer.state[one][key] = values(one.shape, step).abs()
                for _ in range(version):
                    optimizer.state[one][key].add_(0.0)
                assert optimizer.state[one][key]._version == version
            elif step % 3 == 1:
                one.data = values(one.shape, step)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_between_skipped_and_unscaled_steps(pattern: str) -> None:
    own, optimizer, masks = held(pattern)
    other, whole, _ = held(pattern)
    whole.hold({})
    for step in range(9):
        for of, one in ((own, optimizer), (other, whole)):
            give_gradients(of, step)
            one.grad_scale = torch.tensor(4.0) if step % 3 == 1 else None
            one.found_inf = torch.tensor(float(step % 3 == 2))
            one.step()
        with torch.no_grad():
            for mine, one in zip(own, other, strict=True):
                one[~masks[mine]] = 0.0
                for key in ("exp_avg", "exp_avg_sq"):
                    whole.state[one][key][~masks[mine]] = 0.0
                assert same_bits(mine.grad, one.grad)
        assert_equal(own, optimizer, other, whole)


def test_after_steps_without_the_state_moments_are_not_taken_for_zero() -> None:
    own, optimizer, masks = held("half of the rows")
    for turn in range(3):
        for state in (True, False):
            optimizer.hold(masks, state=state)
            for step in range(3):
                give_gradients(own, 10 * turn + step)
                optimizer.step()
                for one in own:
                    if state:
                        assert_held(optimizer, one, masks[one])
                    else:
                        assert bool((optimizer.state[one]["exp_avg"][~masks[one]] != 0).all())


def test_moments_that_another_owner_lets_be_held_are_zeroed() -> None:
    class Owner:
        pass

    own, optimizer, masks = held("half of the rows")
    optimizer.hold({own[0]: masks[own[0]]}, state=False)
    for step in range(3):
        give_gradients(own, step)
        optimizer.step()
    owner = Owner()
    optimizer.hold_for(owner, {own[1]: bs.Mask.from_bool(masks[own[1]])}, state=True)
    give_gradients(own, 3)
    optimizer.step()
    for one in own[:2]:
        assert_held(optimizer, one, masks[one])
