"""Optimizers of other packages, tried for real; skipped by name where the package is not installed."""

from __future__ import annotations

import importlib
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.optimizers.optimizers import Optimizers
from optimizer_support import TARGETS, Gradients, double, held_run, net, step

ONCE = bs.OneShot(0.5, 3)
FREE = (
    "AdamWScheduleFree",
    "AdamWScheduleFreePaper",
    "AdamWScheduleFreeReference",
    "AdamWScheduleFreeClosure",
    "RAdamScheduleFree",
    "RAdamScheduleFreeClosure",
)
FREE_SGD = ("SGDScheduleFree", "SGDScheduleFreeReference", "SGDScheduleFreeClosure")
ADAMS = [
    "AdaBound",
    "AdaGC",
    "Adai",
    "AdamC",
    "AdaMod",
    "AdamP",
    "AdamS",
    "Adan",
    "AdEMAMix",
    "SimplifiedAdEMAMix",
    "AvaGrad",
    "DAdaptAdam",
    "DAdaptAdan",
    "DiffGrad",
    "DualAdam",
    "EXAdam",
    "Grams",
    "GrokFastAdamW",
    "Lamb",
    "MARS",
    "MSVAG",
    "PAdam",
    "Prodigy",
    "QHAdam",
    "RAdam",
    "StableAdamW",
    "StableSPAM",
    "SWATS",
    "Yogi",
    "AdaBelief",
    "AdaNorm",
    "Aida",
    "ADOPT",
    "LaProp",
    "AdaPNM",
    "EmoNavi",
    "Ranger",
    "GaLore",
    "APOLLO",
    "Fira",
    "AdaFactor",
    "CAME",
]


def package(name: str) -> Any:
    """The module, if its package can be imported here."""
    pytest.importorskip(name.partition(".")[0])
    return importlib.import_module(name)


def warmed(optimizer: Any) -> Any:
    """In training mode, where there is one."""
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    return optimizer


@pytest.mark.parametrize(
    ("kind", "hold"),
    [
        *((kind, "weights") for kind in FREE + FREE_SGD),
        *((kind, "grads") for kind in FREE + FREE_SGD if not kind.endswith("Closure")),
    ],
)
def test_schedule_free_weights_stay_zero_in_both_modes(kind: str, hold: str) -> None:
    model = net()
    optimizer = warmed(getattr(package("schedulefree"), kind)(model.parameters(), lr=1e-2))
    scorer = "magnitude" if kind in FREE_SGD else "bitter7"
    pruner = held_run(model, optimizer, closure=kind.endswith("Closure"), hold=hold, scorer=scorer)
    copies = Optimizers.of(optimizer).companions(model[0].weight)
    assert {"z"} <= set(copies) <= {"x", "y", "z"}
    for mode in ("eval", "train", "eval", "train"):
        if hasattr(optimizer, mode):
            getattr(optimizer, mode)()
        for name in TARGETS:
            assert torch.equal(model.get_parameter(name) == 0, ~pruner.masks[name]), mode


def test_schedule_free_keeps_second_moments_and_a_count_but_no_first() -> None:
    model = net()
    optimizer = warmed(package("schedulefree").AdamWScheduleFree(model.parameters(), lr=1e-2))
    for now in range(3):
        step(model, optimizer, seed=now)
    kept, weight = Optimizers.of(optimizer), model[0].weight
    state = kept.read(weight, kept.groups()[id(weight)], with_step=True)
    assert state.exp_avg_sq is optimizer.state[weight]["exp_avg_sq"]
    assert (state.exp_avg, state.step) == (None, 3)
    assert kept.held(True) == "weights, exp_avg_sq and z"
    with pytest.raises(bs.ArgumentError, match=r"keeps no exp_avg \(it averages weights and"):
        bs.Pruner(model, optimizer, scorer="bitter3", schedule=ONCE)
    wrapper = package("schedulefree").ScheduleFreeWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(
        bs.ArgumentError, match="ScheduleFreeWrapper, and it steps its base optimizer in the middle"
    ):
        Optimizers.of(wrapper)


