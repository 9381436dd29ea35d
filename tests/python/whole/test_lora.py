"""Adapters merged into a pruned base: W becomes M * (W + BA), with real peft."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 16)
        self.first = nn.Linear(16, 24)
        self.conv = nn.Conv1d(24, 12, 3)
        self.second = nn.Linear(12, 16, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.first(self.embed(ids)).relu()
        x = self.conv(x.transpose(1, 2)).relu().mean(2)
        return self.head(self.second(x))


CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["first", "second"]},
    "convolution": {"target_modules": ["first", "conv"]},
    "dora": {"target_modules": ["first", "second"], "use_dora": True},
    "whole layers": {"target_modules": ["first"], "modules_to_save": ["head"]},
    "embedding": {"target_modules": ["embed", "first"]},
}


def pruned(share: float = 0.5) -> Net:
    model = Net()
    bs.prune_(model, sparsity=share)
    return model


def tuned(model: nn.Module, options: dict[str, Any]) -> Any:
    """A peft model with adapters that have taken some steps."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, init_lora_weights=False, **options))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(3):
        ids = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(seed))
        adapted(ids).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted


def matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_zeros_of_the_base_are_kept(kind: str) -> None:
    base = pruned()
    dead = {name: weight == 0 for name, weight in matrices(base).items() if (weight == 0).any()}
    assert set(dead) == {"first.weight", "conv.weight", "second.weight", "head.weight"}
    adapted = tuned(base, CONFIGS[kind])
    plain = matrices(copy.deepcopy(adapted).merge_and_unload())
    changed = [name for name, places in dead.items() if plain[name][places].any()]
    assert changed, "merging alone must fill zeros, or this shows nothing"
    merged = bs.merge_adapters_(adapted)
    assert isinstance(merged.model, Net)
    found = matrices(merged.model)
    for name, weight in plain.items():
        expected = weight.masked_fill(dead[name], 0) if name in dead else weight
        assert torch.equal(found[name], expected), name
    assert merged.refilled == {name: int((plain[name][places] != 0).sum()) for name, places in dead.items()}
    assert merged.sparsity.zero >= merged.sparsity.masked == pytest.approx(0.5, abs=1e-3)
    assert repr(merged).startswith("Merged(Net, 4 weights kept at sparsity 0.5")


def test_given_masks_are_taken_instead(tmp_path: Path) -> None:
    base = Net()
    masks = bs.make_masks(base, sparsity=0.7, targets="first")
    bs.save_masks(tmp_path / "masks", masks)
    for given in (masks, bs.load_masks(tmp_path / "masks"), masks.packed):
        merged = bs.merge_adapters_(tuned(copy.deepcopy(base), CONFIGS["linear"]), given)
        assert torch.equal(merged.model.get_parameter("first.weight") != 0, masks["first.weight"])
        assert list(merged.sparsity.per_tensor) == ["first.weight"]
        assert bool((merged.model.get_parameter("second.weight") != 0).all())


def test_accidental_zeros_of_a_dense_layer_are_not_kept() -> None:
    base = Net()
    with torch.no_grad():
        base.first.weight[0, 0] = 0.0
        base.second.weight[:8] = 0.0
    merged = bs.merge_adapters_(tuned(base, CONFIGS["linear"]))
    assert list(merged.sparsity.per_tensor) == ["second.weight"]
    assert merged.model.get_parameter("first.weight")[0, 0] != 0


def test_fused_experts_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    torch.manual_seed(0)
    base = transformers.MixtralForCausalLM(config)
    experts = [name for name, p in base.named_parameters() if p.ndim == 3]
    assert experts
    with torch.no_grad():
        for name in experts:
            weight = base.get_parameter(name)
            weight[weight.abs() < weight.abs().median()] = 0.0
    dead = {name: base.get_parameter(name).detach() == 0 for name in experts}
    options = {
        "target_modules": ["q_proj"],
        "target_parameters": [name.split("layers.0.")[1] for name in experts],
    }
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, init_lora_weights=False, **options))
    merged = bs.merge_adapters_(adapted)
    assert set(merged.sparsity.per_tensor) == set(experts)
    for name, places in dead.items():
        assert merged.refilled[name] > 0
        assert torch.equal(merged.model.get_parameter(name) == 0, places)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(bs.ArgumentError, match=r"model: found Net; accepted: a peft\.PeftModel"):
        bs.merge_adapters_(pruned())
    adapted = tuned(pruned(), CONFIGS["linear"])
    before, one = copy.deepcopy(adapted.state_dict()), torch.ones(1, dtype=torch.bool)
    for masks, error, message in (
        ({"third.weight": one}, bs.ArgumentError, r"'third\.weight' is no weight"),
        ({"first.weight": one}, bs.ShapeError, r"first\.weight"),
        ([1], bs.ArgumentError, "masks: found list"),
    ):
        with pytest.raises(error, match=message):
            bs.merge_adapters_(adapted, masks)
    with pytest.raises(bs.ArgumentError, match=r"no weight has a share of 0\.9 zeros"):
        bs.merge_adapters_(adapted, min_sparsity=0.9)
    assert all(torch.equal(before[name], value) for name, value in adapted.state_dict().items())
    adapted.merge_adapter()
    with pytest.raises(bs.ArgumentError, match=r"merged already.*unmerge_adapter\(\)"):
        bs.merge_adapters_(adapted)
    quantised = tuned(pruned(), CONFIGS["linear"])
    layer = quantised.get_base_model().first.base_layer
    layer.weight = nn.Parameter(torch.zeros(24, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(bs.LayoutError, match=r"'first\.weight' is quantised \(torch\.int8\)"):
        bs.merge_adapters_(quantised)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(bs.MissingPackageError, match=r"merging adapters needs peft.*pip install peft$"):
        bs.merge_adapters_(adapted)
