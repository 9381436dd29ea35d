"""`to_semi_structured`: what is looked at, on any machine, and the conversion, with torch's part stood in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.sparse import semi_structured
from torch import nn

CUTLASS = torch.sparse.SparseSemiStructuredTensorCUTLASS
CUSPARSELT = torch.sparse.SparseSemiStructuredTensorCUSPARSELT


def pruned(outputs: int = 64, inputs: int = 64, dtype: Any = torch.float16, scope: str = "2:4") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, inputs)).to(dtype)
    bs.prune_(model, scope=scope)
    return model


def row(model: nn.Module, at: int = 0) -> Any:
    return bs.to_semi_structured(model, dry_run=True).layers[at]


@pytest.fixture
def cutlass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.sparse.SparseSemiStructuredTensor, "_FORCE_CUTLASS", True)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """A machine that lacks nothing, whose converter checks what torch's does and notes what it was given."""
    given: list[torch.Tensor] = []

    def convert(weight: torch.Tensor) -> torch.Tensor:
        assert not weight.requires_grad
        given.append(weight)
        return weight.clone()

    monkeypatch.setattr(semi_structured, "_machine", lambda weight, cls: "")
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", convert)
    yield given


def test_what_fits_is_said_on_any_machine() -> None:
    report = bs.to_semi_structured(pruned(), dry_run=True)
    assert report.backend == "cusparselt" and report.fitting == ["0", "2"] and not report.converted
    assert [layer.verdict for layer in report.layers] == ["fits, not here"] * 2
    assert "it is on cpu" in str(report) and report.to_dict()["layers"][0]["shape"] == (64, 64)


