"""Which parameters are pruned and why not: the plan."""

from __future__ import annotations

import json
import warnings

import bittersweet as bs
import pytest
import torch
from bittersweet.model.targets import Plan, find_targets
from layer_support import Conv1D
from pruner_support import LINEAR, mlp
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune


class Zoo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 8)
        self.fc = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.conv1 = nn.Conv1d(4, 8, 3)
        self.conv2 = nn.Conv2d(4, 8, 3, groups=2)
        self.conv3 = nn.Conv3d(2, 2, 2)
        self.up = nn.ConvTranspose2d(6, 3, 2)
        self.batch = nn.BatchNorm2d(8)
        self.transposed = Conv1D(6, 4)
        self.scale = nn.Parameter(torch.ones(16, 16))
        self.head = nn.Linear(8, 20)


DEFAULT = {
    "fc.weight",
    "conv1.weight",
    "conv2.weight",
    "conv3.weight",
    "up.weight",
    "transposed.weight",
    "head.weight",
}


def names(plan: Plan) -> set[str]:
    return {entry.name for entry in plan.targets}


def reason(plan: Plan, name: str) -> str:
    return next(entry for entry in plan if entry.name == name or name in entry.aliases).reason or "pruned"


def test_default_is_the_weights_of_linear_and_conv_layers() -> None:
    plan = find_targets(Zoo())
    assert names(plan) == DEFAULT
    assert reason(plan, "tokens.weight") == "embedding"
    assert reason(plan, "norm.weight") == "norm"
    assert reason(plan, "batch.bias") == "bias"
    assert reason(plan, "fc.bias") == "bias"
    assert "not the weight of" in reason(plan, "scale")
    assert [entry.name for entry in plan] == [name for name, _ in Zoo().named_parameters()]


def test_transposed_weights_say_which_axis_is_the_input() -> None:
    plan = find_targets(Zoo())
    assert {entry.name for entry in plan.targets if entry.in_dim == 0} == {"up.weight", "transposed.weight"}


def test_rows_of_a_conv1d_are_its_outputs() -> None:
    model = nn.Sequential(Conv1D(nf=6, nx=8))
    pruner = bs.Pruner(model, scorer="magnitude", scope="2:4", schedule=bs.OneShot(0.5, 1))
    pruner.step()
    kept = pruner.masks["0.weight"].reshape(2, 4, 6)  # groups of 4 consecutive inputs, per output
    assert torch.equal(kept.sum(dim=1), torch.full((2, 6), 2))


def test_what_is_tied_to_an_embedding_is_left_alone() -> None:
    model = Zoo()
    model.head.weight = model.tokens.weight
    plan = find_targets(model)
    assert names(plan) == DEFAULT - {"head.weight"}
    entry = next(entry for entry in plan if entry.name == "tokens.weight")
    assert entry.aliases == ("head.weight",)
    assert entry.reason == "tied to the embedding 'tokens.weight'"
    assert "tied with head.weight" in str(plan)
    assert reason(find_targets(model, targets=nn.Linear), "head.weight").startswith("tied to the embedding")
    assert "tokens.weight" in names(find_targets(model, targets="head.weight"))
    assert "tokens.weight" in names(find_targets(model, targets=nn.Embedding))


def test_tied_layers_are_one_target_with_both_names() -> None:
    model = mlp()
    model.extra = nn.Linear(12, 40)
    model.extra.weight = model[0].weight
    plan = find_targets(model)
    assert [entry.aliases for entry in plan.targets] == [("extra.weight",), (), ()]
    assert sum(entry.numel for entry in plan.targets) == 12 * 40 + 40 * 33 + 33 * 5


def test_frozen_and_untrained_parameters_are_listed() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([*model[0].parameters(), *model[2].parameters()])
    plan = bs.Pruner(model, optimizer, schedule=LINEAR).plan()
    assert names(plan) == {"2.weight"}
    assert "frozen" in reason(plan, "0.weight")
    assert reason(plan, "4.weight") == "not in the optimizer"
    assert not optimizer.state


