"""`Calibrator`: norms against float64 NumPy, for every kind of layer; modes, hooks, failures, cache and
files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from layer_support import Conv1D  # noqa: E402
from torch import nn  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def norm_of(*inputs: torch.Tensor) -> np.ndarray:
    """sqrt(mean of squares) over all but the last axis, in float64."""
    rows = np.concatenate([x.double().numpy().reshape(-1, x.shape[-1]) for x in inputs])
    return np.sqrt((rows**2).mean(0))


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", [nn.Linear(7, 5), Conv1D(5, 7)])
def test_features_of_linear_layers(layer: nn.Module, dtype: torch.dtype) -> None:
    model = nn.Sequential(layer).to(dtype)
    batches = [torch.randn(2, 3, 7).to(dtype), torch.randn(1, 11, 7).to(dtype) * 3, torch.randn(7).to(dtype)]
    calibrator = bs.Calibrator(model).run(batches)
    close(calibrator.norms["0.weight"], norm_of(*(x.float() for x in batches)))
    assert calibrator.positions == {"0.weight": 6 + 11 + 1}
    assert calibrator.samples == 2 + 1 + 7
    model.float()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (3, 2), "padding": (2, 0), "dilation": (1, 2)},
        {"padding": "same"},
        {"padding": 2, "padding_mode": "reflect"},
    ],
)
def test_windows_of_conv2d_equal_the_unfolded_input(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(3, 4, (3, 2), **options)
    x = torch.randn(5, 3, 13, 11)
    calibrator = bs.Calibrator(nn.Sequential(conv)).run([x])
    padded, rest = x, {"stride": conv.stride, "dilation": conv.dilation, "padding": conv.padding}
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        padded = nn.functional.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
        rest["padding"] = 0
    unfolded = nn.functional.unfold(padded.double(), conv.kernel_size, **rest)  # (5, 3 * 6, windows)
    expected = unfolded.reshape(5, 3, 6, -1).square().mean((0, 2, 3)).sqrt().numpy()
    close(calibrator.norms["0.weight"], expected)
    assert calibrator.positions["0.weight"] == 5 * 6 * unfolded.shape[-1]
    assert unfolded.shape[-1] == conv(x).shape[2] * conv(x).shape[3]


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_grouped_convolutions_have_the_norms_of_all_groups(groups: int) -> None:
    conv, x = nn.Conv1d(6, 12, 3, groups=groups, bias=False), torch.randn(4, 6, 10)
    calibrator = bs.Calibrator(nn.Sequential(conv)).run([x])
    windows = x.double().unfold(2, 3, 1)  # (4, channels, windows, taps)
    close(calibrator.norms["0.weight"], windows.square().mean((0, 2, 3)).sqrt().numpy())
    per_row = calibrator.norms["0.weight"].view(groups, 6 // groups).repeat_interleave(12 // groups, 0)
    scores = conv.weight.detach().abs() * per_row[:, :, None]
    masks = bs.make_masks(calibrator.score_inputs(), sparsity=0.5, scorer="wanda", scope="tensor")
    lowest = scores.flatten().argsort()[: scores.numel() // 2]
    assert torch.equal((~masks["0.weight"].bool()).flatten().nonzero().flatten(), lowest.sort().values)


def test_frozen_weights_are_measured_too() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False)
    assert [item.name for item in bs.Calibrator(model).run([torch.ones(2, 3)]).score_inputs()] == ["0.weight"]


def test_windows_of_conv1d_and_unbatched_input() -> None:
    conv, x = nn.Conv1d(2, 3, 4, stride=3), torch.randn(2, 19)
    windows = x.double().unfold(1, 4, 3)  # (2, windows, taps)
    calibrator = bs.Calibrator(nn.Sequential(conv)).run([x])
    close(calibrator.norms["0.weight"], windows.square().mean((1, 2)).sqrt().numpy())


def test_layers_called_several_times_with_keywords_and_tied() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.first, self.tied = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.tied.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = [x, self.shared(input=x)]
            again = self.shared(self.seen[1])
            self.seen.append(again)
            self.seen.append(self.first(input=again))
            return self.tied(self.seen[3])

    model = Model()
    norms = bs.Calibrator(model).run([{"x": torch.randn(6, 4)}]).norms
    assert set(norms) == {"shared.weight", "first.weight"}
    close(norms["shared.weight"], norm_of(*model.seen[:2]))
    close(norms["first.weight"], norm_of(*model.seen[2:]))


def test_sums_are_those_of_all_batches_at_once_and_do_not_lose_small_terms() -> None:
    layer = nn.Sequential(nn.Linear(2, 1))
    large = torch.tensor([[4096.0, 1.0]])
    small = torch.ones(1000, 2)
    calibrator = bs.Calibrator(layer).run([large, *small.split(1)])
    exact = np.sqrt(np.array([4096.0**2 + 1000, 1001.0]) / 1001)  # a float32 sum drops each 1 beside 2^24
    np.testing.assert_array_equal(calibrator.norms["0.weight"].numpy(), exact.astype(np.float32))


def test_values_whose_squares_leave_float32_are_summed_in_float64() -> None:
    x = torch.tensor([[1e30, 1e-3], [-2e30, 1e-3]])
    norms = bs.Calibrator(nn.Sequential(nn.Linear(2, 3))).run([x]).norms
    close(norms["0.weight"], norm_of(x))


def test_token_mask_leaves_padding_out() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.flat, self.pooled = nn.Linear(3, 3), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            self.heads(x.reshape(2, 5, 2, 3))
            self.flat(x.reshape(10, 6))
            return self.pooled(x[:, 0])

    model, x = Model(), torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    x[1, 2:] = float("nan")  # what does not count may be anything
    kept = x[mask.bool()]
    for token_mask in ("mask", lambda batch: batch["mask"]):
        calibrator = bs.Calibrator(model).run([{"x": x, "mask": mask}], token_mask=token_mask)
        close(calibrator.norms["heads.weight"], norm_of(kept.reshape(-1, 3)))
        close(calibrator.norms["flat.weight"], norm_of(kept))
        close(calibrator.norms["pooled.weight"], norm_of(x[:, 0]))
    with pytest.raises(bs.ArgumentError, match="'padding' is not a key of the batch"):
        bs.Calibrator(model).run([{"x": x, "mask": mask}], token_mask="padding")


def small_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_modes_hooks_buffers_and_gradients_are_as_before() -> None:
    model = small_model()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    model(torch.randn(3, 4)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    calibrator = bs.Calibrator(model)
    with calibrator:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        assert hooks(model) == 2
        model(torch.randn(3, 4))
    assert torch.is_grad_enabled()
    assert hooks(model) == 0
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_an_error_inside_removes_hooks_restores_modes_and_forgets_what_was_collected() -> None:
    model = small_model().train()
    calibrator = bs.Calibrator(model).run([torch.ones(3, 4)])
    kept = calibrator.norms["0.weight"].clone()
    with pytest.raises(RuntimeError, match="stop"), calibrator:
        model(torch.full((2, 4), 100.0))
        raise RuntimeError("stop")
    assert hooks(model) == 0
    assert all(module.training for module in model.modules())
    assert torch.equal(calibrator.norms["0.weight"], kept)
    assert calibrator.calibrations == 1

    fresh = bs.Calibrator(model)
    with pytest.raises(ZeroDivisionError):
        fresh.run([torch.ones(3, 4), torch.ones(1, 4)], lambda m, x: (m(x), 1 / (len(x) - 1)))
    assert fresh.unseen == ("0.weight", "4.weight")
    assert fresh.samples == 0
    with fresh, pytest.raises(bs.Error, match="collecting already"), fresh:
        pass


@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 2)])
def test_inputs_that_are_not_finite_name_the_layer_and_the_count(value: float, count: int) -> None:
    model = small_model()
    x = torch.ones(5, 4)
    x.view(-1)[3 : 3 + count] = value
    calibrator = bs.Calibrator(model)
    message = rf"layer of '0\.weight' has {count} values that are not finite, of 20"
    with pytest.raises(bs.ArgumentError, match=message):
        calibrator.run([torch.ones(2, 4), x])
    assert calibrator.unseen == ("0.weight", "4.weight")
    assert hooks(model) == 0


def test_layers_that_never_saw_an_input_are_named() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
    calibrator = bs.Calibrator(model)
    with pytest.raises(bs.MissingStateError, match=r"call run\(batches\) first"):
        calibrator.score_inputs()
    calibrator.run([torch.ones(2, 3)], lambda m, x: m["used"](x))
    assert calibrator.unseen == ("unused.weight",)
    assert "unused.weight  never saw an input" in str(calibrator)
    with pytest.raises(bs.MissingStateError, match=r"'unused\.weight': their layers were never called"):
        _ = calibrator.norms
    assert [item.name for item in calibrator.score_inputs(missing="skip")] == ["used.weight"]
    with pytest.raises(bs.ArgumentError, match="missing: 'ignore'"):
        calibrator.score_inputs(missing="ignore")


def test_what_has_no_norm_per_input_is_refused_by_name() -> None:
    transposed = nn.Sequential(nn.Linear(2, 2), nn.ConvTranspose2d(2, 2, 3))
    with pytest.raises(
        bs.ArgumentError, match=r"no norm per input feature for '1\.weight' \(transposed convolution\)"
    ):
        bs.Calibrator(transposed)
    assert bs.Calibrator(transposed, ignore="1.weight").plan().targets[0].name == "0.weight"
    with pytest.raises(bs.ArgumentError, match=r"'0\.in_proj_weight' \(in a MultiheadAttention\), '0\.out"):
        bs.Calibrator(nn.Sequential(nn.MultiheadAttention(4, 2)))
    with pytest.raises(bs.ArgumentError, match=r"'0\.weight' is not a weight of a Linear"):
        bs.Calibrator(nn.Sequential(nn.Bilinear(4, 2, 3)), targets="0.weight")
    with pytest.raises(bs.ArgumentError, match=r"called with a tensor of torch\.int64"):
        bs.Calibrator(nn.Sequential(nn.Linear(2, 2))).run([torch.ones(3, 2, dtype=torch.long)])
    with pytest.raises(bs.ShapeError, match=r"'0\.weight' was called with 5 input features"):
        bs.Calibrator(nn.Sequential(nn.Linear(2, 2))).run([torch.ones(3, 5)])
    with pytest.raises(bs.ArgumentError, match="batches: it gave none"):
        bs.Calibrator(nn.Sequential(nn.Linear(2, 2))).run([])
    for batches in (None, 3, nn.Linear(2, 2)):
        with pytest.raises(bs.ArgumentError, match=r"batches: .*; accepted: a DataLoader, a list"):
            bs.Calibrator(nn.Sequential(nn.Linear(2, 2))).run(batches)


def test_norms_are_cached_until_invalidated_so_that_layers_share_one_calibration() -> None:
    passes = 0

    def forward(model: nn.Module, x: torch.Tensor) -> None:
        nonlocal passes
        passes += 1
        model(x)

    batches = [torch.randn(9, 4), torch.randn(5, 4)]
    counts = {}
    for cached in (True, False):
        model = small_model()
        calibrator, passes = bs.Calibrator(model), 0
        for name in ("0.weight", "4.weight"):  # layer by layer
            calibrator.run(batches, forward)
            item = next(item for item in calibrator.score_inputs() if item.name == name)
            bs.prune_(item, sparsity=0.5, scorer="wanda", scope="row")
            if not cached:
                calibrator.invalidate()
        counts[cached] = (calibrator.calibrations, passes)
    assert counts == {True: (1, 2), False: (2, 4)}


def test_stale_norms_stay_until_invalidated() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), torch.randn(8, 3)
    calibrator = bs.Calibrator(model).run([x])
    before = calibrator.norms["1.weight"].clone()
    with torch.no_grad():
        model[0].weight.mul_(2.0)
        model[0].bias.zero_()
    assert torch.equal(calibrator.run([x]).norms["1.weight"], before)
    calibrator.invalidate()
    close(calibrator.run([x]).norms["1.weight"], norm_of(model[0](x).detach()))
    with calibrator:  # a block adds to what is there
        model(x * 3)
    close(calibrator.norms["0.weight"], norm_of(x, x * 3))


def test_nothing_of_the_activations_is_kept() -> None:
    import gc
    import weakref

    seen: list[Any] = []
    layer = nn.Linear(4, 4)

    def forward(model: nn.Module, x: torch.Tensor) -> None:
        own = x * 1.0
        seen.append(weakref.ref(own))
        model(own)

    calibrator = bs.Calibrator(nn.Sequential(layer)).run([torch.ones(2, 4)] * 3, forward)
    gc.collect()
    assert len(seen) == 3
    assert all(ref() is None for ref in seen)
    assert calibrator.positions == {"0.weight": 6}


def test_saved_and_loaded_without_loss(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    model, path = small_model(), tmp_path / "norms.safetensors"
    calibrator = bs.Calibrator(model)
    with pytest.raises(bs.MissingStateError, match="nothing to save"):
        calibrator.save(path)
    calibrator.run([torch.randn(30, 4), torch.randn(2, 4)]).save(path)
    with safetensors.safe_open(str(path), "np") as file:
        metadata = file.metadata()
        assert metadata["format"] == "bittersweet.calibration"
        assert (metadata["version"], metadata["samples"]) == ("1", "32")
        assert file.get_tensor("4.weight").dtype == np.float64
    other = bs.Calibrator(model).load(path)
    assert other.positions == calibrator.positions
    assert other.samples == 32
    assert all(torch.equal(norm, calibrator.norms[name]) for name, norm in other.norms.items())
    assert other.run([torch.randn(1, 4)]).calibrations == 0  # loaded norms are cached norms

    for with_other, message in (
        (nn.Sequential(nn.Linear(4, 6)), r"norms of '4\.weight', which is not a target here"),
        (nn.Sequential(nn.Linear(5, 6), *small_model()[1:]), r"shape \(4,\); this model needs"),
    ):
        calibrator = bs.Calibrator(with_other)
        with pytest.raises(bs.CheckpointError, match=message):
            calibrator.load(path)
        assert calibrator.unseen
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, str(path))
    with pytest.raises(bs.CheckpointError, match="is not a calibration"):
        bs.Calibrator(model).load(path)
    path.write_bytes(b"no such file")
    with pytest.raises(bs.CheckpointError, match="cannot be read"):
        bs.Calibrator(model).load(path)


def test_without_safetensors_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    calibrator = bs.Calibrator(small_model()).run([torch.randn(3, 4)])
    with pytest.raises(ImportError, match="pip install safetensors"):
        calibrator.save(tmp_path / "norms")


def test_a_progress_bar_shows_the_batches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tqdm")
    calibrator = bs.Calibrator(small_model())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    calibrator.run([torch.randn(3, 4)] * 2)
    assert "calibration 100 %" in capsys.readouterr().err
    calibrator.invalidate()
    calibrator.run([torch.randn(3, 4)], show_progress=False)
    assert capsys.readouterr().err == ""


def test_wrapped_models_and_the_way_into_prune() -> None:
    model = small_model()
    calibrator = bs.Calibrator(nn.DataParallel(model)).run([torch.randn(16, 4)])
    event = bs.prune_(calibrator.score_inputs(), sparsity=0.5, scorer="wanda", scope="row")
    assert event.achieved_sparsity == 0.5
    assert set(event.per_tensor) == {"0.weight", "4.weight"}
    assert int((model[0].weight == 0).sum()) == 12


def test_the_pruner_takes_norms() -> None:
    def trained(norms: Any, saved: Any = None, **options: Any) -> tuple[nn.Module, bs.Pruner]:
        torch.manual_seed(1)
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = bs.Linear(0.0, 0.5, 1, 3, frequency=1)
        pruner = bs.Pruner(
            model, optimizer, scorer="wanda", scope="row", schedule=schedule, input_norms=norms, **options
        )
        if saved is not None:
            pruner.load_state_dict(saved)
        for _ in range(3):
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        return model, pruner

    norms = {"0.weight": torch.tensor([1.0, 100.0, 1.0, 100.0]), "4.weight": torch.ones(6)}
    model, pruner = trained(norms)
    assert pruner.history[-1].per_tensor["0.weight"] == 0.5
    assert (model[0].weight[:, [0, 2]] == 0).all()  # the columns with the large norms stay
    assert "input_norms" in pruner.state_dict()["config"]
    with pytest.raises(bs.CheckpointError, match="input_norms"):
        trained({**norms, "4.weight": torch.full((6,), 2.0)}, pruner.state_dict())
    with pytest.raises(bs.MissingStateError, match=r"input_norms: there are none for '4\.weight'"):
        trained({"0.weight": torch.ones(4)})
    assert trained({"0.weight": torch.ones(4)}, missing="skip")[1].history[-1].skipped == ("4.weight",)
    with pytest.raises(bs.ShapeError, match=r"that of '0\.weight' has shape \(6,\); accepted: \(4,\)"):
        trained({"0.weight": torch.ones(6), "4.weight": torch.ones(6)})
    with pytest.raises(bs.ArgumentError, match="input_norms: found list; accepted: a mapping from parameter"):
        trained([torch.ones(4), torch.ones(6)])
    with pytest.raises(bs.ArgumentError, match="input_norms: given, and scorer 'magnitude'"):
        bs.Pruner(small_model(), scorer="magnitude", schedule=bs.OneShot(0.5, 1), input_norms=norms)
