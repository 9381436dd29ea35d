"""Calibration of models on CUDA: the sums of the CPU, bit for bit, with host memory in its place, by the
kernels on the emulator, and on a GPU where there is one; and nothing that waits before the end."""

from __future__ import annotations

import contextlib
from typing import Any

import bittersweet as bs
import pytest

torch = pytest.importorskip("torch")
from bittersweet.wanda.sums import RunningSum  # noqa: E402
from layer_support import Conv1D  # noqa: E402
from torch import nn  # noqa: E402


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.heads = nn.Linear(16, 24), nn.Linear(12, 5)
        self.odd, self.conv = Conv1D(3, 24), nn.Conv2d(3, 4, (3, 2), stride=2, padding=1)

    def forward(self, x: torch.Tensor, picture: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        y = self.embed(x)
        self.heads(y.reshape(*y.shape[:2], 2, 12))
        self.odd(y.flatten(0, 1))
        self.conv(picture)


def batches(dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(4)
    made = []
    for length in (7, 300):
        x, picture = torch.randn(2, length, 16).to(dtype), torch.randn(3, 3, 9, 8).to(dtype)
        made.append({"x": x, "picture": picture, "mask": torch.rand(2, length) < 0.7})
    return made


def put(cuda: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: cuda.put(value) for key, value in batch.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_and_positions_are_the_cpus(cuda: Any, dtype: torch.dtype, masked: bool) -> None:
    torch.manual_seed(1)
    model, mask = Model().to(dtype), "mask" if masked else None
    given = batches(dtype)
    for batch in given:  # what does not count may be anything
        if masked:
            batch["x"][~batch["mask"]] = float("nan")
    with cuda.on_cpu():
        here = bs.Calibrator(model).run(given, token_mask=mask)
        with here:
            model(**batches(dtype)[0])
    there = bs.Calibrator(cuda.put(model))
    reads = cuda.reads
    there.run([put(cuda, batch) for batch in given], token_mask=mask)
    assert cuda.reads == reads + 1  # for the whole collection
    with there:
        there._model(**put(cuda, batches(dtype)[0]))
    assert there.positions == here.positions
    for name, found in here._sums.items():
        if name == "embed.weight" or cuda.name != "gpu":  # a GPU's layers put out other bits
            assert torch.equal(there._sums[name].squares.cpu(), found.squares), name
    assert all(torch.isfinite(norm).all() for norm in there.norms.values())


def test_values_that_are_not_finite_are_found_at_the_end_and_nothing_is_kept(cuda: Any) -> None:
    model = cuda.put(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)))
    calibrator = bs.Calibrator(model).run([cuda.put(torch.ones(3, 4))])
    kept, norms = calibrator.positions, calibrator.norms["0.weight"].clone()
    x = torch.ones(5, 4)
    x[1, 2], x[4, 0] = float("nan"), float("inf")
    passes = 0
    with (
        pytest.raises(bs.ArgumentError, match=r"layer of '0\.weight' has 2 values .* finite, of 28"),
        calibrator,
    ):
        for one in (torch.ones(2, 4), x):
            model(cuda.put(one))
            passes += 1
    assert passes == 2
    assert calibrator.positions == kept
    assert torch.equal(calibrator.norms["0.weight"], norms)
    assert calibrator.calibrations == 1
    with calibrator:
        model(cuda.put(torch.ones(2, 4)))
        assert calibrator.positions == {"0.weight": 5, "1.weight": 5}  # read in the middle
        model(cuda.put(torch.ones(1, 4)))
    assert calibrator.positions == {"0.weight": 6, "1.weight": 6}
    assert torch.equal(calibrator.norms["0.weight"], norms)


def test_inputs_on_a_device_without_an_engine_are_refused(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bittersweet.tensors import devices

    model = cuda.put(nn.Sequential(nn.Linear(4, 6)))
    calibrator = bs.Calibrator(model)
    monkeypatch.setattr(devices, "refusal", lambda: "this build has none")
    with pytest.raises(bs.DeviceError, match=r"input of the layer of '0\.weight' is on .*, and this build"):
        calibrator.run([cuda.put(torch.ones(2, 4))])
    assert calibrator.unseen == ("0.weight",)


def test_what_was_not_finite_is_not_forgotten(cuda: Any) -> None:
    """Neither where the caller goes on after the error, nor where it is known at the end alone."""
    model = cuda.put(nn.Sequential(nn.Linear(6, 3)))
    calibrator = bs.Calibrator(model)
    bad = torch.randn(4, 6)
    bad[1, 2] = float("inf")
    with pytest.raises(bs.ArgumentError, match="not finite"), calibrator:
        with contextlib.suppress(bs.ArgumentError):
            model(cuda.put(bad))
        model(cuda.put(torch.randn(4, 6)))
    assert calibrator.unseen == ("0.weight",)


def test_no_position_is_no_input(cuda: Any) -> None:
    model = cuda.put(nn.Sequential(nn.Linear(6, 3)))
    given = [cuda.put(torch.randn(2, 4, 6))]
    calibrator = bs.Calibrator(model).run(given, token_mask=lambda batch: cuda.put(torch.zeros(2, 4)))
    assert calibrator.unseen == ("0.weight",)
    with pytest.raises(bs.ArgumentError, match="token_mask: it gave a str"):
        calibrator.run(given, token_mask=lambda batch: "mask")  # type: ignore[arg-type,return-value]


def test_streams_wait_for_each_other(host_cuda: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    with bs.Calibrator(model):
        model(torch.randn(4, 6))
        host_cuda.stream = 9
        model(torch.randn(4, 6))
        host_cuda.stream = 7
    assert host_cuda.waits == [(9, 7), (7, 9)]


def test_more_columns_than_features_are_refused(cuda: Any) -> None:
    running = RunningSum("layer", 8, None)
    with pytest.raises(bs.ShapeError, match="called with 64 input features, and its weight has 8"):
        running.add(cuda.put(torch.ones(3, 64)))
