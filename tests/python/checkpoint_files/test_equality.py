"""The copy is what `make_masks` over the loaded tensors makes of the source, byte for byte."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.checkpoint_files import pruning
from bittersweet.checkpoint_files.reading import Memory
from checkpoint_support import (
    DTYPES,
    KINDS,
    Stored,
    expected_files,
    load,
    other,
    stored,
    values,
    write_file,
    write_folder,
)

SCOPES = ("global", "tensor", "row", "2:4")
LAYERS = "model.layers.{}.{}.weight"
SIZES = ((64, 96), (1, 4), (37, 44), (129, 8), (3, 500), (5, 4, 3, 3))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(params=[None, 4096, 16384], ids=["whole", "4 KiB", "16 KiB"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Blocks of memory so small that every tensor is cut."""
    if request.param is not None:
        monkeypatch.setattr(pruning, "Memory", lambda: Memory(request.param))
    return request.param  # type: ignore[no-any-return]


def some_tensors(kind: str, dtypes: tuple[str, ...], seed: int = 0) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {"model.embed_tokens.weight": other("F64", 5, 4)}
    for at, shape in enumerate(SIZES):
        data = values(kind, int(np.prod(shape)), seed + at).reshape(shape)
        tensors[LAYERS.format(at, "proj")] = stored(data, dtypes[at % len(dtypes)])
        tensors[f"model.layers.{at}.norm.bias"] = other("U8", at)
    tensors["model.ids"] = other("I64", 3)
    return tensors


def proj(name: str) -> bool:
    return name.endswith("proj.weight")


def check(
    source: Path, out: Path, inputs: Any = lambda name, tensor: {}, chosen: Any = proj, **options: Any
) -> bs.CheckpointReport:
    paths = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    own = {key: options.pop(key) for key in ("norms", "transposed", "include", "exclude") if key in options}
    expected, event = expected_files(paths, chosen, inputs, **options)
    before = [path.read_bytes() for path in paths]
    report = bs.prune_checkpoint(source, out, **options, **own, verify=True)
    for path, whole, untouched in zip(paths, expected, before, strict=True):
        assert path.read_bytes() == untouched
        assert (out / path.name if out.is_dir() else out).read_bytes() == whole
    assert (report.pruned, report.k, report.total) == (event.pruned, event.k, event.total)
    if report.scope == "global" and report.k:
        assert (report.threshold, report.count_below, report.count_equal) == (
            event.threshold,
            event.count_below,
            event.count_equal,
        )
    rows = [row for row in report.per_tensor.values() if row.reason is None]
    assert [row.sparsity for row in rows] == list(event.per_tensor.values())
    return report


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
def test_dtypes_and_scopes(dtype: str, scope: str, room: int | None, tmp_path: Path) -> None:
    dtypes = tuple(DTYPES) if dtype == "mixed" else (dtype,)
    source = write_file(tmp_path / "a.safetensors", some_tensors("normal", dtypes), 1, {"format": "pt"})
    for share in (0.5,) if scope == "2:4" else (0.0, 0.3, 0.5, 1.0):
        out = tmp_path / f"out{share}"
        report = check(source, out, scope=scope, sparsity=share)
        assert report.verified and report.files == 1 and out.stat().st_size == report.size
        assert report.per_tensor["model.embed_tokens.weight"].reason == "embedding"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nasty_values(kind: str, dtype: str, room: int | None, tmp_path: Path) -> None:
    source = write_file(tmp_path / "a.safetensors", some_tensors(kind, (dtype,), 3), 5)
    for scope, share in (("global", 0.5), ("global", 0.07), ("tensor", 0.6), ("row", 0.4)):
        out = tmp_path / f"{scope}{share}"
        check(source, out, scope=scope, sparsity=share)


@pytest.mark.parametrize("align", range(8))
def test_data_at_any_offset(align: int, tmp_path: Path) -> None:
    tensors = {"odd.bias": other("U8", 3)} | some_tensors("normal", ("F32", "BF16"))
    source = write_file(tmp_path / "a.safetensors", tensors, align)
    assert (8 + int.from_bytes(source.read_bytes()[:8], "little")) % 8 == align
    check(source, tmp_path / "out", sparsity=0.5)


def norms_for(tensors: dict[str, torch.Tensor], transposed: bool, seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        name: random.random(tensor.shape[0 if transposed else 1]).astype(np.float32)
        for name, tensor in tensors.items()
        if proj(name)
    }


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_wanda(dtype: str, transposed: bool, scope: str, room: int | None, tmp_path: Path) -> None:
    tensors = {
        name: (kind, shape, data)
        for name, (kind, shape, data) in some_tensors("normal", (dtype,), 7).items()
        if not (transposed and scope == "2:4" and name.endswith("weight") and shape[0] % 4)
    }
    source = write_file(tmp_path / "a.safetensors", tensors, 3)
    norms = norms_for(load(source), transposed)
    file = write_file(tmp_path / "norms.safetensors", {name: stored(norm) for name, norm in norms.items()})

    def inputs(name: str, tensor: torch.Tensor) -> dict[str, Any]:
        axes = {"in_dim": 0} if transposed else {}
        return {"input_norm": torch.from_numpy(norms[name]), **axes}

    globs = {"transposed": "*.proj.weight"} if transposed else {}
    check(source, tmp_path / "out", inputs, scope=scope, sparsity=0.5, scorer="wanda", norms=file, **globs)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("scorer", ["magnitude", "wanda"])
