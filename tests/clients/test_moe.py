"""Mixtures of experts of transformers: fused experts are pruned, by their own axes."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", minversion="5.0")

EXPERTS, HIDDEN, BETWEEN = 4, 16, 8
TINY = {
    "vocab_size": 32, "hidden_size": HIDDEN, "intermediate_size": BETWEEN, "moe_intermediate_size": BETWEEN,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "num_experts_per_tok": 2, "num_local_experts": EXPERTS, "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "qwen3_moe": {},
    "gpt_oss": {},
    "llama4_text": {"num_experts_per_tok": 1, "intermediate_size_mlp": BETWEEN},
    "deepseek_v3": {
        "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8, "v_head_dim": 8, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    },
}  # fmt: skip
TRANSPOSED = ("gpt_oss", "llama4_text")  # an expert's matrix is (inputs, outputs) there


def tiny(kind: str) -> Any:
    config = transformers.AutoConfig.for_model(kind, **{**TINY, **MODELS[kind]})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # some are left as they were allocated
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def experts(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.ndim == 3}


def train(model: Any, optimizer: Any, steps: int = 5) -> None:
    for i in range(steps):
        tokens = torch.randint(0, 32, (4, 12), generator=torch.Generator().manual_seed(i))
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def groups(kind: str, weight: torch.Tensor) -> torch.Tensor:
    """The non-zeros of every four consecutive inputs of each output of each expert."""
    by_output = weight.transpose(1, 2) if kind in TRANSPOSED else weight
    return (by_output != 0).reshape(-1, 4).sum(1)


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_axes_are_those_of_the_modules(kind: str) -> None:
    shapes = {tuple(w.shape) for name, w in experts(tiny(kind)).items() if name.endswith("gate_up_proj")}
    expected = (HIDDEN, 2 * BETWEEN) if kind in TRANSPOSED else (2 * BETWEEN, HIDDEN)
    assert shapes == {(EXPERTS, *expected)}


def test_magnitude_in_five_steps_prunes_the_experts(kind: str) -> None:
    model = tiny(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 2)).attach()
    plan = pruner.plan()
    assert plan.overlooked() is None
    assert set(experts(model)) <= {entry.name for entry in plan.targets}
    weights = [entry for entry in plan if entry.weight]
    assert sum(e.numel for e in weights if e.pruned) > 0.9 * sum(e.numel for e in weights)
    train(model, optimizer)
    report = pruner.finalize()
    assert report.violations == {}
    assert report.step == 5
    assert report.sparsity.zero == report.sparsity.masked == pytest.approx(0.5, abs=1e-3)
    for name, weight in experts(model).items():
        assert torch.equal(weight != 0, pruner.masks[name]), name
        assert 0.3 < float((weight == 0).float().mean()) < 0.7


def test_two_of_four_lies_along_the_inputs_of_each_expert(kind: str) -> None:
    model = tiny(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(
        model, optimizer, scorer="magnitude", scope="2:4", schedule=bs.OneShot(0.5, 2), targets="*experts*"
    ).attach()
    assert set(experts(model)) <= set(pruner.masks)
    train(model, optimizer)
    report = pruner.finalize()
    assert report.violations == {}
    assert report.sparsity.zero == report.sparsity.masked == 0.5
    for name, weight in experts(model).items():
        assert bool((groups(kind, weight) == 2).all()), name


@pytest.mark.parametrize("scope", ["global", "2:4"])
def test_one_shot(kind: str, scope: str) -> None:
    model = tiny(kind)
    event = bs.prune_(model, sparsity=0.5, scope=scope, targets="*experts*")
    assert event.pruned == event.total // 2
    assert event.total >= sum(weight.numel() for weight in experts(model).values())
    assert bs.sparsity(model) is not None
    for name, weight in experts(model).items():
        assert 0.3 < float((weight == 0).float().mean()) < 0.7, name
        assert scope == "global" or bool((groups(kind, weight) == 2).all()), name
