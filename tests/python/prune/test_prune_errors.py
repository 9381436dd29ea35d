"""What is refused, by name, with nothing changed; and state dicts in torch's layout."""

from __future__ import annotations

import copy
import re
from typing import Any

import bittersweet as bs
import bittersweet.prune as prune
import pytest
import torch
import torch.nn.utils.prune as torchs
from torch import nn

WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda m: prune.l1_unstructured(m, "weight", -1), bs.ArgumentError, "amount: -1; accepted: a share"),
    (lambda m: prune.l1_unstructured(m, "weight", 1.5), bs.ArgumentError, "amount: 1.5"),
    (lambda m: prune.l1_unstructured(m, "weight", 50.0), bs.ArgumentError, "50 % is 0.5"),
    (lambda m: prune.l1_unstructured(m, "weight", True), bs.ArgumentError, "amount: True"),
    (lambda m: prune.l1_unstructured(m, "weight", "half"), bs.ArgumentError, "amount: 'half'"),
    (lambda m: prune.l1_unstructured(m, "weight", float("nan")), bs.ArgumentError, "amount: nan"),
    (lambda m: prune.l1_unstructured(m, "weight", 25), bs.ArgumentError, "amount: 25; 24 weights are left"),
    (lambda m: prune.l1_unstructured(m, "wieght", 1), bs.ArgumentError, "Linear: weight, bias"),
    (lambda m: prune.l1_unstructured(nn.Sequential(m), "0.weight", 1), bs.ArgumentError, "get_submodule"),
    (lambda m: prune.l1_unstructured(nn.Linear(3, 3, bias=False), "bias", 1), bs.ArgumentError, ": weight"),
    (lambda m: prune.l1_unstructured(m.weight, "weight", 1), bs.ArgumentError, "module: a float32 tensor"),
    (lambda m: prune.l1_unstructured(m, "weight", 1, torch.ones(3)), bs.ShapeError, r"shape \(3,\)"),
    (lambda m: prune.l1_unstructured(m, "weight", 1, 3.0), bs.ArgumentError, "'weight': 3.0"),
    (lambda m: prune.l1_unstructured(m, "weight", 1, m.weight.double()), bs.DTypeError,
     "^importance_scores of 'weight' has dtype float64"),
    (lambda m: prune.l1_unstructured(m, "weight", 1, m.weight * float("nan")), bs.Error, "NaN"),
    (lambda m: prune.l1_unstructured(m.double(), "weight", 1), bs.DTypeError, "float64"),
    (lambda m: prune.l1_unstructured(nn.Linear(3, 3, device="meta"), "weight", 1), bs.Error, "weight"),
    (lambda m: prune.l1_unstructured(nn.LazyLinear(3), "weight", 1), bs.LayoutError, "no values yet"),
    (lambda m: prune.random_unstructured(m, "weight", 1, seed=-1), bs.ArgumentError, "seed: -1"),
    (lambda m: prune.ln_structured(m, "weight", 7, 2, 0), bs.ArgumentError, "amount: 7; 4 channels are left"),
    (lambda m: prune.ln_structured(m, "weight", 1, 2, 2), bs.ArgumentError, "dim: 2; accepted"),
    (lambda m: prune.ln_structured(m, "bias", 1, 2, 0), bs.ArgumentError, "no channels"),
    (lambda m: prune.ln_structured(m, "weight", 1, "nuc", 0), bs.ArgumentError, "n: 'nuc'"),
    (lambda m: prune.random_structured(m, "weight", 1, 0.5), bs.ArgumentError, "dim: 0.5"),
    (lambda m: prune.custom_from_mask(m, "weight", torch.ones(4)), bs.ShapeError, r"shape \(4,\)"),
    (lambda m: prune.custom_from_mask(m, "weight", torch.full((4, 6), 0.5)), bs.ArgumentError, "0 and 1"),
    (lambda m: prune.custom_from_mask(m, "weight", None), bs.ArgumentError, "mask: None"),
    (lambda m: prune.remove(m, "weight"), bs.ArgumentError, "not pruned"),
    (lambda m: prune.mask_of(m, "bias"), bs.ArgumentError, "not pruned"),
    (lambda m: prune.is_pruned(None), bs.ArgumentError, "module: None"),
    (lambda m: _globally(m, [(m, "weight"), (m, "weight")]), bs.ArgumentError, "listed twice"),
    (lambda m: _globally(m, [(m, "weight"), m]), bs.ArgumentError, r"parameters\[1\]"),
    (lambda m: _globally(m, []), bs.ArgumentError, "parameters: no pair at all"),
    (lambda m: _globally(m, (pair for pair in ())), bs.ArgumentError, "parameters: no pair at all"),
    (lambda m: _globally(m, [(m, "weight")], scores={("0", "weight"): m.weight}), bs.ArgumentError,
     re.escape("the key ('0', 'weight') is none of the")),
    (lambda m: prune.load_torch_state_dict(m, None), bs.CheckpointError, "state_dict: None; accepted"),
    (lambda m: prune.load_torch_state_dict(m, [m.weight]), bs.CheckpointError, "state_dict: .*accepted"),
    (lambda m: _globally(m, 3), bs.ArgumentError, "parameters: 3"),
    (lambda m: _globally(m, [(m, "weight")], prune.LnStructured), bs.ArgumentError, "single weights"),
    (lambda m: _globally(m, [(m, "weight")], torchs.L1Unstructured), bs.ArgumentError, "bittersweet.prune"),
    (lambda m: _globally(m, [(m, "weight")], scores=[1]), bs.ArgumentError, "a dict by"),
    (lambda m: _globally(m, [(m, "weight")], scores={(m, "bias"): m.bias}), bs.ArgumentError, "none of the"),
    (lambda m: _globally(m, [(m, "weight"), (m, "bias")], scores={(m, "bias"): m.bias * float("nan")}),
     bs.NonFiniteScoreError, re.escape("parameters[1] (bias)")),
]  # fmt: skip