@pytest.mark.parametrize("cls", [CUTLASS, CUSPARSELT])
def test_shapes_are_those_that_torch_accepts(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own validation, but for the device, is the oracle."""
    force = cls is CUTLASS
    monkeypatch.setattr(torch.sparse.SparseSemiStructuredTensor, "_FORCE_CUTLASS", force)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for outputs in (8, 16, 32, 48, 64):
            for inputs in (16, 32, 48, 64, 96, 128):
                weight = torch.zeros(outputs, inputs, dtype=dtype)
                model = nn.Sequential(nn.Linear(inputs, outputs, bias=False))
                model[0].weight = nn.Parameter(weight)
                accepted = True
                try:
                    cls._validate_device_dim_dtype_shape(_OnCuda(weight))
                except RuntimeError:
                    accepted = False
                assert (not row(model).reasons) == accepted, (dtype, outputs, inputs, row(model))


class _OnCuda:
    """A tensor that says it is on a CUDA device."""

    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


def test_the_pattern_is_looked_at_group_by_group() -> None:
    model = pruned()
    assert not row(model).reasons
    weight = model[0].weight.detach()
    weight[3, 8:12] = torch.tensor([1.0, 0.0, 2.0, 3.0])
    weight[7, 60:64] = torch.tensor([1.0, float("nan"), 2.0, -3.0])
    assert row(model).reasons == (
        "2 of 1,024 groups of 4 inputs have more than 2 non-zeros; prune it with scope='2:4'",
    )
    weight[3, 8], weight[7, 60:62] = -0.0, 0.0  # -0 is a zero
    assert not row(model).reasons


def test_two_in_a_row_of_two_are_four_inputs_right_and_wrong_across_groups() -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False)).half()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(16, 4))
    assert not row(model).reasons
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(16, 4))
    assert "64 of 64 groups" in row(model).reasons[0]


def test_float32_is_one_of_two_and_needs_cutlass(cutlass: None) -> None:
    assert "more than 1 non-zeros; prune it with scope='1:2'" in row(pruned(dtype=torch.float32)).reasons[0]
    model = pruned(dtype=torch.float32, scope="1:2")
    assert not row(model).reasons
    weight = model[0].weight.detach()
    packed, _ = torch.sparse.semi_structured.sparse_semi_structured_from_dense_cutlass(weight)
    assert torch.equal(packed.flatten(), weight.reshape(-1, 2).sum(1))


def test_cutlass_keeps_what_fits_bit_for_bit(cutlass: None) -> None:
    """Torch's conversion for CUTLASS is written in torch and runs on the CPU."""
    for dtype in (torch.float16, torch.bfloat16):
        model = pruned(64, 128, dtype)
        weight = model[0].weight.detach()
        assert not row(model).reasons
        packed, meta = torch.sparse.semi_structured.sparse_semi_structured_from_dense_cutlass(weight)
        dense = torch.sparse.semi_structured.sparse_semi_structured_to_dense_cutlass(packed, meta)
        assert torch.equal(dense, weight)


def test_a_pattern_of_two_of_four_fits_once_float32_is_converted() -> None:
    assert row(pruned(dtype=torch.float32)).reasons == (
        "cusparselt takes float8_e4m3fn, int8, float16, bfloat16, not float32; convert it first",
    )


def test_layers_that_do_not_fit_say_all_that_is_missing() -> None:
    model = nn.Sequential(nn.Linear(36, 24), nn.Linear(24, 10)).double()
    reasons = row(model).reasons
    assert "takes float8_e4m3fn, int8, float16, bfloat16, not float64" in reasons[0]
    assert "216 of 216 groups" in reasons[1]
    mixed = pruned()
    mixed[0].bias = nn.Parameter(mixed[0].bias.detach().float())
    assert row(mixed).reasons == ("its bias is float32 and its weight float16",)
    strided = pruned()
    strided[0].weight = nn.Parameter(strided[0].weight.detach().t().contiguous().t())
    assert "not contiguous" in row(strided).reasons[0]
    tied = pruned()
    tied[2].weight = tied[0].weight
    assert all("tied" in layer.reasons[0] for layer in bs.to_semi_structured(tied, dry_run=True).layers)
    assert "17 inputs" in row(nn.Sequential(nn.Linear(17, 16)).half()).reasons[1]
    assert "no values" in row(nn.Sequential(nn.Linear(16, 16, device="meta")).half()).reasons[0]
    parametrized = pruned()
    nn.utils.parametrizations.weight_norm(parametrized[0])
    assert "remove_parametrizations" in row(parametrized).reasons[0]


def test_layers_that_others_read_by_hand_stay_dense() -> None:
    encoder = nn.TransformerEncoderLayer(64, 4, 64, batch_first=True).half()
    bs.prune_(encoder, scope="2:4")
    report = bs.to_semi_structured(encoder, dry_run=True)
    assert report.fitting == []
    assert any("TransformerEncoderLayer" in layer.reasons[0] for layer in report.layers)
    assert any("NonDynamicallyQuantizableLinear" in layer.reasons[0] for layer in report.layers)


def test_what_fits_is_converted_and_the_rest_stays(device: list[torch.Tensor]) -> None:
    model = nn.Sequential(*pruned(), nn.Linear(64, 10).half())
    before = [layer.weight.detach().clone() for layer in (model[0], model[2], model[3])]
    untouched = model[3].weight
    report = bs.to_semi_structured(model)
    assert report.converted == ["0", "2"] and report.layers[2].verdict == "stays dense"
    assert [torch.equal(a, b) for a, b in zip(given_of(device), before, strict=False)] == [True, True]
    assert model[3].weight is untouched
    assert not model[0].weight.requires_grad and isinstance(model[0].weight, nn.Parameter)


def given_of(device: list[torch.Tensor]) -> list[torch.Tensor]:
    assert len(device) == 2
    return device


def test_a_layer_that_torch_refuses_leaves_all_as_they_were(
    device: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pruned()
    weights = [model[0].weight, model[2].weight]

    def refuse(weight: torch.Tensor) -> torch.Tensor:
        if device:
            raise RuntimeError("no kernel image")
        device.append(weight)
        return weight.clone()

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", refuse)
    with pytest.raises(bs.Error, match=r"'2' \(no kernel image\); nothing has been changed"):
        bs.to_semi_structured(model)
    assert model[0].weight is weights[0] and model[2].weight is weights[1]


def test_where_nothing_can_be_converted_the_error_has_the_report() -> None:
    with pytest.raises(bs.ArgumentError, match=r"not one .*(?s:.)*fits, not here .*it is on cpu"):
        bs.to_semi_structured(pruned())


def test_what_devices_lack_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda: Any = _OnCuda(torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability 7.5; 8.0" in semi_structured._machine(on_cuda, CUTLASS)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert semi_structured._machine(on_cuda, CUTLASS) == ""
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: False)
    assert "_FORCE_CUTLASS = True" in semi_structured._machine(on_cuda, CUSPARSELT)


def test_a_model_that_is_still_pruned_is_refused() -> None:
    model = pruned(dtype=torch.float32)
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, step=1), scope="2:4")
    with pytest.raises(bs.Error, match=r"finalize\(\) first"):
        bs.to_semi_structured(model, dry_run=True)
    pruner.step()
    pruner.finalize()
    bs.to_semi_structured(model, dry_run=True)
    with pytest.raises(bs.ArgumentError, match="dry_run"):
        bs.to_semi_structured(model, dry_run="yes")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("force", [False, True])
def test_a_converted_model_computes_what_it_did(force: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.sparse.SparseSemiStructuredTensor, "_FORCE_CUTLASS", force)
    model = pruned(128, 256).cuda()
    x = torch.randn(64, 256, dtype=torch.float16, device="cuda")
    with torch.inference_mode():
        expected = model(x)
    assert bs.to_semi_structured(model).converted == ["0", "2"]
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, rtol=1e-2, atol=1e-2)
