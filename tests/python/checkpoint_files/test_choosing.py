"""What is pruned by name, type and shape, and the reason for all else; what is refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from checkpoint_support import Stored, other, stored, values, write_file, write_folder

MATRIX = stored(values("normal", 32).reshape(8, 4))


def plan(tmp_path: Path, names: Any, config: Any = None, **options: Any) -> dict[str, str | None]:
    tensors: dict[str, Stored] = names if isinstance(names, dict) else dict.fromkeys(names, MATRIX)
    folder = write_folder(tmp_path / f"in{len(list(tmp_path.iterdir()))}", {"model.safetensors": tensors})
    (folder / "config.json").write_text(json.dumps(config or {}))
    report = bs.prune_checkpoint(folder, sparsity=0.5, dry_run=True, **options)
    return {name: row.reason for name, row in report.per_tensor.items()}


def test_names_of_known_families(tmp_path: Path) -> None:
    pruned = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.shared_expert.down_proj.weight",
        "model.layers.0.mlp.experts.3.up_proj.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "h.0.mlp.gate.weight",
        "vision.patch_conv.weight",
    ]
    left = {
        "model.embed_tokens.weight": "embedding",
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "embedding",
        "shared.weight": "embedding",
        "rwkv.emb.weight": "embedding",
        "bert.embeddings.word_embeddings.weight": "embedding",
        "gpt_neox.embed_out.weight": "embedding",
        "lm_head.weight": "output head",
        "output.weight": "output head",
        "model.layers.0.input_layernorm.weight": "norm",
        "model.layers.0.self_attn.q_norm.weight": "norm",
        "transformer.h.0.ln_1.weight": "norm",
        "transformer.ln_f.weight": "norm",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "bias",
        "model.layers.0.mlp.router.weight": "router",
        "model.layers.0.mlp.gate.weight": "router",
        "model.layers.0.mlp.experts.gate_up_proj": "its name does not end in .weight",
        "model.layers.0.qweight": "its name does not end in .weight",
    }
    found = plan(tmp_path, [*pruned, *left])
    assert {name: reason for name, reason in found.items() if reason is None} == dict.fromkeys(pruned)
    assert {name: reason for name, reason in found.items() if reason} == left


def test_shapes_and_vocabulary(tmp_path: Path) -> None:
    tensors = {
        "a.weight": MATRIX,
        "vector.weight": stored([1.0, 2.0]),
        "scalar.weight": stored(1.0),
        "none.weight": stored(np.zeros((0, 4))),
        "conv.weight": stored(values("normal", 36).reshape(2, 2, 3, 3)),
        "decoder.weight": stored(values("normal", 303).reshape(101, 3)),
    }
    found = plan(tmp_path, tensors, {"text_config": {"vocab_size": 101}})
    assert found["a.weight"] is found["conv.weight"] is None
    assert found["vector.weight"] == found["scalar.weight"] == "fewer than two axes"
    assert found["none.weight"] == "empty"
    assert found["decoder.weight"] == "vocabulary: an axis of 101, the vocab_size of config.json"
    for config in ({"vocab_size": 0}, {"vocab_size": "101"}, {"vocab_size": True}, {"text_config": 5}):
        assert plan(tmp_path, tensors, config)["decoder.weight"] is None


def test_include_and_exclude(tmp_path: Path) -> None:
    names = ["a.weight", "b.weight", "embed.weight", "c.scale"]
    assert plan(tmp_path, names, include="*.scale")["c.scale"] is None
    found = plan(tmp_path, names, include=["embed.weight", "[ab].*"], exclude="b.*")
    assert found == {
        "a.weight": None,
        "b.weight": "excluded by 'b.*'",
        "embed.weight": None,
        "c.scale": "not named by include",
    }
    for argument in ("include", "exclude", "transposed"):
        with pytest.raises(bs.ArgumentError, match=f"{argument}: 'layers.*' matches no tensor") as raised:
            plan(tmp_path, names, **{argument: "layers.*"})
        assert "a.weight" in str(raised.value)
        for wrong in (5, [5], {"a": 1}, b"a"):
            with pytest.raises(bs.ArgumentError, match=f"{argument}: .*accepted: a glob"):
                plan(tmp_path, names, **{argument: wrong})
    with pytest.raises(bs.ArgumentError, match=r"include: what 'v\.\*' matches cannot .*fewer than"):
        plan(tmp_path, {"a.weight": MATRIX, "v.weight": stored([1.0])}, include=["a.*", "v.*"])
    with pytest.raises(bs.ArgumentError, match=r"include: what 'a.weight' .*excluded by"):
        plan(tmp_path, names, include=["a.weight", "b.weight"], exclude="a.*")
    with pytest.raises(bs.ArgumentError, match=r"nothing to prune in .*embed.weight: embedding"):
        plan(tmp_path, ["embed.weight", "norm.weight"])


@pytest.mark.parametrize("dtype", ["F64", "F8_E4M3", "I32", "U8", "BOOL"])
def test_other_types(dtype: str, tmp_path: Path) -> None:
    tensors = {"a.weight": MATRIX, "q.weight": other(dtype, 6, 5), "ids": other(dtype, 4, 4)}
    with pytest.raises(
        bs.DTypeError, match=f"'q.weight' in 'model.safetensors' is {dtype}; .*BF16"
    ) as raised:
        plan(tmp_path, tensors)
    assert "before quantizing" in str(raised.value)
    assert plan(tmp_path, tensors, exclude="q.*")["a.weight"] is None
    with pytest.raises(bs.DTypeError, match=r"'ids'"):
        plan(tmp_path, tensors, include=["a.weight", "ids"])


def test_tied_names(tmp_path: Path) -> None:
    names = ["a.weight", "model.embed_tokens.weight", "lm_head.weight"]
    tied = {"tie_word_embeddings": True}
    assert plan(tmp_path, names, tied)["lm_head.weight"] == "output head"
    with pytest.raises(bs.ArgumentError, match=r"'lm_head.weight' is tied to 'model.embed_tokens.weight'"):
        plan(tmp_path, names, tied, include="lm_head.weight")
    with pytest.raises(bs.ArgumentError, match=r"'model.embed_tokens.weight' is tied to 'lm_head.weight'"):
        plan(tmp_path, names, tied, include="model.embed*")
    assert plan(tmp_path, names, tied, include=["lm_head.weight", "*embed*"])["lm_head.weight"] is None
    assert plan(tmp_path, names, {}, include="lm_head.weight")["lm_head.weight"] is None
    alone = ["a.weight", "model.embed_tokens.weight"]
    assert plan(tmp_path, alone, tied, include="*embed*")["model.embed_tokens.weight"] is None


def test_gpt2_needs_transposed(tmp_path: Path) -> None:
    names = ["h.0.attn.c_attn.weight", "h.0.mlp.c_proj.weight", "wte.weight"]
    gpt2 = {"model_type": "gpt2"}
    assert plan(tmp_path, names, gpt2)["h.0.mlp.c_proj.weight"] is None
    for scope in ("row", "2:4"):
        with pytest.raises(bs.ArgumentError, match=r"transposed: 'h.0.attn.c_attn.weight' is stored as"):
            plan(tmp_path, names, gpt2, scope=scope)
        plan(tmp_path, names, gpt2, scope=scope, transposed="*.c_*.weight")
        plan(tmp_path, names, {"model_type": "gpt_bigcode"}, scope=scope)


def test_numbers_and_scopes(tmp_path: Path) -> None:
    source = write_file(tmp_path / "a.safetensors", {"a.weight": stored(np.ones((6, 7)))})

    def refused(message: str, kind: type = bs.ArgumentError, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            bs.prune_checkpoint(source, tmp_path / "out", **options)
        assert sorted(tmp_path.iterdir()) == [source]

    refused("sparsity: it is missing")
    for wrong in (-0.1, 1.1, float("nan"), "0.5", True, None, 50):
        refused("sparsity: ", sparsity=wrong)
    refused("scope: 'rows'", sparsity=0.5, scope="rows")
    refused("scope: '2:4' does not divide the 7 inputs of 'a.weight'", bs.ShapeError, scope="2:4")
    refused("sparsity: 0.6 with scope '1:2'", scope="1:2", sparsity=0.6)
    refused("scorer: 'bitter7' in a checkpoint", sparsity=0.5, scorer="bitter7")
    refused("scorer: no scorer is called 'size'", sparsity=0.5, scorer="size")
    refused("norms: missing", sparsity=0.5, scorer="wanda")
    refused("norms: given with scorer 'magnitude'", sparsity=0.5, norms=source)
    refused("dry_run: 'yes'", sparsity=0.5, dry_run="yes")
    with pytest.raises(bs.ArgumentError, match=r"out: it is missing"):
        bs.prune_checkpoint(source, sparsity=0.5)


def test_norms_that_do_not_fit(tmp_path: Path) -> None:
    source = write_file(tmp_path / "a.safetensors", {"a.weight": stored(np.ones((6, 7)))})
    norms = tmp_path / "norms"

    def refused(kind: type, message: str, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            bs.prune_checkpoint(
                source, tmp_path / "out", sparsity=0.5, scorer="wanda", norms=norms, **options
            )
        assert not (tmp_path / "out").exists()

    refused(bs.ArgumentError, "norms: .* is no file")
    norms.write_bytes(b"no norms")
    refused(bs.CheckpointError, "announce a header")
    write_file(norms, {"b.weight": stored(np.ones(7))})
    refused(bs.MissingStateError, r"has none of 'a\.weight' \(it has those of b\.weight\)")
    write_file(norms, {"a.weight": stored(np.ones(6))})
    refused(bs.ShapeError, "'a.weight' has 6 in .* and 7 input features .*name it in transposed")
    write_file(norms, {"a.weight": stored(np.ones((1, 7)))})
    refused(bs.CheckpointError, "'a.weight' in .* is F32 of shape .*one axis")
    write_file(norms, {"a.weight": other("I64", 7)})
    refused(bs.CheckpointError, "'a.weight' in .* is I64")
    for wrong in (np.nan, np.inf, -1.0):
        write_file(norms, {"a.weight": stored([1, 1, 1, wrong, 1, 1, 1])})
        refused(bs.CheckpointError, "that of input 3 of 'a.weight'")
    sums = {"a.weight": ("F64", (7,), np.arange(7.0).tobytes())}
    metadata = {"format": "bittersweet.calibration", "version": "2", "positions": "{}"}
    write_file(norms, sums, metadata=metadata)
    refused(bs.CheckpointError, "format version 2")
    write_file(norms, sums, metadata={**metadata, "version": "1", "positions": "[]"})
    refused(bs.CheckpointError, "its positions")
    write_file(norms, sums, metadata={**metadata, "version": "1"})
    refused(bs.CheckpointError, "its positions")


def test_norms_as_the_calibrator_saves_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.ReLU(), torch.nn.Linear(40, 12))
    calibrator = bs.Calibrator(model).run([torch.randn(50, 24) for _ in range(3)])
    calibrator.save(tmp_path / "norms")
    library.save_file(model.state_dict(), tmp_path / "a.safetensors")
    for scope in ("row", "global", "2:4"):
        out = tmp_path / f"out {scope}"
        bs.prune_checkpoint(
            tmp_path / "a.safetensors",
            out,
            sparsity=0.5,
            scope=scope,
            scorer="wanda",
            norms=tmp_path / "norms",
        )
        names = [f"{at}.weight" for at in (0, 2)]
        items = [
            bs.ScoreInputs(model.state_dict()[name].clone(), input_norm=calibrator.norms[name], name=name)
            for name in names
        ]
        bs.prune_(items, sparsity=0.5, scope=scope, scorer="wanda")
        found = library.load_file(out)
        for item in items:
            assert torch.equal(found[str(item.name)], item.weight)
