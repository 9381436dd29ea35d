"""Masks and weights beside torch.nn.utils.prune's own, on copies of the same modules. Scores without ties."""

from __future__ import annotations

import copy
from typing import Any

import bittersweet.prune as ours
import pytest
import torch
import torch.nn.utils.prune as torchs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

AMOUNTS = (0.0, 0, 0.05, 0.5, 0.3333, 1, 3, 0.999, 1.0)
MODULES = {
    "linear": lambda: nn.Linear(37, 11),
    "one weight": lambda: nn.Linear(1, 1),
    "conv": lambda: nn.Conv2d(6, 7, 3),
    "grouped": lambda: nn.Conv1d(6, 9, 5, groups=3),
    "transposed": lambda: nn.ConvTranspose2d(5, 8, 2),
    "embedding": lambda: nn.Embedding(67, 5),
    "norm": lambda: nn.LayerNorm(70),
}


def distinct(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter gets different absolute values, exact in bfloat16 where there are at most 256."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            order = torch.randperm(parameter.numel(), generator=random) + 1.0
            signs = torch.randint(0, 2, (parameter.numel(),), generator=random) * 2.0 - 1.0
            parameter.copy_((order * signs).reshape(parameter.shape) / 64)
    return module


def pair(make: Any, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    module = distinct(make()).to(dtype)
    return module, copy.deepcopy(module)


def same(a: nn.Module, b: nn.Module, name: str = "weight") -> None:
    assert torch.equal(ours.mask_of(a, name).bool(), getattr(b, f"{name}_mask").bool())
    assert torch.equal(getattr(a, name).detach(), getattr(b, name).detach())


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("kind", MODULES)
def test_l1_unstructured(kind: str, amount: float) -> None:
    a, b = pair(MODULES[kind])
    if isinstance(amount, int) and amount > a.weight.numel():
        with pytest.raises(ValueError, match="1 weights are left to prune"):
            ours.l1_unstructured(a, "weight", amount)
        return
    assert ours.l1_unstructured(a, "weight", amount) is a
    torchs.l1_unstructured(b, "weight", amount)
    same(a, b)


def test_channels_last() -> None:
    """torch fails on this layout (it views the weight as a row), so it gets a row-major copy."""
    a, b = pair(MODULES["conv"])
    a.to(memory_format=torch.channels_last)
    for _ in range(2):
        ours.l1_unstructured(a, "weight", 0.4)
        torchs.l1_unstructured(b, "weight", 0.4)
        ours.ln_structured(a, "weight", 2, n=2, dim=0)
        torchs.ln_structured(b, "weight", 2, n=2, dim=0)
        same(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype: torch.dtype) -> None:
    a, b = pair(lambda: nn.Linear(16, 16), dtype)
    for _ in range(3):
        ours.l1_unstructured(a, "weight", 0.3)
        torchs.l1_unstructured(b, "weight", 0.3)
        same(a, b)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 33),
    amounts=st.lists(st.floats(0, 1) | st.integers(0, 4), min_size=1, max_size=5),
    bias=st.booleans(),
)
def test_iterations(rows: int, columns: int, amounts: list[float], bias: bool) -> None:
    a, b = pair(lambda: nn.Linear(columns, rows))
    name = "bias" if bias else "weight"
    for amount in amounts:
        live = getattr(a, name).numel() if not ours.is_pruned(a) else ours.mask_of(a, name).kept()
        if isinstance(amount, int) and amount > live:
            continue
        ours.l1_unstructured(a, name, amount)
        torchs.l1_unstructured(b, name, amount)
        same(a, b, name)


@pytest.mark.parametrize("share", [0.125, 0.375, 0.625])
def test_halves_are_rounded_to_even_as_pythons(share: float) -> None:
    a, b = pair(lambda: nn.Linear(4, 1))  # 0.5, 1.5 and 2.5 weights
    ours.l1_unstructured(a, "weight", share)
    torchs.l1_unstructured(b, "weight", share)
    same(a, b)


