"""Adapters beside frozen weights: left alone by default, listed, and pruned when they are named."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.model.targets import Plan, find_targets
from torch import nn


def names(plan: Plan) -> set[str]:
    return {entry.name for entry in plan.targets}


def reason(plan: Plan, name: str) -> str:
    return next(entry for entry in plan if entry.name == name).reason or "pruned"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.q_proj = nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.q_proj(self.tokens(tokens))
        return self.head(self.conv(hidden.transpose(1, 2)).transpose(1, 2))


class LoraLinear(nn.Linear):
    """A layer that keeps its adapter beside its own weight, as several libraries write it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(2, inputs))
        self.lora_b = nn.Linear(2, outputs, bias=False)


def test_names_of_lora_are_adapters_without_any_library() -> None:
    model = nn.Sequential(LoraLinear(8, 6), nn.Linear(6, 4))
    plan = find_targets(model)
    assert names(plan) == {"1.weight"}
    assert reason(plan, "0.lora_A") == "adapter (lora_A); to prune it, name it in targets"
    assert reason(plan, "0.lora_b.weight").startswith("adapter (lora_b)")
    assert "frozen" in reason(plan, "0.weight")
    assert plan.overlooked() is None
    for targets, expected in (
        ("*lora_A*", {"0.lora_A"}),
        ("*.lora_*", {"0.lora_A", "0.lora_b.weight"}),
        ("0.lora_b.weight", {"0.lora_b.weight"}),
        (model[0].lora_b, {"0.lora_b.weight"}),
        (["0.lora_A", "1"], {"0.lora_A", "1.weight"}),
        (nn.Linear, {"1.weight"}),
        ("*", {"1.weight"}),
        (list(model.parameters()), {"1.weight"}),
    ):
        assert names(find_targets(model, targets=targets)) == expected, targets


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft")


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "loha", "lokr", "oft"])
def test_adapters_of_peft(peft: Any, kind: str) -> None:
    chosen: dict[str, Any] = {"target_modules": ["q_proj"]}
    config = {
        "lora": lambda: peft.LoraConfig(r=2, **chosen),
        "dora": lambda: peft.LoraConfig(r=2, use_dora=True, **chosen),
        "ia3": lambda: peft.IA3Config(feedforward_modules=[], **chosen),
        "loha": lambda: peft.LoHaConfig(r=2, **chosen),
        "lokr": lambda: peft.LoKrConfig(r=2, **chosen),
        "oft": lambda: peft.OFTConfig(r=2, oft_block_size=0, **chosen),
    }[kind]()
    model = peft.get_peft_model(Net(), config)
    with pytest.raises(bs.ArgumentError, match=r"nothing to prune.*bittersweet\.prune_"):
        find_targets(model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    plan = find_targets(model)
    base = "base_model.model."
    expected = {f"{base}q_proj.base_layer.weight", f"{base}conv.weight", f"{base}head.weight"}
    assert names(plan) == expected
    beside = [name for name, _ in model.named_parameters() if "q_proj" in name and "base_layer" not in name]
    assert beside
    assert all(reason(plan, name).startswith("adapter (") for name in beside)
    assert names(find_targets(model, targets=nn.Linear)) == expected - {f"{base}conv.weight"}
    exact = beside[0]
    assert names(find_targets(model, targets=exact)) == {exact}


def test_lora_by_glob_module_and_pruner(peft: Any) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "conv", "tokens"], modules_to_save=["head"])
    model = peft.get_peft_model(Net(), config)
    plan = find_targets(model)
    saved = "base_model.model.head.modules_to_save.default.weight"
    assert names(plan) == {saved}  # trained whole: no adapter
    assert "frozen" in reason(plan, "base_model.model.head.original_module.weight")
    adapters = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 6
    assert {entry.name for entry in plan if (entry.reason or "").startswith("adapter")} == adapters
    assert names(find_targets(model, targets="*lora_*")) == adapters
    assert names(find_targets(model, targets="*lora_A*")) == {n for n in adapters if "lora_A" in n}
    q_proj = model.base_model.model.q_proj
    first = "base_model.model.q_proj.lora_A.default.weight"
    assert names(find_targets(model, targets=[q_proj.lora_A])) == {first}
    pruner = bs.Pruner(model, None, scorer="magnitude", schedule=bs.OneShot(0.5, 1), targets=first)
    pruner.step()
    assert (q_proj.lora_A["default"].weight == 0).float().mean() == 0.5
    assert not (q_proj.base_layer.weight == 0).any()
