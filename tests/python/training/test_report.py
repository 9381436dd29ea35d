"""The report, the sparsity table and the figure."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import bittersweet as bs
import pytest
import torch
from bittersweet.training.report import Sparsity, TensorSparsity
from pruner_support import LINEAR, mlp, train


@pytest.fixture
def pruner() -> bs.Pruner:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    made = bs.Pruner(model, optimizer, schedule=LINEAR)
    train(model, optimizer, made, 12)
    return made


def test_the_report_is_data(pruner: bs.Pruner) -> None:
    values = json.loads(json.dumps(pruner.report().to_dict(), allow_nan=False))
    assert values["step"] == 12
    assert [event["step"] for event in values["events"]] == [2, 6, 10]
    assert values["sparsity"]["masked"] == pruner.history[-1].achieved_sparsity
    assert values["sparsity"]["per_tensor"].keys() == {"0.weight", "2.weight", "4.weight"}
    assert values["settings"]["scorer"].startswith("bitter7")
    assert values["mask_bytes"] == pruner.masks.nbytes == 8 * (8 + 21 + 3)
    assert values["finalized"] is False


def test_the_report_prints_events_and_layers(pruner: bs.Pruner) -> None:
    text = str(pruner.report())
    for event in pruner.history:
        assert f"{event.pruned:,}" in text
    for name, row in pruner.sparsity().per_tensor.items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert line.split() == [name, f"{row.elements:,}", f"{row.masked:.4f}", f"{row.zero:.4f}"]
    assert "in training" in text
    assert "zeros verified" in str(pruner.finalize())


def test_a_report_does_not_follow_the_run(pruner: bs.Pruner) -> None:
    report = pruner.report()
    pruner.history.clear()
    assert len(report.history) == 3


def test_a_report_before_any_event(tmp_path: Path) -> None:
    pruner = bs.Pruner(mlp(), scorer="magnitude", schedule=LINEAR)
    assert "no mask events yet" in str(pruner.report())
    assert pruner.report().sparsity.masked == 0.0
    pruner.plot(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_the_figure_is_a_png_and_leaves_pyplot_alone(pruner: bs.Pruner, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    loaded = "matplotlib.pyplot" in sys.modules
    path = tmp_path / "run.png"
    pruner.plot(str(path))
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > height > 300
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_the_figure_shows_requested_achieved_layers_and_time(
    pruner: bs.Pruner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    save = figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure,
        "savefig",
        lambda self, *args, **options: (drawn.append(self), save(self, *args, **options)),
    )
    pruner.plot(tmp_path / "run.png")
    ramp, layers, cost = drawn[0].axes
    requested, achieved = ramp.get_lines()
    assert list(requested.get_xdata()) == [2, 6, 10]
    assert list(requested.get_ydata()) == [event.requested_sparsity for event in pruner.history]
    assert list(achieved.get_ydata()) == [event.achieved_sparsity for event in pruner.history]
    assert [bar.get_width() for bar in layers.patches] == [
        row.masked for row in pruner.sparsity().per_tensor.values()
    ]
    assert [label.get_text() for label in layers.get_yticklabels()] == list(pruner.sparsity().per_tensor)
    assert [bar.get_height() for bar in cost.patches] == [event.milliseconds for event in pruner.history]


def test_an_empty_tensor_has_no_sparsity() -> None:
    row = TensorSparsity(0, 0, 0)
    assert (row.masked, row.zero) == (0.0, 0.0)
    assert Sparsity({}).masked == 0.0
