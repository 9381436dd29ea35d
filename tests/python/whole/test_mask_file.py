"""Masks in files, and masks by name given to a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from pruner_support import adamw, mlp, train
from torch import nn

numpy_file = pytest.importorskip("safetensors.numpy")

SHAPES = [(), (1,), (0, 4), (63,), (64,), (65,), (3, 5, 7), (128, 129)]


def random_masks() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {f"blocks.{i}.weight": rng.random(shape) < 0.6 for i, shape in enumerate(SHAPES)}


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_masks_go_through_a_file(framework: str, tmp_path: Path) -> None:
    masks: dict[str, Any] = random_masks()
    given = masks if framework == "numpy" else {n: torch.from_numpy(np.array(m)) for n, m in masks.items()}
    bs.save_masks(tmp_path / "masks.safetensors", given)
    found = bs.load_masks(str(tmp_path / "masks.safetensors"), framework=framework)
    assert list(found) == list(masks)
    for name, mask in found.items():
        assert (mask.name, mask.shape) == (name, masks[name].shape)
        assert type(mask.bool()) is (np.ndarray if framework == "numpy" else torch.Tensor)
        assert np.array_equal(np.asarray(mask.bool()), masks[name])
    size = (tmp_path / "masks.safetensors").stat().st_size
    assert size < sum(8 * -(-mask.size // 64) for mask in masks.values()) + 2000


def test_every_kind_of_masks_is_saved(tmp_path: Path) -> None:
    model = mlp()
    view = bs.make_masks(model, sparsity={"0": 0.5})
    for given in (view, dict(view), view.packed):
        bs.save_masks(tmp_path / "m", given)
        found = bs.load_masks(tmp_path / "m")
        assert all(torch.equal(mask.bool(), view[name]) for name, mask in found.items())
        assert set(found) == ({"0.weight"} if isinstance(given, bs.Masks) else set(view))


def test_a_pruner_and_the_functions_take_them(tmp_path: Path) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2))
    train(model, optimizer, pruner, 4)
    bs.save_masks(tmp_path / "m", pruner.masks)
    masks = bs.load_masks(tmp_path / "m")
    other = mlp(seed=1)
    fresh = bs.Pruner(other, adamw(other), schedule=bs.OneShot(0.9, 10))
    fresh.load_masks(masks)
    assert all(torch.equal(fresh.masks[name], mask) for name, mask in pruner.masks.items())
    plain = nn.DataParallel(mlp(seed=2))
    dead = sum(int((~mask).sum()) for mask in pruner.masks.values())
    assert sum(bs.count_violations(plain, masks).values()) == dead
    assert bs.apply_masks_(plain, masks) is None
    assert set(bs.count_violations(plain, pruner.masks).values()) == {0}
    assert bs.sparsity(plain).zeros == dead
    assert bs.make_masks(mlp(seed=3), sparsity=0.8, masks=masks).sparsity() == pytest.approx(0.8, abs=1e-3)


def damaged(tmp_path: Path, tensors: dict[str, Any], **metadata: str | None) -> Path:
    whole = {"format": "bittersweet.masks", "version": "1", "shapes": json.dumps({"a": [65]}), **metadata}
    path = tmp_path / "bad"
    numpy_file.save_file(tensors, path, {key: value for key, value in whole.items() if value is not None})
    return path


GOOD = {"a": np.array([-1, 1], np.int64)}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (GOOD, {"format": "pt"}, "no file of masks .format 'pt'"),
        (GOOD, {"format": None}, "no file of masks"),
        (GOOD, {"version": "2"}, "format version 2; this release reads version 1"),
        (GOOD, {"shapes": None}, "shapes cannot be read"),
        (GOOD, {"shapes": "["}, "shapes cannot be read"),
        (GOOD, {"shapes": "[3]"}, "shapes cannot be read"),
        (GOOD, {"shapes": '{"a": [-65]}'}, "shapes cannot be read"),
        (GOOD, {"shapes": '{"a": [65.0]}'}, "shapes cannot be read"),
        (GOOD, {"shapes": '{"b": [65]}'}, "name different tensors"),
        (GOOD, {"shapes": "{}"}, "name different tensors"),
        (GOOD, {"shapes": '{"a": [64]}'}, "'a' is int64 .2,.; expected 1 words"),
        ({"a": np.array([-1, 2], np.int64)}, {}, "bits beyond its 65 elements"),
        ({"a": np.array([-1, -1], np.int64)}, {}, "bits beyond its 65 elements"),
        ({"a": np.array([-1, 1], np.int32)}, {}, "'a' is int32"),
    ],
)
def test_damage_is_named(tensors: Any, metadata: Any, message: str, tmp_path: Path) -> None:
    assert bs.load_masks(damaged(tmp_path, GOOD))["a"].kept() == 65
    with pytest.raises(bs.CheckpointError, match=message):
        bs.load_masks(damaged(tmp_path, tensors, **metadata))


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    whole = damaged(tmp_path, GOOD).read_bytes()
    for content in (b"", b"hello", whole[:20], whole[:-3]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(bs.CheckpointError, match="cannot be read as masks"):
            bs.load_masks(tmp_path / "bad")
    with pytest.raises(bs.ArgumentError, match="is no file"):
        bs.load_masks(tmp_path / "none")
    with pytest.raises(bs.ArgumentError, match="framework"):
        bs.load_masks(tmp_path / "bad", framework="jax")


def test_bad_masks_are_not_written(tmp_path: Path) -> None:
    for masks, error in (
        ({}, bs.ArgumentError),
        ([np.ones(3, bool)], bs.ArgumentError),
        ({"a": np.ones(3)}, bs.DTypeError),
    ):
        with pytest.raises(error):
            bs.save_masks(tmp_path / "m", masks)
    assert not (tmp_path / "m").exists()
    with pytest.raises(bs.ArgumentError, match="cannot be written"):
        bs.save_masks(tmp_path / "no" / "m", random_masks())


def test_numpy_users_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import bittersweet as bs, numpy as np\n"
        "item = bs.ScoreInputs(np.arange(1, 9, dtype=np.float32), name='w')\n"
        "bs.save_masks(sys.argv[1], bs.make_masks([item], sparsity=0.5, scorer='magnitude'))\n"
        "mask = bs.load_masks(sys.argv[1], framework='numpy')['w']\n"
        "assert mask.bool().tolist() == [False] * 4 + [True] * 4\n"
        "assert bs.sparsity({'w': np.zeros(3, np.float32)}).zeros == 3\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], check=True)


@pytest.mark.parametrize(
    ("masks", "options", "error", "message"),
    [
        ([1], {}, bs.ArgumentError, "found list beside a module"),
        ({"9.weight": torch.ones(1, dtype=torch.bool)}, {}, bs.ArgumentError, r"'9\.weight'.*no such tensor"),
        ({"0.weight": torch.ones(1, dtype=torch.bool)}, {}, bs.ShapeError, r"'0\.weight'"),
        ({"0.weight": torch.ones(40, 12)}, {}, bs.DTypeError, r"'0\.weight'"),
        ({}, {"roles": ("weight", "grad")}, bs.ArgumentError, "roles"),
    ],
)
def test_bad_masks_of_a_model(masks: Any, options: Any, error: type[bs.Error], message: str) -> None:
    for function in (bs.apply_masks_, bs.count_violations):
        with pytest.raises(error, match=message):
            function(mlp(), masks, **options)