@pytest.mark.parametrize("n", [1, 2, 3, 0.5, float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("kind", "dim"), [("linear", 0), ("linear", -1), ("conv", 0), ("conv", 1), ("conv", -2), ("grouped", 2)]
)
def test_ln_structured(kind: str, dim: int, n: float) -> None:
    torch.manual_seed(3)
    a = MODULES[kind]()
    b = copy.deepcopy(a)
    for amount in (0.3, 0.0, 1, 0.5):
        ours.ln_structured(a, "weight", amount, n=n, dim=dim)
        torchs.ln_structured(b, "weight", amount, n=n, dim=dim)
        same(a, b)


def test_structured_after_unstructured_counts_channels_with_a_live_weight() -> None:
    a, b = pair(lambda: nn.Linear(6, 8))
    mask = torch.ones(8, 6)
    mask[2], mask[5], mask[0, :4] = 0, 0, 0
    for lib, module in ((ours, a), (torchs, b)):
        lib.custom_from_mask(module, "weight", mask)
        lib.ln_structured(module, "weight", 0.5, n=1, dim=0)
        lib.l1_unstructured(module, "weight", 0.25)
    same(a, b)
    assert int(ours.mask_of(a, "weight").bool().any(1).sum()) == 3


def test_importance_scores_go_by_absolute_value() -> None:
    scores = distinct(nn.Linear(37, 11), seed=5).weight.detach()
    a, b = pair(MODULES["linear"])
    for _ in range(2):
        ours.l1_unstructured(a, "weight", 0.4, importance_scores=scores)
        torchs.l1_unstructured(b, "weight", 0.4, importance_scores=scores)
        same(a, b)
    ours.ln_structured(a, "weight", 2, 2, 0, importance_scores=scores)
    torchs.ln_structured(b, "weight", 2, 2, 0, importance_scores=scores)
    same(a, b)


@pytest.mark.parametrize("amount", [0.2, 0.5, 7])
def test_global_unstructured(amount: float) -> None:
    torch.manual_seed(1)
    a = nn.Sequential(nn.Linear(20, 30), nn.Conv2d(3, 5, 3), nn.Linear(30, 5))
    b = copy.deepcopy(a)
    names = [(0, "weight"), (0, "bias"), (2, "weight"), (1, "weight")]
    ours.l1_unstructured(a[1], "weight", 0.5)
    torchs.l1_unstructured(b[1], "weight", 0.5)
    scores = torch.rand(5, 30) - 0.5
    for _ in range(4):
        for lib, model in ((ours, a), (torchs, b)):
            pairs = [(model[i], name) for i, name in names]
            lib.global_unstructured(pairs, lib.L1Unstructured, {(model[2], "weight"): scores}, amount=amount)
        for i, name in names:
            same(a[i], b[i], name)


def test_ties_prune_the_exact_number_lowest_index_first() -> None:
    a, b = nn.Linear(10, 1), nn.Linear(10, 1)
    for module in (a, b):
        nn.init.constant_(module.weight, 2.0)
    ours.global_unstructured([(a, "weight"), (b, "weight")], ours.L1Unstructured, amount=13)
    assert ours.mask_of(a, "weight").kept() == 0
    assert ours.mask_of(b, "weight").bool().tolist() == [[False] * 3 + [True] * 7]


def test_a_method_of_ones_own_is_written_as_for_torch() -> None:
    def every_other(self: Any, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask

    def first_rows(self: Any, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        mask = default_mask.clone()
        mask[: self.rows] = 0
        return mask

    class Rows:
        PRUNING_TYPE, dim = "structured", 0

        def __init__(self, rows: int) -> None:
            self.rows = rows

    for kind in ("unstructured", "global"):
        made = [type("M", (lib.BasePruningMethod,), {"PRUNING_TYPE": kind, "compute_mask": every_other})
                for lib in (ours, torchs)]  # fmt: skip
        a, b = pair(MODULES["linear"])
        for _ in range(3):
            made[0].apply(a, "weight")
            made[1].apply(b, "weight")
            same(a, b)
    rows = [type("R", (Rows, lib.BasePruningMethod), {"compute_mask": first_rows}) for lib in (ours, torchs)]
    a, b = pair(MODULES["linear"])
    for count in (2, 3):
        rows[0].apply(a, "weight", count)
        rows[1].apply(b, "weight", rows=count)
        same(a, b)
    a, b = pair(lambda: nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4)))
    odd = [type("M", (lib.BasePruningMethod,), {"PRUNING_TYPE": "unstructured", "compute_mask": every_other})
           for lib in (ours, torchs)]  # fmt: skip
    for _ in range(2):
        ours.global_unstructured([(a[0], "weight"), (a[1], "weight")], odd[0])
        torchs.global_unstructured([(b[0], "weight"), (b[1], "weight")], odd[1])
        for i in (0, 1):
            same(a[i], b[i])


@pytest.mark.parametrize("kind", ["unstructured", "structured", "global"])
@pytest.mark.parametrize("of", ["linear", "conv", "grouped", "transposed"])
def test_a_first_method_of_ones_own_sees_the_shape_of_the_parameter(kind: str, of: str) -> None:
    def above_the_mean_of_its_row(self: Any, t: torch.Tensor, *, default_mask: torch.Tensor) -> torch.Tensor:
        size = t.abs()
        return default_mask * (size >= size.mean(dim=tuple(range(1, t.ndim)), keepdim=True))

    a, b = pair(MODULES[of])
    for lib, module in ((ours, a), (torchs, b)):
        body = {"PRUNING_TYPE": kind, "dim": 0, "compute_mask": above_the_mean_of_its_row}
        type("M", (lib.BasePruningMethod,), body).apply(module, "weight")
    same(a, b)
    for lib, module in ((ours, a), (torchs, b)):  # and the next one what is left
        lib.l1_unstructured(module, "weight", 0.3)
    same(a, b)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("L1Unstructured", {"amount": 0.3}), ("LnStructured", {"amount": 0.3, "n": 2, "dim": 0})],
)
def test_tensors_that_belong_to_no_module(method: str, arguments: dict[str, Any]) -> None:
    t = distinct(nn.Linear(9, 7)).weight.detach()
    mine, theirs = (getattr(lib, method)(**arguments) for lib in (ours, torchs))
    assert torch.equal(mine.prune(t), theirs.prune(t))
    before = (t > 0).float()
    assert torch.equal(mine.prune(t, default_mask=before), theirs.prune(t, default_mask=before))
    assert torch.equal(
        mine.prune(t, importance_scores=t.flip(0)), theirs.prune(t, importance_scores=t.flip(0))
    )


def test_random_ones_have_torchs_counts_and_a_seed_of_their_own() -> None:
    def kept(seed: int | None = None) -> torch.Tensor:
        module = nn.Linear(40, 50)
        ours.random_unstructured(module, "weight", 0.3, seed=seed)
        ours.random_unstructured(module, "weight", 0.3, seed=seed)
        mask: torch.Tensor = ours.mask_of(module, "weight").bool()
        assert int(mask.sum()) == 980
        return mask

    assert torch.equal(kept(1), kept(1)) and not torch.equal(kept(1), kept(2))
    torch.manual_seed(7)
    first, second = kept(), kept()
    torch.manual_seed(7)
    assert torch.equal(first, kept()) and not torch.equal(first, second)
    assert 0.2 < float(first.float().mean(0).std() / (0.49 * 0.51 / 50) ** 0.5) < 2.0  # spread as of a coin

    module = nn.Conv2d(6, 10, 3)
    for left in (7, 5, 3):  # 1.5 channels are 2
        ours.random_structured(module, "weight", 0.3, dim=0)
        rows = ours.mask_of(module, "weight").bool().flatten(1)
        assert int(rows.any(1).sum()) == left and torch.equal(rows.any(1), rows.all(1))
