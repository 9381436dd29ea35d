"""Experts and other stacked weights of transformers, against what the real modules do by trial."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.model.targets import find_targets
from brute_support import cells, features, units
from torch import nn
from torch.overrides import TorchFunctionMode

transformers = pytest.importorskip("transformers", minversion="5.0")

EXPERTS, HIDDEN, BETWEEN = 3, 8, 6
TINY = {
    "vocab_size": 32,
    "hidden_size": HIDDEN,
    "intermediate_size": BETWEEN,
    "moe_intermediate_size": BETWEEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": EXPERTS,
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
}
LATENT = {
    "first_k_dense_replace": 1,
    "kv_lora_rank": 4,
    "q_lora_rank": 4,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
}
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "qwen2_moe": {"shared_expert_intermediate_size": BETWEEN},
    "qwen3_moe": {},
    "olmoe": {},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "gpt_oss": {},
    "nemotron_h": {"moe_shared_expert_intermediate_size": BETWEEN, "num_hidden_layers": 4},
    "llama4_text": {"num_experts_per_tok": 1, "intermediate_size_mlp": BETWEEN},
    "longcat_flash": {**LATENT, "num_layers": 2, "zero_expert_num": 0, "moe_topk": 2,
                      "expert_ffn_hidden_size": BETWEEN, "ffn_hidden_size": BETWEEN},
    "jetmoe": {"kv_channels": 4},
}  # fmt: skip
INTERFACE = [name for name in MODELS if name not in ("llama4_text", "longcat_flash", "jetmoe")]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def tiny(kind: str) -> nn.Module:
    config = transformers.AutoConfig.for_model(kind, **{**TINY, **MODELS[kind]})
    config._experts_implementation = "eager"
    return filled(transformers.AutoModelForCausalLM.from_config(config))


def filled(model: nn.Module) -> nn.Module:
    """With weights that no gradient through them vanishes at."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.1, 0.9)
    return model