@pytest.mark.parametrize("transposed", [False, True])
def test_stacked_experts(scorer: str, scope: str, transposed: bool, room: int | None, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.up_proj"
    tensors = {name: stored(values("normal", 6 * 20 * 36).reshape(6, 20, 36), "BF16")}
    source = write_file(tmp_path / "a.safetensors", tensors)
    features = 6 * (20 if transposed else 36)
    norm = np.random.default_rng(2).random(features).astype(np.float32)
    file = write_file(tmp_path / "norms.safetensors", {name: stored(norm)})

    def inputs(name: str, tensor: torch.Tensor) -> dict[str, Any]:
        axes = {"in_dim": 1 if transposed else 2, "kernel_dims": 0, "groups": 6}
        return {"input_norm": torch.from_numpy(norm), **axes}

    own = {"norms": file} if scorer == "wanda" else {}
    own |= {"transposed": name} if transposed else {}
    with pytest.raises(bs.ArgumentError, match=r"does not end in \.weight"):
        bs.prune_checkpoint(source, tmp_path / "out", sparsity=0.5)
    check(
        source,
        tmp_path / "out",
        inputs,
        lambda name: True,
        scope=scope,
        sparsity=0.5,
        scorer=scorer,
        include="*experts*",
        **own,
    )


def test_scopes_as_objects(tmp_path: Path) -> None:
    tensors = {"a.weight": stored(values("normal", 70 * 11).reshape(70, 11))}
    source = write_file(tmp_path / "a.safetensors", tensors)
    for at, scope in enumerate((bs.Row("floor"), bs.NofM(2, 4, remainder="keep"), bs.NofM(1, 3, "keep"))):
        check(source, tmp_path / f"out{at}", scope=scope, sparsity=0.5, chosen=lambda name: True)


@pytest.mark.parametrize("scope", SCOPES)
def test_shards_with_ties_across_files(scope: str, room: int | None, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    names = [LAYERS.format(at, "proj") for at in range(9)]
    shards: dict[str, dict[str, Stored]] = {}
    for at, name in enumerate(names):
        data = random.choice(np.array([0.5, -0.5, 0.25], np.float32), (40 + at, 12))
        shards.setdefault(f"model-{at % 3 + 1:05}-of-00003.safetensors", {})[name] = stored(data, "BF16")
    source = write_folder(tmp_path / "in", shards, 3)
    report = check(source, tmp_path / "out", scope=scope, sparsity=0.5)
    assert report.files == 3
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_seeded_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Random shapes, orders, types, cuts and budgets."""
    for seed in range(60):
        choice = random.Random(seed)
        dtypes = choice.choice([("F32",), ("F16",), ("BF16",), ("F32", "BF16"), ("F16", "BF16")])
        tensors: dict[str, Stored] = {}
        for at in range(choice.randint(1, 6)):
            shape = (choice.randint(1, 60), choice.choice([1, 4, 8, 12, 36, 100]))
            data = values(choice.choice(KINDS), shape[0] * shape[1], 100 * seed + at).reshape(shape)
            tensors[LAYERS.format(at, "proj")] = stored(data, choice.choice(dtypes))
            if choice.random() < 0.5:
                tensors[f"skip{at}"] = other("U8", choice.randint(0, 9))
        source = write_file(tmp_path / f"{seed}.safetensors", tensors, choice.randint(0, 7))
        room = choice.choice([512, 1024, 1 << 20])
        monkeypatch.setattr(pruning, "Memory", lambda room=room: Memory(room))
        scope = choice.choice(["global", "tensor", "row"])
        check(source, tmp_path / f"out{seed}", scope=scope, sparsity=round(choice.random(), 2))


def test_a_model_in_torch_gives_the_same_zeros(tmp_path: Path) -> None:
    """A checkpoint that transformers or torch would write, through `prune_` on the module."""
    library = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(31, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 40, bias=False)
    ).bfloat16()
    library.save_file(model.state_dict(), tmp_path / "model.safetensors")
    bs.prune_checkpoint(tmp_path / "model.safetensors", tmp_path / "out.safetensors", sparsity=0.7)
    found = library.load_file(tmp_path / "out.safetensors")
    order = [name for name in load(tmp_path / "model.safetensors") if name in ("0.weight", "2.weight")]
    items = [bs.ScoreInputs(model.state_dict()[name], name=name) for name in order]
    bs.prune_(items, sparsity=0.7, scorer="magnitude")
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name].view(torch.int16), tensor.view(torch.int16)), name


def test_large_f32_takes_the_sample(tmp_path: Path) -> None:
    """Above a million elements a sample proposes the bracket; the answer is exact all the same."""
    data = values("normal", 2100 * 2000).reshape(2100, 2000)
    tensors = {"a.proj.weight": stored(data[:1500]), "b.proj.weight": stored(data[1500:])}
    source = write_file(tmp_path / "a.safetensors", tensors, 7)
    assert check(source, tmp_path / "out", sparsity=0.5).reads == 1
    norms = {"a.proj.weight": stored(np.ones(2000)), "b.proj.weight": stored(np.full(2000, 3.0))}
    file = write_file(tmp_path / "norms.safetensors", norms)
    ones = {name: torch.full((2000,), 1.0 if name[0] == "a" else 3.0) for name in norms}
    report = check(
        source,
        tmp_path / "wanda",
        lambda name, tensor: {"input_norm": ones[name]},
        sparsity=0.5,
        scorer="wanda",
        norms=file,
    )
    assert report.reads == 1


def test_report_as_json(tmp_path: Path) -> None:
    source = write_file(tmp_path / "a.safetensors", some_tensors("normal", ("F16",)))
    report = bs.prune_checkpoint(source, tmp_path / "out", sparsity=0.5)
    held = json.loads(json.dumps(report.to_dict()))
    assert held["pruned"] == held["k"] == round(held["total"] / 2)
    assert sum(row["pruned"] for row in held["per_tensor"].values()) == held["pruned"]
    assert "as large as the source" in str(report)
    assert "CheckpointReport" in repr(report)