@pytest.mark.parametrize("normalize", [parametrizations.weight_norm, torch.nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parametrized_weights_are_not_pruned(normalize: object) -> None:
    model = mlp()
    normalize(model[2])
    plan = find_targets(model)
    assert names(plan) == {"0.weight", "4.weight"}
    computed = [entry for entry in plan if entry.name.startswith("2.") and "bias" not in entry.name]
    assert len(computed) == 2
    assert all("'2.weight' is computed from it" in str(entry.reason) for entry in computed)
    assert names(find_targets(model, targets=nn.Linear)) == {"0.weight", "4.weight"}


def test_weights_that_torch_prunes_are_not_pruned_twice() -> None:
    model = mlp()
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    assert "computed" in reason(find_targets(model), "0.weight_orig")


def test_patterns_narrow_and_take_away() -> None:
    model = Zoo()
    assert names(find_targets(model, targets="conv*")) == {"conv1.weight", "conv2.weight", "conv3.weight"}
    assert names(find_targets(model, targets=["fc", "*.weight"])) == DEFAULT
    assert names(find_targets(model, targets=nn.Linear)) == {"fc.weight", "head.weight"}
    assert names(find_targets(model, targets=[model.fc, "up.weight"])) == {"fc.weight", "up.weight"}
    assert names(find_targets(model, targets=model)) == DEFAULT
    assert names(find_targets(model, ignore=["head*", nn.Conv2d, model.fc])) == DEFAULT - {
        "head.weight", "conv2.weight", "fc.weight"
    }  # fmt: skip
    plan = find_targets(model, targets=nn.Linear, ignore="head")
    assert reason(plan, "head.weight") == "ignored by 'head'"
    assert reason(plan, "up.weight") == "not named by targets"


def test_only_an_exact_name_or_the_own_type_reaches_what_the_default_leaves_out() -> None:
    model = Zoo()
    assert names(find_targets(model, targets="*")) == DEFAULT
    assert "give its exact name" in reason(find_targets(model, targets="*"), "scale")
    assert names(find_targets(model, targets=["scale", "norm.weight", "fc.bias"])) == {
        "scale", "norm.weight", "fc.bias"
    }  # fmt: skip
    assert names(find_targets(model, targets=nn.Embedding)) == {"tokens.weight"}
    assert names(find_targets(model, targets=model.norm)) == {"norm.weight"}


def test_a_pattern_without_a_match_names_near_ones() -> None:
    model = Zoo()
    with pytest.raises(bs.ArgumentError, match=r"ignore names 'haed\.weight'.*head\.weight"):
        find_targets(model, ignore="haed.weight")
    with pytest.raises(bs.ArgumentError, match=r"targets names Bilinear.*Conv1D.*Linear"):
        find_targets(model, targets=[nn.Bilinear])
    with pytest.raises(bs.ArgumentError, match=r"a Linear module.*part of this model"):
        find_targets(model, targets=nn.Linear(2, 2))
    with pytest.raises(bs.ArgumentError, match="targets holds 3"):
        find_targets(model, targets=["fc", 3])


def test_nothing_to_prune_is_an_error_with_the_reasons() -> None:
    with pytest.raises(bs.ArgumentError, match=r"nothing to prune.*0\.weight: norm"):
        find_targets(nn.Sequential(nn.LayerNorm(4)))
    with pytest.raises(bs.ArgumentError, match="it has no parameters"):
        find_targets(nn.Sequential(nn.ReLU()))


def test_two_parameters_on_one_memory_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.data)
    with pytest.raises(bs.LayoutError, match=r"'0\.weight' and '1\.weight' share their memory"):
        find_targets(model)


def test_tensors_that_cannot_be_pruned_are_refused_at_once() -> None:
    with pytest.raises(bs.DTypeError, match=r"'0\.weight' has dtype float64"):
        find_targets(mlp().double())
    with pytest.raises(bs.DeviceError, match=r"'0\.weight'.*meta"):
        find_targets(mlp().to("meta"))
    with pytest.raises(bs.LayoutError, match="not initialised"):
        find_targets(nn.Sequential(nn.LazyLinear(4)))
    mixed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).double())
    assert names(find_targets(mixed)) == {"0.weight"}


def test_the_plan_prints_everything_and_is_data() -> None:
    model = Zoo()
    pruner = bs.Pruner(model, torch.optim.Adam(model.parameters()), schedule=LINEAR, ignore="head")
    text = str(pruner.plan())
    for name, parameter in model.named_parameters():
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert f"{parameter.numel():,}" in line
    assert "ignored by 'head'" in text
    assert "bitter7" in text
    assert "LinearRamp(initial_sparsity=0.2" in text
    values = json.loads(json.dumps(pruner.plan().to_dict()))
    assert {row["name"] for row in values["parameters"] if row["pruned"]} == DEFAULT - {"head.weight"}
    assert pruner.plan().targets[0].shape == (16, 8)


def test_a_changed_model_is_named() -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    model[2] = nn.Linear(40, 7)
    with pytest.raises(bs.ShapeError, match=r"'2\.weight' has shape \(7, 40\); it had \(33, 40\)"):
        pruner.step()
    model[2] = nn.Identity()
    with pytest.raises(bs.Error, match=r"no longer has the parameter '2\.weight'"):
        pruner.step()