@pytest.mark.parametrize("kind", ["Adam8bit", "AdamW8bit", "AdamW4bit", "AdamWFp8", "_AdamW"])
def test_torchao_states_are_scored_decoded_and_left_alone(kind: str) -> None:
    model = net()
    optimizer = getattr(package("torchao.optim"), kind)(model.parameters(), lr=1e-2)
    held_run(model, optimizer)
    weight, kept = model[0].weight, Optimizers.of(optimizer)
    own = optimizer.state[weight]["exp_avg_sq"]
    held, scored = kept.read(weight), kept.read(weight, decode=True)
    assert scored.exp_avg_sq is not None
    if kind == "_AdamW":
        assert held.exp_avg_sq is scored.exp_avg_sq is own
        return
    assert held.exp_avg_sq is None
    assert scored.decoded == {"exp_avg", "exp_avg_sq"}
    assert torch.equal(scored.exp_avg_sq, own.dequantize())
    assert f"exp_avg and exp_avg_sq of {kind} are left alone where quantised" in kept.held(True)
    with pytest.raises(bs.ArgumentError, match=f"'grads' with {kind}"):
        bs.Pruner(model, optimizer, schedule=ONCE, hold="grads")
    with pytest.raises(bs.LayoutError, match=r"exp_avg_sq of 'w' is quantised \(OptimState.*dequantize"):
        bs.make_masks(bs.ScoreInputs(weight, exp_avg_sq=own, name="w"), sparsity=0.5)


@pytest.mark.parametrize(
    "kind",
    [
        "Adam",
        "AdamW",
        "PagedAdamW",
        "LAMB",
        "AdEMAMix",
        "Adam8bit",
        "AdamW8bit",
        "PagedAdamW8bit",
        "AdEMAMix8bit",
    ],
)
def test_bitsandbytes_states_are_adams(kind: str) -> None:
    optim = package("bitsandbytes.optim")
    more = (0.999,) if "AdEMA" in kind else ()
    model = net()
    weight, gradients = model[0].weight, Gradients(model[0].weight)
    optimizer = getattr(optim, kind)(model.parameters(), lr=1e-4, betas=(0.8, 0.9, *more))
    for now in range(3):
        step(model, optimizer, seed=now)
    kept = Optimizers.of(optimizer)
    held = kept.read(weight)
    scored = kept.read(weight, kept.groups()[id(weight)], with_step=True, decode=True)
    coded = kind.endswith("8bit")
    assert (held.exp_avg is None) == (held.exp_avg_sq is None) == coded
    assert scored.decoded == (frozenset(("exp_avg", "exp_avg_sq")) if coded else frozenset())
    assert scored.step == 3
    for power, beta, found in ((1, 0.8, scored.exp_avg), (2, 0.9, scored.exp_avg_sq)):
        assert found is not None
        expected, limit = gradients.mean(beta, power), 0.03 if coded else 1e-5
        assert np.abs(double(found) - expected).max() <= limit * np.abs(expected).max()
    pruner = held_run(model, optimizer)
    dead = ~pruner.masks["0.weight"]
    if not coded:
        assert held.exp_avg is not None
        assert not held.exp_avg[dead].any()
    assert ("left alone where quantised" in kept.held(True)) == coded


