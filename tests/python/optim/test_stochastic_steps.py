"""Steps that round bfloat16 stochastically: their bits, their masks, what is resumed, what is refused."""

from __future__ import annotations

import copy
import io
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet import optim
from optim_support import KINDS, Pair, assert_held, bits, give_gradients, parameters, same_bits, some_mask
from rounding_oracle import BF16, expected
from torch import nn

F32 = torch.float32
SHAPES = ((64,), (7, 64), (128, 192), (2, 3, 64), (70016,))
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "low betas": {"betas": (0.3, 0.95), "weight_decay": 0.1},
    "amsgrad": {"amsgrad": True, "betas": (0.8, 0.9), "maximize": True},
}


def own(kind: str, of: Any, seed: int = 11, **options: Any) -> Any:
    return KINDS[kind][0](of, rounding="stochastic", rounding_seed=seed, **options)


def run(optimizer: Any, of: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        give_gradients(of, step)
        optimizer.step()


def everything(optimizer: Any, of: list[nn.Parameter]) -> list[bytes]:
    kept = [tensor for one in of for tensor in (one, *optimizer.state[one].values())]
    return [bits(tensor).tobytes() for tensor in kept]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_results_in_float32_are_what_is_rounded(kind: str, options: str) -> None:
    """Of sizes without a scalar remainder, whose sums are joined in another way. Two groups."""
    drawn = parameters(SHAPES, BF16)
    groups = [{"params": drawn[:2], "lr": 0.1}, {"params": drawn[2:]}]
    optimizer = own(kind, groups, seed=2**62 + 5, **OPTIONS[options])
    for step in range(4):
        before = [(one.detach().float(), copy.deepcopy(optimizer.state[one])) for one in drawn]
        give_gradients(drawn, step)
        optimizer.step()
        for number, (one, (weight, state)) in enumerate(zip(drawn, before, strict=True)):
            wide = nn.Parameter(weight.clone())
            exact: Any = KINDS[kind][0]([wide], **{**OPTIONS[options], "lr": 0.1 if number < 2 else 1e-3})
            if state:
                exact.state[wide] = {key: value.float() for key, value in state.items()}
            assert one.grad is not None
            wide.grad = one.grad.float()
            exact.step()
            kept, found = exact.state[wide], optimizer.state[one]
            assert int(found["step"]) == step + 1
            pairs = ((kept[key], found[key]) for key in ("exp_avg", "exp_avg_sq"))
            for role, (wanted, tensor) in enumerate(((wide.detach(), one.detach()), *pairs)):
                stream = 4 * number + role
                assert same_bits(tensor, expected(wanted, 2**62 + 5, step + 1, stream)), stream
            if "amsgrad" in options:
                assert same_bits(found["max_exp_avg_sq"], kept["max_exp_avg_sq"].to(BF16))


def test_states_in_float32_are_not_rounded() -> None:
    drawn, nearest = parameters(SHAPES, BF16), parameters(SHAPES, BF16)
    one, other = own("AdamW", drawn, state_dtype=F32), optim.AdamW(nearest, state_dtype=F32)
    for optimizer, of in ((one, drawn), (other, nearest)):
        run(optimizer, of, range(1))
    for mine, theirs in zip(drawn, nearest, strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            assert same_bits(one.state[mine][key], other.state[theirs][key])
    assert not all(same_bits(mine, theirs) for mine, theirs in zip(drawn, nearest, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_needs_no_rounding(kind: str) -> None:
    pair = Pair(kind, ((61,), (7, 13), (127, 129)))
    for group in pair.own.param_groups:
        group["rounding"] = "stochastic"
    pair.run(5)
    pair.assert_equal()


def test_nearest_is_the_default_and_adds_nothing_to_groups() -> None:
    pair = Pair("AdamW", ((61,), (127, 129)), BF16, betas=(0.3, 0.95))
    assert pair.own.param_groups[0].keys() == pair.theirs.param_groups[0].keys()
    assert "rounding" not in optim.Adam([nn.Parameter(torch.ones(1))], rounding="nearest").param_groups[0]
    pair.run(4)
    pair.assert_equal()


@pytest.mark.parametrize("state_dtype", [None, F32])
def test_masks(state_dtype: torch.dtype | None) -> None:
    """Dead elements are +0, live ones as without masks, in skipped lines and in odd ends too."""
    shapes = ((1,), (7, 13), (127, 129), (70001,))
    held, free = parameters(shapes, BF16), parameters(shapes, BF16)
    masks = [some_mask(shape, 0.6, i) for i, shape in enumerate(shapes)]
    masks[2][::2] = False  # rows
    masks[3][torch.rand(70001) < 0.98] = False
    of_held, of_free = (own("AdamW", of, state_dtype=state_dtype) for of in (held, free))
    of_held.hold(dict(zip(held, masks, strict=True)))
    for step in range(4):
        run(of_held, held, range(step, step + 1))
        run(of_free, free, range(step, step + 1))
        for one, other, mask in zip(held, free, masks, strict=True):
            assert_held(of_held, one, mask)
            assert torch.equal(one[mask], other[mask])
            assert torch.equal(of_held.state[one]["exp_avg"][mask], of_free.state[other]["exp_avg"][mask])


def test_resumed_bit_for_bit() -> None:
    shapes = ((7, 13), (64, 65), (70001,))
    straight, first, second = (parameters(shapes, BF16) for _ in range(3))
    whole, before = own("AdamW", straight), own("AdamW", first)
    run(whole, straight, range(9))
    run(before, first, range(4))
    file = io.BytesIO()
    torch.save((before.state_dict(), [one.detach() for one in first]), file)
    file.seek(0)
    saved, weights = torch.load(file, weights_only=True)
    after = optim.AdamW(second)  # how it was rounded is an option of the groups, as lr is
    after.load_state_dict(saved)
    with torch.no_grad():
        for one, weight in zip(second, weights, strict=True):
            one.copy_(weight)
    run(after, second, range(4, 9))
    assert everything(whole, straight) == everything(after, second)
    assert after.param_groups[0]["rounding_seed"] == 11
    again = copy.deepcopy(after)
    assert [group["rounding"] for group in again.param_groups] == ["stochastic"]


def test_replicas_seeds_threads_and_steps() -> None:
    shapes = ((7, 13), (300, 301))
    runs = {}
    for name, seed, threads in (("one", 1, 1), ("three threads", 1, 3), ("another seed", 2, 1)):
        of, before = parameters(shapes, BF16), torch.get_num_threads()
        optimizer = own("Adam", of, seed=seed)
        try:
            torch.set_num_threads(threads)
            run(optimizer, of, range(3))
        finally:
            torch.set_num_threads(before)
        runs[name] = everything(optimizer, of)
    assert runs["one"] == runs["three threads"]
    assert runs["one"] != runs["another seed"]


def test_elements_are_numbered_as_they_lie_in_memory() -> None:
    (flat,) = parameters(((4 * 5 * 6 * 7,),), BF16)
    last = nn.Parameter(flat.detach().clone().view(4, 6, 7, 5).permute(0, 3, 1, 2))
    assert last.is_contiguous(memory_format=torch.channels_last)
    one, other = own("AdamW", [flat]), own("AdamW", [last])
    for step in range(3):
        give_gradients([flat], step)
        assert flat.grad is not None
        last.grad = flat.grad.clone().view(4, 6, 7, 5).permute(0, 3, 1, 2)
        one.step()
        other.step()
    assert other.held.after_step == 0
    assert same_bits(last.detach().permute(0, 2, 3, 1).reshape(-1), flat.detach())


def test_skipped_and_scaled_steps_as_with_a_grad_scaler() -> None:
    of, plain = parameters(((65, 7),), BF16), parameters(((65, 7),), BF16)
    scaled, other = own("AdamW", of), own("AdamW", plain)
    for step, found in enumerate((0.0, 1.0, 0.0)):
        give_gradients(of, step)
        assert of[0].grad is not None
        of[0].grad *= 4.0
        scaled.grad_scale, scaled.found_inf = torch.tensor(4.0), torch.tensor(found)
        scaled.step()
        if not found:
            run(other, plain, range(step, step + 1))
    assert everything(scaled, of) == everything(other, plain)


def test_groups_and_torchs_checkpoints() -> None:
    of = parameters(((64, 64), (64, 64)), BF16)
    with torch.no_grad():
        of[1].copy_(of[0])
    optimizer = optim.AdamW([{"params": of[:1], "rounding": "stochastic"}, {"params": of[1:]}])
    nearest = parameters(((64, 64),), BF16)
    theirs = torch.optim.AdamW(nearest, fused=True)
    for one in (*of, *nearest):
        one.grad = torch.full_like(one, 0.01)
    optimizer.step()
    theirs.step()
    assert same_bits(of[1], nearest[0])
    assert not same_bits(of[0], nearest[0])
    taken = own("AdamW", parameters(((64, 64),), BF16))
    taken.load_state_dict(theirs.state_dict())  # says nothing of rounding
    assert taken.param_groups[0]["rounding"] == "stochastic"
    taken.add_param_group({"params": parameters(((3,),), BF16)})
    assert taken.param_groups[1]["rounding_seed"] == 11
    theirs.load_state_dict(own("AdamW", nearest).state_dict())


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(33, 70), nn.Tanh(), nn.Linear(70, 9)).to(BF16)


def trained(hold: str, regrow: bool = False, **options: Any) -> list[bytes]:
    model = network(0)
    optimizer = own("AdamW", model.parameters(), lr=1e-2)
    schedule = bs.PolynomialDecay(0.1, 0.8, 3, 24, frequency=3)
    pruner = bs.Pruner(model, optimizer, schedule=schedule, hold=hold, regrow=regrow, **options)
    draw = torch.Generator().manual_seed(1)
    for _ in range(30):
        x = torch.randn(16, 33, generator=draw).to(BF16)
        model(x).float().square().sum().backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    optimizer.state_dict()
    for name, mask in pruner.masks.items():
        assert not bits(model.get_parameter(name)[~mask.bool()]).any()
    return everything(optimizer, list(model.parameters()))


@pytest.mark.parametrize("scorer", ["bitter7", "magnitude"])
def test_pruner_holds_alike_in_every_mode(scorer: str) -> None:
    """Events too: a mask that is made in the step is made of what is stored."""
    runs = [trained(hold, scorer=scorer) for hold in ("step", "weights", "grads")]
    assert runs[0] == runs[1] == runs[2]


def test_regrowth() -> None:
    assert trained("step", regrow=True) == trained("weights", regrow=True)


def test_small_updates_are_not_lost() -> None:
    """A thousand steps of 1e-4 from 1, all in one direction: to nearest nothing moves."""
    drawn, nearest, exact = (nn.Parameter(torch.ones(4096, dtype=dtype)) for dtype in (BF16, BF16, F32))
    of = [own("AdamW", [drawn], lr=1e-4), optim.AdamW([nearest], lr=1e-4), optim.AdamW([exact], lr=1e-4)]
    for _ in range(1000):
        for optimizer, one in zip(of, (drawn, nearest, exact), strict=True):
            one.grad = torch.ones_like(one)
            optimizer.step()
    assert torch.equal(nearest, torch.ones(4096, dtype=BF16))
    assert float(exact.detach().mean()) == pytest.approx(0.9, abs=2e-3)
    assert float((drawn.detach().double() - exact.detach()).mean()) == pytest.approx(0.0, abs=2e-3)


def test_refused_before_anything_changes() -> None:
    with pytest.raises(bs.ArgumentError, match="rounding: 'up'"):
        optim.AdamW([nn.Parameter(torch.ones(2))], rounding="up")
    with pytest.raises(bs.ArgumentError, match="rounding_seed"):
        optim.Adam([nn.Parameter(torch.ones(2))], rounding="stochastic", rounding_seed=-1)
    with pytest.raises(bs.ArgumentError, match="rounding: 'up'"):
        optim.Adam([{"params": [nn.Parameter(torch.ones(2))], "rounding": "up"}])
    optimizer = optim.Adam([nn.Parameter(torch.ones(2))])
    with pytest.raises(bs.ArgumentError, match="rounding: 'up'"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "rounding": "up"})
    assert len(optimizer.param_groups) == 1
    strided = nn.Parameter(torch.ones(6, 8, dtype=BF16)[:, ::2])
    cases = (
        (nn.Parameter(torch.ones(5, dtype=torch.float16)), F32, bs.DTypeError, "float16"),
        (nn.Parameter(torch.ones(5, dtype=torch.float16)), None, bs.ArgumentError, "torch's step"),
        (strided, None, bs.ArgumentError, "torch's step"),
    )
    for parameter, state_dtype, error, message in cases:
        fine, wide = (nn.Parameter(torch.ones(4, dtype=dtype)) for dtype in (BF16, F32))
        optimizer = own("AdamW", [fine, parameter, wide], state_dtype=state_dtype)
        for one in (fine, parameter, wide):
            one.grad = torch.ones_like(one)
        with pytest.raises(error, match=message):
            optimizer.step()
        for one in (fine, parameter, wide):
            assert torch.equal(one, torch.ones_like(one))
            assert not optimizer.state[one]["step"]
    lenient = optim.AdamW([{"params": [strided], "rounding": "nearest"}], 0.1, rounding="stochastic")
    strided.grad = torch.ones_like(strided)
    lenient.step()
    assert not torch.equal(strided, torch.ones_like(strided))
    assert np.isfinite(strided.detach().float().numpy()).all()
