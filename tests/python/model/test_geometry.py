"""Rows and inputs of every kind of layer, against what the layers do by trial."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.model.targets import PlanEntry, find_targets
from bittersweet.tensors.geometry import geometry_of
from brute_support import cells, features, gradient, units
from layer_support import Conv1D
from torch import nn


def conv(kind: type[nn.Module], inputs: int, outputs: int, kernel: Any, **options: Any) -> Any:
    layer = kind(inputs, outputs, kernel, bias=False, **options)
    return pytest.param(layer, inputs, id=f"{kind.__name__}-{inputs}-{outputs}-{options}")


LAYERS = [
    conv(nn.Conv1d, 4, 6, 3),
    conv(nn.Conv1d, 8, 6, 3, groups=2),
    conv(nn.Conv1d, 6, 12, 2, groups=6),
    conv(nn.Conv2d, 8, 4, (3, 2), groups=4),
    conv(nn.Conv2d, 12, 6, 2, groups=3, dilation=2),
    conv(nn.Conv3d, 8, 4, (1, 2, 2), groups=2),
    conv(nn.ConvTranspose1d, 4, 6, 3),
    conv(nn.ConvTranspose1d, 8, 6, 3, groups=2),
    conv(nn.ConvTranspose1d, 6, 6, 3, groups=6),
    conv(nn.ConvTranspose1d, 6, 12, 3, groups=6),
    conv(nn.ConvTranspose2d, 8, 12, (2, 3), groups=4, stride=2),
    conv(nn.ConvTranspose2d, 12, 3, 2, groups=3),
    conv(nn.ConvTranspose3d, 8, 6, (2, 1, 2), groups=2),
    pytest.param(nn.Linear(8, 5), None, id="Linear"),
    pytest.param(Conv1D(5, 8), None, id="Conv1D"),
]


def entry_of(model: nn.Module, **options: Any) -> PlanEntry:
    (entry,) = find_targets(model, **options).targets
    return entry


def truth(layer: Any, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(unit, feature) of every element, by trial."""
    torch.manual_seed(1)
    if channels is None:
        x, axis = torch.rand(3, 8), -1
    else:
        x, axis = torch.rand(2, channels, *[5] * (layer.weight.dim() - 2)), 1
    return units(layer.weight, layer, x, axis), features(layer.weight, layer, x, axis)


@pytest.mark.parametrize(("layer", "channels"), LAYERS)
def test_rows_are_output_channels_and_features_what_they_read(layer: Any, channels: int | None) -> None:
    entry = entry_of(nn.Sequential(layer))
    unit, feature = truth(layer, channels)
    row, read, _ = cells(entry)
    assert np.array_equal(row, unit)
    assert np.array_equal(read, feature)
    assert entry.features == feature.max() + 1
    assert entry.inputs == len(set(feature[unit == 0]))
    assert max(entry.one_row) == np.prod(entry.one_row) == entry.inputs


@pytest.mark.parametrize(("layer", "channels"), LAYERS)
def test_scopes_compare_within_units_and_along_their_inputs(layer: Any, channels: int | None) -> None:
    unit, feature = truth(layer, channels)
    _, _, inner = cells(entry_of(nn.Sequential(layer)))
    weight = layer.weight.detach().abs().flatten().numpy()

    def masks(**options: Any) -> np.ndarray:
        model = nn.Sequential(layer)
        pruner = bs.Pruner(
            model, None, schedule=bs.OneShot(0.5, 1), scorer="magnitude", hold="weights", **options
        )
        before = layer.weight.detach().clone()
        pruner.step()
        kept = np.asarray(pruner.masks["0.weight"]).flatten()
        with torch.no_grad():
            layer.weight.copy_(before)
        return kept

    kept = masks(scope="row")
    for one in range(unit.max() + 1):
        mine = weight[unit == one]
        assert (~kept[unit == one]).sum() == int(len(mine) * 0.5 + 0.5)
        assert weight[(unit == one) & ~kept].max() <= weight[(unit == one) & kept].min()
    if len(set(feature[unit == 0])) % 2 == 0:
        kept = masks(scope="1:2")
        for one in range(unit.max() + 1):
            for place in range(inner.max() + 1):
                mine = np.flatnonzero((unit == one) & (inner == place))
                mine = mine[np.argsort(feature[mine])]
                pairs = kept[mine].reshape(-1, 2)
                assert (pairs.sum(1) == 1).all()
                assert (weight[mine].reshape(-1, 2).argmax(1) == pairs.argmax(1)).all()