def routed(module: Any, expert: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module called with every token sent to one expert."""

    def call(x: torch.Tensor) -> torch.Tensor:
        if type(module).__name__ == "Llama4TextExperts":
            blocks = [x if e == expert else torch.zeros_like(x) for e in range(EXPERTS)]
            return module(torch.cat(blocks)).view(EXPERTS, len(x), -1)[expert]
        return module(x, torch.full((len(x), 2), expert), torch.full((len(x), 2), 0.5))

    return call


def layer(kind: str, name: str) -> Any:
    return getattr(importlib.import_module(f"transformers.models.{kind}.modeling_{kind}"), name)


def check(module: nn.Module, attribute: str, call: Callable[[int], Any]) -> None:
    """`call(e)` runs the module on expert e. A first projection reads its inputs, a last one makes its
    outputs, a single one does both."""
    last = attribute in ("down_proj", "mlp.w2", "weight")
    first = not last or attribute == "weight"
    (entry,) = [e for e in find_targets(nn.ModuleList([module])).targets if e.name == f"0.{attribute}"]
    weight = module.get_parameter(attribute)
    row, read, inner = cells(entry)
    g = entry.geometry
    assert g.blocks == EXPERTS
    assert inner.max() == 0
    assert len(set(zip(row, read, strict=True))) == entry.numel
    block = np.arange(entry.numel) // (entry.numel // EXPERTS)
    x = torch.rand(4, HIDDEN) + 0.1
    for expert in range(EXPERTS):
        mine = block == expert
        if first:
            found = features(weight, call(expert), x, -1)
            assert np.array_equal(found >= 0, mine)
            assert np.array_equal(found[mine], read[mine] - expert * g.inputs)
        if last:
            found = units(weight, call(expert), x, -1)
            assert np.array_equal(found >= 0, mine)
            assert np.array_equal(found[mine], row[mine] - expert * (g.rows // EXPERTS))


@pytest.mark.parametrize("kind", MODELS)
def test_experts_are_targets_with_the_rows_and_inputs_that_they_have(kind: str) -> None:
    model = tiny(kind)
    plan = find_targets(model)
    three = {name for name, p in model.named_parameters() if p.dim() == 3 and "conv1d" not in name}
    assert len(three) > 1
    assert three <= {entry.name for entry in plan.targets}
    assert not any("bias" in entry.name for entry in plan.targets)
    assert plan.overlooked() is None
    if kind == "jetmoe":
        return
    path = next(name for name in three if name.endswith("down_proj")).rpartition(".")[0]
    module = model.get_submodule(path)
    for attribute in dict(module.named_parameters(recurse=False)):
        if not attribute.endswith("bias"):
            check(module, attribute, lambda e: routed(module, e))


def test_parallel_experts_of_jetmoe() -> None:
    module = filled(layer("jetmoe", "JetMoeParallelExperts")(EXPERTS, HIDDEN, BETWEEN))

    def call(expert: int) -> Any:
        return lambda x: module(x, [len(x) if e == expert else 0 for e in range(EXPERTS)])

    check(module, "weight", call)


def test_experts_of_dbrx_step_and_inkling() -> None:
    config = SimpleNamespace(
        hidden_size=HIDDEN, ffn_hidden_size=BETWEEN, moe_num_experts=EXPERTS, ffn_act_fn={},
        num_local_experts=EXPERTS, moe_intermediate_size=BETWEEN, hidden_act="gelu", n_shared_experts=EXPERTS,
    )  # fmt: skip
    dbrx = filled(layer("dbrx", "DbrxExperts")(config))
    for attribute in ("w1", "v1", "w2"):
        check(dbrx, f"mlp.{attribute}", lambda e: lambda x: routed(dbrx, e)(x)[0])
    step = filled(layer("step3p7", "Step3p7Experts")(config))
    for attribute in ("gate_up_proj", "down_proj"):
        check(step, attribute, lambda e: routed(step, e))
    shared = filled(layer("inkling", "InklingSharedExperts")(config))

    def call(expert: int) -> Any:
        return lambda x: shared(x, torch.eye(EXPERTS)[expert].expand(len(x), -1))

    for attribute in ("gate_proj", "up_proj", "down_proj"):
        check(shared, attribute, call)


def test_layers_for_each_codebook_or_group() -> None:
    for kind, name in (
        ("moshi", "MoshiFlexibleLinear"),
        ("kyutai_speech_to_text", "KyutaiSpeechToTextFlexibleLinear"),
    ):
        each = filled(layer(kind, name)(HIDDEN, BETWEEN, EXPERTS))
        check(each, "weight", lambda e, m=each: lambda x: m(x[:, None], torch.tensor([e]))[:, 0])
    head = filled(layer("csm", "CsmCodebooksHead")(HIDDEN, EXPERTS + 1, 10))
    check(head, "weight", lambda e: lambda x: head(x[:, None], torch.tensor([e + 1]))[:, 0])
    grouped = filled(layer("convbert", "GroupedLinearLayer")(12, 15, EXPERTS))
    x = torch.rand(2, 4, 12) + 0.1
    entry = find_targets(nn.ModuleList([grouped])).targets[0]
    row, read, _ = cells(entry)
    assert np.array_equal(row, units(grouped.weight, grouped, x, -1))
    assert np.array_equal(read, features(grouped.weight, grouped, x, -1))


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_two_of_four_goes_along_the_inputs_of_each_expert(kind: str) -> None:
    model = tiny(kind)
    pruner = bs.Pruner(
        model, None, scorer="magnitude", scope="2:4", schedule=bs.OneShot(0.5, 1), targets="*gate_up_proj"
    )
    pruner.step()
    for name, mask in pruner.masks.items():
        kept = mask if kind == "mixtral" else mask.transpose(1, 2)
        assert (kept.unflatten(2, (-1, 4)).sum(3) == 2).all(), name
        assert (model.get_parameter(name) == 0).sum() == mask.numel() // 2


class Inputs(TorchFunctionMode):
    """Squares of all that is multiplied with a slice of the watched parameters, by (address, expert)."""

    def __init__(self, watched: dict[str, torch.Tensor]) -> None:
        self.sums = {name: torch.zeros(len(p), 1, dtype=torch.float64) for name, p in watched.items()}
        self.at = {p[e].data_ptr(): (name, e) for name, p in watched.items() for e in range(len(p))}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("linear", "matmul", "__matmul__") and len(args) > 1:
            name, expert = self.at.get(args[1].data_ptr(), (None, 0))
            if name is not None:
                squares = args[0].detach().double().square().reshape(-1, args[0].shape[-1]).sum(0)
                if self.sums[name].shape[1] == 1:
                    self.sums[name] = self.sums[name].repeat(1, len(squares))
                self.sums[name][expert] += squares
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", INTERFACE)
def test_norms_are_those_of_the_tokens_that_each_expert_is_sent(kind: str) -> None:
    model = tiny(kind).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.5)
    batches = [torch.randint(0, 32, (4, 24)) for _ in range(3)]
    calibrator = bs.Calibrator(model, targets="*experts")
    experts = {e.name: model.get_parameter(e.path) for e in calibrator.plan().targets if len(e.shape) == 3}
    assert experts
    with torch.no_grad(), Inputs(experts) as oracle:
        model.eval()
        for batch in batches:
            model(batch)
    calibrator.run(batches)
    for name in experts:
        expected = (oracle.sums[name].flatten() / calibrator.positions[name]).sqrt()
        torch.testing.assert_close(calibrator.norms[name].double(), expected, rtol=1e-4, atol=1e-6)
        assert calibrator.positions[name] == 3 * 4 * 24
    event = bs.prune_(calibrator.score_inputs(), sparsity=0.5, scorer="wanda", scope="row")
    assert event.pruned == event.total // 2


def test_an_expert_without_tokens_is_named() -> None:
    model = tiny("mixtral")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.copy_(torch.tensor([2.0, 1.0, -3.0])[:, None].expand_as(parameter))
    calibrator = bs.Calibrator(model, targets="*experts").run([torch.randint(0, 32, (2, 8))])
    assert len(calibrator.unseen) == 4
    with pytest.raises(bs.MissingStateError, match="one of their experts was given no token"):
        _ = calibrator.norms
    assert calibrator.score_inputs(missing="skip") == []


def test_tokens_that_are_masked_out_do_not_count() -> None:
    model = tiny("mixtral")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randint(0, 32, (3, 16))
    mask = torch.zeros(3, 16, dtype=torch.long)
    mask[:, :11] = 1
    found = bs.Calibrator(model, targets="*experts").run(
        [{"input_ids": tokens, "keep": mask}], lambda m, b: m(b["input_ids"]), token_mask="keep"
    )
    expected = bs.Calibrator(model, targets="*experts").run([tokens[:, :11]])
    for name, norm in expected.norms.items():
        torch.testing.assert_close(found.norms[name], norm, rtol=1e-4, atol=1e-6)
        assert found.positions[name] == 33