@pytest.mark.parametrize("name", ["Conv1D", "Linear", "Embedding", "OptimizedModule", "DataParallel"])
@pytest.mark.parametrize("base", [nn.Conv1d, nn.ConvTranspose1d, nn.Linear])
def test_a_class_is_judged_by_what_it_is(name: str, base: type[nn.Module]) -> None:
    made = type(name, (base,), {})
    sizes = (8, 4) if base is nn.Linear else (8, 4, 3)
    model = nn.Sequential(made(*sizes, bias=False))
    (entry,) = find_targets(model).targets
    assert entry.in_dim == (0 if base is nn.ConvTranspose1d else None)
    pruner = bs.Pruner(model, None, scorer="magnitude", schedule=bs.OneShot(0.5, 1), scope="row")
    pruner.step()
    kept = pruner.masks["0.weight"]
    rows = kept.transpose(0, 1) if base is nn.ConvTranspose1d else kept
    assert rows.flatten(1).sum(1).tolist() == [rows[0].numel() // 2] * len(rows)


def test_what_only_has_the_name_of_a_layer_is_none() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4))

    class DistributedDataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 4)

    plan = find_targets(nn.Sequential(Conv1D(), DistributedDataParallel()))
    assert names(plan) == {"1.module.weight"}
    assert "not the weight of" in reason(plan, "0.weight")


def test_a_glob_reaches_the_attribute_that_it_spells() -> None:
    model = Zoo()
    assert names(find_targets(model, targets="*.weight")) == DEFAULT
    assert names(find_targets(model, targets="*scale")) == {"scale"}
    assert names(find_targets(model, targets=["*.bias", "fc.*"])) >= {"fc.weight", "fc.bias", "up.bias"}
    with pytest.raises(bs.ArgumentError, match="nothing to prune"):
        find_targets(model, targets="?cale")
    attention = nn.Sequential(nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2))
    both = {"0.in_proj_weight", "1.in_proj_weight"}
    assert names(find_targets(attention, targets="*in_proj_weight")) == both
    assert names(find_targets(attention)) == both | {"0.out_proj.weight", "1.out_proj.weight"}


def test_parameters_are_patterns() -> None:
    model = Zoo()
    assert names(find_targets(model, targets=model.fc.weight)) == {"fc.weight"}
    assert names(find_targets(model, targets=[model.scale, "head"])) == {"scale", "head.weight"}
    assert names(find_targets(model, targets=model.parameters())) == DEFAULT | {"scale"}
    assert names(find_targets(model, ignore=[model.fc.weight])) == DEFAULT - {"fc.weight"}
    with pytest.raises(bs.ArgumentError) as error:
        find_targets(model, targets=[torch.randn(500, 500)])
    assert str(error.value) == (
        "targets names a Tensor of shape (500, 500), which is not in the model. Pass a parameter that is a "
        "part of this model"
    )
    with pytest.raises(bs.ArgumentError) as error:
        find_targets(model, targets=model.named_parameters())
    assert len(str(error.value)) < 250


def test_wrong_patterns_and_models_are_told_what_to_do() -> None:
    model = mlp()
    with pytest.raises(bs.ArgumentError, match=r"Linear is a type of modules: .*torch\.nn\.Linear"):
        find_targets(model, targets="Linear")
    with pytest.raises(bs.ArgumentError, match=r"pass the type itself, .*Conv1D"):
        find_targets(Zoo(), ignore="Conv1D")
    with pytest.raises(bs.ArgumentError, match=r"found generator;.*not its parameters"):
        find_targets(model.parameters())  # type: ignore[arg-type]
    with pytest.raises(bs.ArgumentError, match=r"found generator;.*not its parameters"):
        bs.Pruner(model.parameters(), schedule=LINEAR)  # type: ignore[arg-type]
    with pytest.raises(bs.ArgumentError, match="found OrderedDict"):
        find_targets(model.state_dict())  # type: ignore[arg-type]
    model[0].requires_grad_(False)
    with pytest.raises(bs.ArgumentError, match=r"frozen.*pruned once, .* by bittersweet\.prune_"):
        find_targets(model, targets="0.weight")
    assert names(find_targets(model, targets="0.weight", frozen=True)) == {"0.weight"}