@pytest.mark.parametrize(("layer", "channels"), LAYERS)
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_wanda_and_empty_rows(layer: Any, channels: int | None, framework: str) -> None:
    entry = entry_of(nn.Sequential(layer))
    unit, feature = truth(layer, channels)
    norms = np.random.default_rng(0).random(entry.features).astype(np.float32) + 0.1
    weight = np.random.default_rng(1).standard_normal(entry.shape).astype(np.float32)
    weight.reshape(-1)[np.isin(unit, (0, 2))] *= 1e-6  # what is pruned first: whole units, and one more
    item = bs.ScoreInputs(weight, input_norm=norms, **entry.axes._asdict())
    if framework == "torch":
        item.weight, item.input_norm = torch.from_numpy(weight), torch.from_numpy(norms)
    scores = np.abs(weight).flatten() * norms[feature]
    small = int(np.isin(unit, (0, 2)).sum()) + 1
    kept = bs.make_masks(item, k=small, scorer="wanda", scope="global")
    expected = np.ones(entry.numel, bool)
    expected[np.argsort(scores, kind="stable")[:small]] = False
    assert np.array_equal(np.asarray(kept.bool()).flatten(), expected)
    assert kept.event.empty_rows == sum(not expected[unit == one].any() for one in set(unit))
    assert kept.event.empty_rows >= len({0, 2} & set(unit))


def test_attention_projections_read_query_key_and_value() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(6, 2, kdim=6, vdim=6)
    plan = find_targets(nn.Sequential(layer))
    assert [entry.name for entry in plan.targets] == ["0.in_proj_weight", "0.out_proj.weight"]
    row, read, _ = cells(plan.targets[0])
    x = torch.rand(5, 18)  # query, key and value side by side

    def call(x: torch.Tensor) -> torch.Tensor:
        return layer(*(part.contiguous() for part in x.split(6, -1)))[0]

    assert np.array_equal(read, features(layer.in_proj_weight, call, x, -1))
    assert np.array_equal(row, np.repeat(np.arange(18), 6))
    assert np.array_equal(cells(plan.targets[1])[0], units(layer.out_proj.weight, call, x, -1))


def test_attention_with_other_sizes_has_three_projections() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(6, 2, kdim=4, vdim=10)
    model, x = nn.Sequential(layer), torch.rand(5, 20)

    def call(x: torch.Tensor) -> torch.Tensor:
        return layer(*(part.contiguous() for part in x.split([6, 4, 10], -1)))[0]

    plan = find_targets(model)
    first = {"q_proj_weight": 0, "k_proj_weight": 6, "v_proj_weight": 10}
    assert [entry.name for entry in plan.targets] == [f"0.{name}" for name in (*first, "out_proj.weight")]
    for entry, (name, offset) in zip(plan.targets, first.items(), strict=False):
        assert np.array_equal(cells(entry)[1] + offset, features(getattr(layer, name), call, x, -1))


def test_one_output_channel_alone_has_a_gradient_in_its_row() -> None:
    """The trial itself: a known matrix."""
    weight = torch.rand(3, 2, requires_grad=True)
    reached = gradient(weight, (torch.ones(1, 2) @ weight.T)[:, 1])
    assert reached.tolist() == [False, False, True, True, False, False]


class Stacked(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(*shape))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_a_given_axis_is_that_of_the_inputs(axis: int) -> None:
    torch.manual_seed(0)
    model = Stacked(4, 8, 8)
    entry = entry_of(model, targets="up", in_dim={"u*": axis})
    moved = np.moveaxis(np.arange(entry.numel).reshape(4, 8, 8), axis, -1)
    row, read, inner = cells(entry)
    assert inner.max() == 0
    assert all(len(set(row[line])) == 1 for line in moved.reshape(-1, moved.shape[-1]))
    assert all((np.diff(read[line]) == 1).all() for line in moved.reshape(-1, moved.shape[-1]))
    assert len(set(row)) == moved[..., 0].size