def test_bitsandbytes_blocks_are_decoded_as_the_package_does() -> None:
    functional = package("bitsandbytes.functional")
    model = net()
    model[0] = torch.nn.Linear(64, 129)  # not a whole number of blocks
    model[2] = torch.nn.Linear(129, 64, bias=False)
    optimizer = package("bitsandbytes.optim").AdamW(model.parameters(), lr=1e-3, optim_bits=8)
    for now in range(2):
        step(model, optimizer, seed=now)
    weight = model[0].weight
    entry = optimizer.state[weight]
    assert entry["state1"].dtype == torch.uint8
    state = Optimizers.of(optimizer).read(weight, decode=True)
    for number, found in ((1, state.exp_avg), (2, state.exp_avg_sq)):
        expected = functional.dequantize_blockwise(
            entry[f"state{number}"],
            absmax=entry[f"absmax{number}"],
            code=entry[f"qmap{number}"],
            blocksize=256,
        )
        assert found is not None
        torch.testing.assert_close(found, expected)
    small = Optimizers.of(optimizer).read(model[0].bias)  # too small to be quantised
    assert small.exp_avg_sq is optimizer.state[model[0].bias]["state2"]
    assert "where quantised" in Optimizers.of(optimizer).held(True)


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_adafactor_of_transformers_is_decoded(beta1: float | None) -> None:
    optim = package("transformers.optimization")
    model = net()
    optimizer = optim.Adafactor(model.parameters(), lr=1e-3, relative_step=False, beta1=beta1)
    held_run(model, optimizer)
    weight, kept = model[0].weight, Optimizers.of(optimizer)
    entry, state = optimizer.state[weight], kept.read(weight, decode=True)
    row, column = double(entry["exp_avg_sq_row"]), double(entry["exp_avg_sq_col"])
    assert state.exp_avg_sq is not None
    np.testing.assert_allclose(double(state.exp_avg_sq), np.outer(row, column) / row.mean(), rtol=1e-5)
    assert state.exp_avg is None
    with pytest.raises(bs.ArgumentError, match="it averages its updates and not the gradients"):
        bs.Pruner(model, optimizer, scorer="bitter3", schedule=ONCE)


@pytest.mark.parametrize("kind", ADAMS)
def test_adams_of_pytorch_optimizer(kind: str, recwarn: Any) -> None:
    make = package("pytorch_optimizer").load_optimizer(kind)
    model = net()
    optimizer = make(model.parameters(), lr=1e-3)
    held_run(model, optimizer)
    kept, weight = Optimizers.of(optimizer), model[0].weight
    assert kept.unknown() == ()
    assert not [one for one in recwarn if "is not known" in str(one.message)]
    state = kept.read(weight, kept.groups()[id(weight)], with_step=True, decode=True)
    assert state.exp_avg_sq is not None
    assert state.step == 13 + (kind == "Prodigy")  # which counts from 1


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("SOAP", "rotated basis"),
        ("Shampoo", "matrices that precondition"),
        ("ScalableShampoo", "matrices that precondition"),
        ("SPAM", "a changing part of the weights"),
        ("SM3", "one second moment for many weights"),
        ("Conda", "basis of a projection"),
        ("SPlus", "matrices that precondition"),
        ("ScheduleFreeSGD", "averages weights"),
        ("Lion", ""),
        ("Tiger", ""),
    ],
)
def test_what_pytorch_optimizer_keeps_otherwise_is_refused_with_the_reason(kind: str, why: str) -> None:
    make = package("pytorch_optimizer").load_optimizer(kind)
    model = net()
    optimizer = warmed(make(model.parameters(), lr=1e-3))
    with pytest.raises(bs.ArgumentError, match=f"{kind} keeps no exp_avg_sq.*{why}.*reads it"):
        bs.Pruner(model, optimizer, schedule=ONCE)
    held_run(model, optimizer, scorer="magnitude")


@pytest.mark.parametrize("kind", ["GaLore", "APOLLO", "Fira"])
def test_moments_of_a_lower_rank_are_refused(kind: str) -> None:
    make = package("pytorch_optimizer").load_optimizer(kind)
    model = net()
    low = {"rank": 4, "update_proj_gap": 2, "scale": 1.0, "projection_type": "std"}
    groups = [{"params": [model[0].weight], **low}, {"params": [model[2].weight, model[0].bias]}]
    optimizer = make(groups, lr=1e-3)
    with pytest.raises(bs.ArgumentError, match=f"{kind} keeps no exp_avg_sq .*of a lower rank"):
        bs.Pruner(model, optimizer, schedule=ONCE)
    held_run(model, optimizer, scorer="magnitude")
    kept = Optimizers.of(optimizer)
    assert kept.read(model[0].weight, decode=True).exp_avg_sq is None
    assert kept.read(model[2].weight).exp_avg_sq is optimizer.state[model[2].weight]["exp_avg_sq"]
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.9, 1), targets="2.weight")
    assert pruner.step() is not None


