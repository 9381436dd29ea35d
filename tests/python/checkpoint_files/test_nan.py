"""NaN scores in files: the error of the loaded tensors, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.checkpoint_files import pruning
from bittersweet.checkpoint_files.reading import Memory
from checkpoint_support import expected_files, stored, values, write_file


@pytest.mark.parametrize("scope", ["global", "tensor", "row", "2:4"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_nan_before_anything_is_written(
    scope: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {}
    for at, name in enumerate(("a.weight", "b.weight", "c.weight")):
        data = values("normal", 60 * 32, at).reshape(60, 32)
        if at:
            data[40, 7] = data[59, 31] = np.nan
        tensors[name] = stored(data, dtype)
    source = write_file(tmp_path / "in", tensors)
    with pytest.raises(bs.NonFiniteScoreError) as wanted:
        expected_files([source], scope=scope, sparsity=0.5)

    def untouched(*given: Any) -> Any:
        raise AssertionError("something was about to be written")

    monkeypatch.setattr(pruning, "Partial", untouched)
    with pytest.raises(bs.NonFiniteScoreError, match=r"'b\.weight' at flat index 1287") as found:
        bs.prune_checkpoint(source, tmp_path / "out", scope=scope, sparsity=0.5)
    for key in ("parameter", "count", "first_index"):
        assert getattr(found.value, key) == getattr(wanted.value, key)
    assert str(found.value) == str(wanted.value)


def _error(call: Callable[[], Any]) -> str:
    with pytest.raises(bs.NonFiniteScoreError) as found:
        call()
    return str(found.value)


@pytest.mark.parametrize("scope", ["global", "tensor", "row", "2:4", bs.NofM(2, 4, remainder="keep")])
@pytest.mark.parametrize("room", [None, 4096])
@pytest.mark.parametrize("transposed", [False, True])
def test_nan_of_all_tensors_are_counted(
    scope: Any, room: int | None, transposed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that are ranked: not inputs behind the last whole group, and no tensor that gives nothing."""
    if room is not None:
        monkeypatch.setattr(pruning, "Memory", lambda: Memory(room))
    left = isinstance(scope, bs.NofM)
    inputs = 22 if left else 24
    tensors = {}
    for at, (name, rows) in enumerate({"a": 100, "b": 8, "c": 120, "d": 40}.items()):
        data = values("normal", rows * inputs, at).reshape(rows, inputs)
        if at:
            data[rows // 2, 5] = data[rows - 1, 19] = np.nan
        if left:
            data[:, 20] = data[3, 21] = np.nan
        tensors[f"{name}.weight"] = stored(np.ascontiguousarray(data.T) if transposed else data, "F32")
    if scope == "tensor":
        tensors["_.weight"] = stored(np.full((1, 1), np.nan, np.float32), "F32")
    source = write_file(tmp_path / "in", tensors)
    options: dict[str, Any] = {"scope": scope, "sparsity": None if scope == "2:4" or left else 0.4}
    how: Any = {"in_dim": 0} if transposed else {}
    wanted = _error(lambda: expected_files([source], inputs=lambda *_: how, **options))
    assert wanted.startswith("scores: 6 NaN score(s), the first in 'b.weight' at flat index")
    files = {**options, "transposed": ["*"] if transposed else []}
    assert wanted == _error(lambda: bs.prune_checkpoint(source, tmp_path / "out", **files))
    if not left:
        return
    for name in tensors:
        data = values("normal", 80 * 22, 9).reshape(80, 22)
        data[:, 20:] = np.nan
        tensors[name] = stored(np.ascontiguousarray(data.T) if transposed else data, "F32")
    source = write_file(tmp_path / "again", tensors)
    bs.prune_checkpoint(source, tmp_path / "out", **files)
    assert (tmp_path / "out").read_bytes() == expected_files([source], inputs=lambda *_: how, **options)[0][0]
