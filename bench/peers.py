"""The same threshold from torch and NumPy, each in its best form: outputs made beforehand, in place.

Scores are written straight into slices of one buffer, so that no peer pays for `torch.cat`, and every output
has been touched. All but the two samples are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from models import Model
from torch import nn
from torch.nn.utils import prune

EPS = 1e-8  # bitter7's
FRACTION = 0.02


def _score(w: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    """bitter7, |w| * (v + eps)^(1/4) for v from 0, in five passes over `out`."""
    torch.add(v, EPS, out=out).sqrt_().sqrt_().mul_(w).abs_()


def _touched(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(count, dtype=dtype).zero_()


class Peers:
    """Ways to the k-th smallest bitter7 score of a model, 1-based; each call returns the threshold."""

    def __init__(self, model: Model, k: int) -> None:
        self._model, self._k = model, k
        self._w = [w.view(-1) for w in model.w]
        self._v = [v.view(-1) for v in model.v]
        sizes = [w.numel() for w in self._w]
        total = sum(sizes)
        self.scores = _touched(total)
        self._slices = self.scores.split(sizes)

        self._smallest = k <= total - k + 1
        side = k if self._smallest else total - k + 1
        self._top = (_touched(side), _touched(side, torch.int64))
        self._sorted = (_touched(total), _touched(total, torch.int64))

        drawn = [max(1, round(FRACTION * size)) for size in sizes]
        count = sum(drawn)
        self._index = _touched(count, torch.int64)
        self._indices = self._index.split(drawn)
        self._sample_w, self._sample_v, self._sample = _touched(count), _touched(count), _touched(count)
        self._samples_w, self._samples_v = self._sample_w.split(drawn), self._sample_v.split(drawn)
        self._sample_k = min(count, max(1, round(k / total * count)))

    def score(self) -> None:
        """Scores everything into the buffer."""
        for w, v, out in zip(self._w, self._v, self._slices, strict=True):
            _score(w, v, out)

    def kthvalue(self) -> float:
        self.score()
        return float(torch.kthvalue(self.scores, self._k).values)

    def topk(self) -> float:
        self.score()
        smallest, count = self._smallest, self._top[0].numel()
        torch.topk(self.scores, count, largest=not smallest, sorted=False, out=self._top)
        return float(self._top[0].max() if smallest else self._top[0].min())

    def sort(self) -> float:
        self.score()
        torch.sort(self.scores, out=self._sorted)
        return float(self._sorted[0][self._k - 1])

    def numpy_partition(self) -> float:
        """In place, without a copy: the buffer is written anew by every scoring."""
        self.score()
        values = self.scores.numpy()
        values.partition(self._k - 1)
        return float(values[self._k - 1])

    def sample_gathered(self) -> float:
        """2 % of every tensor, drawn with replacement; only the sample is scored."""
        columns = zip(self._w, self._v, self._indices, self._samples_w, self._samples_v, strict=True)
        for w, v, index, sample_w, sample_v in columns:
            index.random_(0, w.numel())
            torch.index_select(w, 0, index, out=sample_w)
            torch.index_select(v, 0, index, out=sample_v)
        _score(self._sample_w, self._sample_v, self._sample)
        return float(torch.kthvalue(self._sample, self._sample_k).values)

    def sample_published(self) -> float:
        """2 % of all scores, drawn with replacement after everything has been scored."""
        self.score()
        self._index.random_(0, self.scores.numel())
        torch.index_select(self.scores, 0, self._index, out=self._sample)
        return float(torch.kthvalue(self._sample, self._sample_k).values)


CALLS: dict[str, Callable[[Peers], float]] = {
    "score + torch.kthvalue": Peers.kthvalue,
    "score + torch.topk, the smaller side, unsorted": Peers.topk,
    "score + torch.sort": Peers.sort,
    "score + numpy partition in place": Peers.numpy_partition,
    "2 % sample, gathered before scoring": Peers.sample_gathered,
    "2 % sample as published, scoring everything": Peers.sample_published,
}
SAMPLES = frozenset(name for name in CALLS if "sample" in name)
SLOW = frozenset(("score + torch.topk, the smaller side, unsorted", "score + torch.sort"))


class _Holder(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class GloballyUnstructured:
    """torch.nn.utils.prune over a model: scores, masks and zeros in w. Changes the weights."""

    def __init__(self, peers: Peers, weights: Sequence[torch.Tensor], sparsity: float) -> None:
        self._peers, self._sparsity = peers, sparsity
        self._pairs = [(_Holder(weight), "weight") for weight in weights]
        shaped = [out.view(w.shape) for out, w in zip(peers._slices, weights, strict=True)]
        self._scores = dict(zip(self._pairs, shaped, strict=True))

    def __call__(self) -> None:
        self._peers.score()
        prune.global_unstructured(
            self._pairs,
            pruning_method=prune.L1Unstructured,
            importance_scores=self._scores,
            amount=self._sparsity,
        )