def _globally(
    module: nn.Module, parameters: Any, method: Any = prune.L1Unstructured, scores: Any = None
) -> None:
    prune.global_unstructured(parameters, method, scores, amount=1)


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_arguments(case: int) -> None:
    call, error, text = WRONG[case]
    module = nn.Linear(6, 4)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(error, match=text):
        call(module)
    assert not prune.is_pruned(module) and not module._forward_pre_hooks
    assert all(torch.equal(before[k].float(), v.float()) for k, v in module.state_dict().items())


def test_methods_of_ones_own_that_return_something_else() -> None:
    def method(returned: Any, kind: str = "unstructured") -> Any:
        body = {"PRUNING_TYPE": kind, "compute_mask": lambda *_, **__: returned}
        return type("M", (prune.BasePruningMethod,), body)

    module = nn.Linear(6, 4)
    for returned in (None, torch.ones(3)):
        with pytest.raises(bs.ShapeError, match=r"M\.compute_mask"):
            method(returned).apply(module, "weight")
    with pytest.raises(bs.ArgumentError, match="than 0 and 1"):
        method(torch.full((4, 6), 0.5)).apply(module, "weight")
    with pytest.raises(bs.ArgumentError, match="PRUNING_TYPE: 'rows'"):
        method(torch.ones(4, 6), "rows").apply(module, "weight")
    assert not prune.is_pruned(module)


def test_modules_that_others_hold() -> None:
    module = torchs.identity(nn.Linear(3, 3), "weight")
    with pytest.raises(bs.ArgumentError, match="call its remove"):
        prune.identity(module, "weight")
    module = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(bs.ArgumentError, match=r"module\.parametrizations\.weight and"):
        prune.identity(module, "weight")
    prune.l1_unstructured(module.parametrizations.weight, "original1", 0.5)


def model() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.Conv1d(5, 4, 1)))


def test_state_dicts_are_plain_and_torchs_layout_is_there_when_asked_for() -> None:
    ours, theirs = model(), model()
    names = list(ours.state_dict())
    for lib, one in ((prune, ours), (torchs, theirs)):
        lib.l1_unstructured(one[0], "weight", 0.3)
        lib.ln_structured(one[1][0], "weight", 0.5, 2, 0)
        lib.random_unstructured(one[1][0], "bias", 2)
    assert list(ours.state_dict()) == names
    saved = prune.to_torch_state_dict(ours)
    assert set(saved) == set(theirs.state_dict())
    assert saved["0.weight_mask"].dtype is torch.float32
    theirs.load_state_dict(saved)
    x = torch.randn(2, 6)
    assert torch.equal(theirs[0](x), ours[0](x))

    with torch.no_grad():
        theirs[0].weight_orig.add_(1.0)  # what the mask hides is dropped
    fresh = model()
    prune.l1_unstructured(fresh[0], "weight", 0.9)
    assert str(prune.load_torch_state_dict(fresh, theirs.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(fresh[0](x), theirs[0](x))
    assert torch.equal(prune.mask_of(fresh[1][0], "bias").bool(), theirs[1][0].bias_mask.bool())
    nn.init.ones_(fresh[0].weight)
    fresh[0](x)
    assert int((fresh[0].weight == 0).sum()) == 9


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.update({"0.weight_mask": torch.ones(2)}), r"a mask of \(2,\)"),
        (lambda s: s.update({"0.weight_mask": torch.full((5, 6), 0.5)}), "0.weight_mask"),
        (lambda s: s.update({"7.weight_mask": torch.ones(2), "7.weight_orig": torch.ones(2)}), "'7.weight'"),
    ],
)
def test_checkpoints_that_do_not_fit(change: Any, text: str) -> None:
    other, fresh = torchs.l1_unstructured(model()[0], "weight", 3), model()
    state = {f"0.{key}": value for key, value in other.state_dict().items()}
    change(state)
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(bs.CheckpointError, match=text):
        prune.load_torch_state_dict(fresh, state, strict=False)
    assert not prune.is_pruned(fresh)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in before.items())