def test_inputs_that_n_of_m_does_not_divide_say_what_a_pruner_takes() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=4), nn.ConvTranspose2d(12, 6, 3, groups=2)
    )
    options = {"scorer": "magnitude", "schedule": bs.OneShot(0.5, 1)}
    for name, inputs in (("0.weight", 3), ("1.weight", 2), ("2.weight", 6)):
        with pytest.raises(bs.ShapeError) as error:
            bs.Pruner(model, None, scope="2:4", targets=name, **options)
        assert f"the {inputs} inputs of tensor '{name}'" in str(error.value)
        advice = 'bs.NofM(2, 4, remainder="keep")'
        assert f"scope={advice}" in str(error.value)
        scope = eval(advice)
        pruner = bs.Pruner(model, None, scope=scope, targets=name, **options)
        pruner.step()
        assert pruner.masks[name].sum() == pruner.masks[name].numel() * (1 - inputs // 4 * 4 / inputs / 2)


def test_a_plan_says_what_it_overlooks_and_warns_once_for_a_class() -> None:
    class Overlooked(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.experts = nn.Parameter(torch.randn(4, 8, size))
            self.tokens = nn.Embedding(1000, 8)
            self.fc = nn.Linear(8, 36)

    with pytest.warns(UserWarning, match=r"256 of 544 elements .* are left out, 47\.1%: experts \(not the"):
        plan = find_targets(Overlooked(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_targets(Overlooked(8))  # once for the class
        for options in ({"ignore": "experts"}, {"targets": "fc"}, {"targets": ["experts", "fc"]}):
            assert find_targets(Overlooked(8), **options).overlooked() is None
    with pytest.warns(UserWarning, match="give its exact name in targets.*or its module's type"):
        assert [entry.name for entry in find_targets(Overlooked(8), targets="*").targets] == ["fc.weight"]
    assert "attention: 256 of 544 elements in parameters of two or more axes" in str(plan).splitlines()[1]
    assert find_targets(Overlooked(1)).overlooked() is None  # 32 of 320: no more than a tenth
    model = Overlooked(1)
    optimizer = torch.optim.SGD([model.experts, model.fc.weight, model.tokens.weight], 0.1)
    assert find_targets(model, optimizer).overlooked() is None
    optimizer = torch.optim.SGD([model.experts, model.fc.bias], 0.1)
    plan = find_targets(model, optimizer, targets=["experts", "fc.weight"])
    assert "fc.weight (not in the optimizer)" in str(plan.overlooked())


def test_the_plan_is_short_as_an_object_and_entries_know_their_geometry() -> None:
    plan = find_targets(Zoo(), ignore="scale")
    assert repr(plan).startswith("Plan(7 of 20 parameters take part, ")
    assert len(repr(plan)) < 120
    entry = next(entry for entry in plan if entry.name == "conv2.weight")
    assert entry.geometry == (8, 2, 9, 18, 9, 2)
    assert (entry.inputs, entry.features, entry.one_row) == (2, 4, (1, 2, 1, 1))


def test_sharded_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import distributed

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one rank shards nothing
            wrapped = [
                FullyShardedDataParallel(mlp(), device_id=torch.device("cpu"), use_orig_params=own)
                for own in (False, True)
            ]
        for model in (*wrapped, nn.Sequential(nn.Linear(4, 4), wrapped[0])):
            with pytest.raises(bs.LayoutError, match=r"FullyShardedDataParallel.*fully_shard in its place"):
                find_targets(model)
            with pytest.raises(bs.LayoutError, match="FullyShardedDataParallel"):
                bs.Pruner(model, None, scorer="magnitude", schedule=LINEAR)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        fully_shard(model[1], mesh=distributed.init_device_mesh("cpu", (1,)))
        with pytest.raises(bs.LayoutError, match=r"parameter '1\.weight' is a DTensor") as error:
            find_targets(model)
        assert "to_local" not in str(error.value)
        assert names(find_targets(model, ignore="1.*")) == {"0.weight"}
        entry = find_targets(model, over_ranks=True).targets[1]
        assert (entry.shape, entry.local_shape) == ((4, 4), (4, 4))
        assert entry.shard is not None and entry.shard.layout is not None
    finally:
        distributed.destroy_process_group()


def test_what_deepspeed_has_partitioned_is_refused() -> None:
    model = mlp()
    model[2].weight.ds_id = 7  # as ZeRO-3 marks what it takes apart
    with pytest.raises(bs.LayoutError, match=r"'2\.weight' is partitioned by DeepSpeed ZeRO-3.*fully_shard"):
        find_targets(model)
    with pytest.raises(bs.LayoutError, match="ZeRO-3"):
        bs.Pruner(model, None, scorer="magnitude", schedule=LINEAR)