def test_unknown_axes_are_never_guessed() -> None:
    options: dict[str, Any] = {"scorer": "magnitude", "schedule": bs.OneShot(0.5, 1), "targets": "up"}
    for scope in ("2:4", "row", bs.NofM(1, 2), bs.Row()):
        message = r"which of the 3 axes of 'up' \(4, 8, 8\).*in_dim=\{'up': axis\}"
        with pytest.raises(bs.ArgumentError, match=message):
            bs.Pruner(Stacked(4, 8, 8), None, scope=scope, **options)
    for scope in ("global", "tensor"):
        pruner = bs.Pruner(Stacked(4, 8, 8), None, scope=scope, **options)
        event = pruner.step()
        assert event is not None and event.pruned == 128 and event.empty_rows == 0
    assert bs.Pruner(Stacked(8, 8), None, scope="2:4", **options).step() is not None


def test_the_axis_is_checked() -> None:
    model = nn.Sequential(nn.ConvTranspose1d(4, 4, 3), Stacked(4, 8, 8))
    for given, message in (
        ({"1.up": 3}, r"in_dim: 3 for '1\.up' of shape \(4, 8, 8\); accepted: an axis, -3 to 2"),
        ({"1.up": True}, "in_dim: True"),
        ({"1.up": 1.0}, r"in_dim: 1\.0"),
        ({"1.upp": 1}, r"in_dim names '1\.upp', which is not in the model"),
        ({"0.weight": 1}, r"axis 1 for '0\.weight', whose inputs are on axis 0 by its class"),
        ({"1.*": 1, "1.up": 2}, "on axis 1 by another pattern"),
        (1, "in_dim: found int; accepted: a mapping"),
    ):
        with pytest.raises(bs.ArgumentError, match=message):
            find_targets(model, in_dim=given)  # type: ignore[arg-type]
    plan = find_targets(model, targets="*.up", in_dim={"0.weight": 0, "1.up": np.int64(2)})
    assert [entry.in_dim for entry in plan] == [0, None, 2]
    assert type(plan.entries[2].in_dim) is int


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((4, 6, 3), {"in_dim": 3}, r"in_dim: 3; accepted: 0 to 2 for 'w' of shape \(4, 6, 3\)"),
        ((4, 6, 3), {"in_dim": 1, "kernel_dims": 2}, "kernel_dims: 2.*inputs on axis 1; accepted: 0 to 1"),
        ((4, 6, 3), {"kernel_dims": -1}, "kernel_dims: -1"),
        ((4, 6, 3), {"groups": 3}, "groups: 3.*a number that divides 4"),
        ((4, 6, 3), {"in_dim": 0, "groups": 3}, "groups: 3.*a number that divides 4"),
        ((4, 6, 3), {"groups": 0}, "groups: 0"),
        ((4, 6, 3), {"in_dim": 1, "kernel_dims": 0, "groups": 2}, "groups: 2.*accepted: 4"),
        ((5,), {"groups": 5}, "groups: 5.*accepted: 1"),
        ((5,), {"kernel_dims": 1}, "kernel_dims: 1.*accepted: 0"),
    ],
)
def test_axes_that_do_not_fit_are_refused(shape: tuple[int, ...], axes: dict[str, int], message: str) -> None:
    weight = np.ones(shape, np.float32)
    with pytest.raises(bs.ArgumentError, match=message):
        bs.make_masks(bs.ScoreInputs(weight, name="w", **axes), sparsity=0.5, scorer="magnitude")


def test_norms_are_those_of_all_groups() -> None:
    weight = np.ones((6, 4, 3), np.float32)
    item = bs.ScoreInputs(weight, input_norm=np.ones(4, np.float32), groups=2, name="w")
    with pytest.raises(bs.ShapeError, match=r"accepted: \(8,\), one norm .* of each of 2 groups"):
        bs.make_masks(item, sparsity=0.5, scorer="wanda")


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0), (0,), ()])
@pytest.mark.parametrize("in_dim", [None, 0])
def test_empty_and_small_shapes_have_a_geometry(shape: tuple[int, ...], in_dim: int | None) -> None:
    g = geometry_of(shape, in_dim)
    assert g.rows * g.inputs * g.inner == int(np.prod(shape))
    item = bs.ScoreInputs(np.ones(shape, np.float32), in_dim=in_dim)
    assert bs.make_masks(item, sparsity=0.0, scorer="magnitude").event.pruned == 0
