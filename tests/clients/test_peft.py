"""peft: adapters are left alone, and a pruned base keeps its zeros through training and merging."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, STEPS, check_report, inputs, mlp
from torch import nn

peft = pytest.importorskip("peft")


def adapted(base: nn.Module) -> Any:
    return peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["0", "2"]))


def train(model: Any, optimizer: Any, steps: int = STEPS) -> None:
    for _ in range(steps):
        (model(inputs()) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_adapters_are_left_alone_and_the_error_says_so() -> None:
    model = adapted(mlp())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with pytest.raises(bs.ArgumentError, match=r"nothing to prune.*prune_"):
        bs.Pruner(model, optimizer, schedule=RAMP)
    named = bs.Pruner(model, optimizer, schedule=RAMP, targets="*lora_A*").attach()
    assert {"lora_A" in entry.name for entry in named.plan().targets} == {True}
    train(model, optimizer)
    check_report(named.finalize())


def test_a_pruned_base_keeps_its_zeros_through_training_and_merging() -> None:
    base = mlp()
    bs.prune_(base, sparsity=0.5)
    zeros = {name: p == 0 for name, p in base.named_parameters() if p.ndim == 2}
    assert sum(int(zero.sum()) for zero in zeros.values()) == 384
    model = adapted(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    train(model, torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2))
    dense = torch.cat([(layer.base_layer.weight == 0).flatten() for layer in (model.base_model.model[0],)])
    assert torch.equal(dense, zeros["0.weight"].flatten())  # the base did not move
    x = inputs()
    with torch.no_grad():
        before = model(x)
    merged = bs.merge_adapters_(model)
    assert sum(merged.refilled.values()) == 384  # merge_and_unload() alone had filled them all
    for name, zero in zeros.items():
        weight = merged.model.get_parameter(name)
        assert torch.equal(weight == 0, zero), name
    assert merged.sparsity.zero == merged.sparsity.masked == 0.5
    with torch.no_grad():
        assert not torch.equal(before, merged.model(x))  # M * (W + BA) is another function than W + BA


def test_a_base_pruned_in_training_hands_over_its_masks() -> None:
    base = mlp()
    optimizer = torch.optim.AdamW(base.parameters(), lr=1e-2)
    pruner = bs.Pruner(base, optimizer, schedule=RAMP).attach()
    train(base, optimizer)
    masks = dict(pruner.masks.items())
    check_report(pruner.finalize())
    model = adapted(base)
    train(model, torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2))
    merged = bs.merge_adapters_(model, masks)
    for name, mask in masks.items():
        assert torch.equal(merged.model.get_parameter(name) != 0, mask), name


def test_training_base_and_adapters_prunes_the_base() -> None:
    model = adapted(mlp()).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    assert all("base_layer" in entry.name for entry in pruner.plan().targets)
    assert sum("adapter" in (entry.reason or "") for entry in pruner.plan().excluded) == 4
    train(model, optimizer)
    check_report(pruner.finalize())