def test_muon_of_pytorch_optimizer_keeps_two_kinds_of_state() -> None:
    make = package("pytorch_optimizer").load_optimizer("Muon")
    model = net()
    groups = [
        {"params": [model[0].weight], "use_muon": True},
        {"params": [model[2].weight, model[0].bias], "use_muon": False},
    ]
    optimizer = make(groups, lr=1e-3)
    with pytest.raises(bs.ArgumentError, match="Muon keeps no exp_avg_sq"):
        bs.Pruner(model, optimizer, schedule=ONCE)
    bs.Pruner(model, optimizer, schedule=ONCE, targets="2.weight")
    held_run(model, optimizer, scorer="bitter3")


@pytest.mark.parametrize("pullback", ["none", "reset", "pullback"])
def test_lookahead_of_pytorch_optimizer(pullback: str) -> None:
    kind = package("pytorch_optimizer").Lookahead
    model = net()
    optimizer = kind(torch.optim.AdamW(model.parameters(), lr=1e-2), k=3, pullback_momentum=pullback)
    kept = Optimizers.of(optimizer)
    assert (kept.outer, kept.inner) == ((optimizer,), (optimizer.optimizer,))
    held_run(model, optimizer)
    assert "slow_params" in kept.companions(model[0].weight)
    optimizer.backup_and_load_cache()
    assert (model[0].weight == 0).float().mean() > 0.3


@pytest.mark.parametrize("kind", ["ScheduleFreeWrapper", "TRAC", "OrthoGrad", "SAM", "LookSAM"])
def test_wrappers_of_pytorch_optimizer(kind: str) -> None:
    make = getattr(package("pytorch_optimizer"), kind)
    model = net()
    if "SAM" in kind:
        optimizer = make(model.parameters(), torch.optim.AdamW, lr=1e-2)
    else:
        optimizer = warmed(make(torch.optim.AdamW(model.parameters(), lr=1e-2)))
    pruner = bs.Pruner(model, optimizer, schedule=ONCE, targets="*weight").attach()
    for now in range(10):
        (_sam_step if "SAM" in kind else _step)(model, optimizer, now)
        assert pruner.sparsity().zero == (0.5 if now >= 2 else 0.0)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
        assert pruner.sparsity().zero == 0.5


def _step(model: torch.nn.Module, optimizer: Any, seed: int) -> None:
    step(model, optimizer, seed=seed)


def _sam_step(model: torch.nn.Module, optimizer: Any, seed: int) -> None:
    torch.manual_seed(seed)
    batch = torch.randn(8, 64)

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    evaluate()
    optimizer.step(evaluate)


def test_safe_fp16_optimizer_has_its_float32_copies_masked() -> None:
    kind = importlib.import_module(
        f"{package('pytorch_optimizer').__name__}.optimizer.fp16"
    ).SafeFP16Optimizer
    model = net(torch.bfloat16)
    inner = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer = kind(inner)
    kept = Optimizers.of(optimizer)
    assert set(kept.groups()) == {id(one) for one in model.parameters()}
    pruner = bs.Pruner(model, optimizer, schedule=ONCE, targets="*weight")
    for now in range(10):
        optimizer.zero_grad()
        torch.manual_seed(now)
        optimizer.backward(model(torch.randn(8, 64).bfloat16()).float().square().mean())
        optimizer.step()
        pruner.step()
    assert pruner.sparsity().zero == 0.5
    for weight, copy, name in ((model[0].weight, optimizer.fp32_params[0], "0.weight"),):
        assert kept.companions(weight)["float32 copy"] is copy
        assert not copy[~pruner.masks[name]].any()
        assert kept.read(weight).exp_avg_sq is inner.state[copy]["exp_avg_sq"]


def test_accelerate_is_seen_through() -> None:
    accelerate = package("accelerate")
    model = net()
    inner = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer = accelerate.Accelerator(cpu=True).prepare_optimizer(inner)
    kept = Optimizers.of(optimizer)
    assert (kept.outer, kept.inner) == ((inner,), (inner,))
    kept.require_elementwise()
    held_run(model, optimizer, hold="grads")
