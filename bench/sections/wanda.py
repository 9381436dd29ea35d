"""WANDA's masks beside the published procedure in torch: scores, a stable sort of every row or topk of every
group.
"""

from __future__ import annotations

import math
from typing import Any

import bittersweet as bs
import torch
from measure import Bench, Rounds, in_words, kept
from tables import Table

LAYERS = 6  # of 4096 x 4096 at 100 million weights
SPARSITY = 0.5
AT_LEAST = 5  # times faster


def run(bench: Bench) -> list[Table]:
    width = 64 * max(1, round(math.sqrt(bench.weights / LAYERS) / 64))
    bench.say(f"making {LAYERS} layers of {width} x {width}")
    random = torch.Generator().manual_seed(0)
    w = [torch.empty(width, width).normal_(0.0, 0.02, generator=random) for _ in range(LAYERS)]
    norms = [torch.empty(width).normal_(generator=random).exp_() for _ in range(LAYERS)]
    inputs = [bs.ScoreInputs(x, input_norm=norm) for x, norm in zip(w, norms, strict=True)]

    def published(prune: Any) -> list[torch.Tensor]:
        masks = []
        for weight, norm in zip(w, norms, strict=True):
            metric = weight.abs() * norm.reshape(1, -1)
            mask = torch.zeros_like(metric, dtype=torch.bool)
            prune(metric, mask)
            masks.append(mask)
        return masks

    def sort_rows(metric: torch.Tensor, mask: torch.Tensor) -> None:
        order = torch.sort(metric, dim=-1, stable=True)[1]
        mask.scatter_(1, order[:, : int(metric.shape[1] * SPARSITY)], True)

    def topk_groups(metric: torch.Tensor, mask: torch.Tensor) -> None:
        for first in range(0, metric.shape[1], 4):
            lowest = torch.topk(metric[:, first : first + 4], 2, dim=1, largest=False)[1]
            mask.scatter_(1, first + lowest, True)

    cases = {
        "row, 50 %": ({"scope": "row", "sparsity": SPARSITY, "rounding": "floor"}, sort_rows),
        "2:4": ({"scope": "2:4"}, topk_groups),
    }
    rows = []
    for threads in bench.threads:
        bench.say(in_words(threads))
        rounds = Rounds(bench, threads, bench.floor.over(w))
        rounds.add_read_floor("w", w)
        for name, (options, prune) in cases.items():
            rounds.add(name, lambda o=options: bs.make_masks(inputs, scorer="wanda", **o))
            rounds.add(f"published {name}", lambda p=prune: published(p))
        rounds.run()
        for name in cases:
            pairs = zip(w, norms, rounds.result(name), rounds.result(f"published {name}"), strict=True)
            if not all(
                _same(weight.abs() * norm, ours.bool(), ~theirs) for weight, norm, ours, theirs in pairs
            ):
                raise RuntimeError(f"wanda, {name}: the masks are not those of the published procedure")
            theirs = rounds.ms(f"published {name}")
            times = theirs / rounds.ms(name)
            rows.append(
                rounds.against(name, name, "w", None, peer_ms=theirs, faster=times)
                | {"bound": AT_LEAST, "kept": kept(bench, times, AT_LEAST, at_least=True)}
            )
    notes = [
        "Scores and masks from weights and norms. The peer sorts every row stably (torch.sort), or takes "
        "topk of every group of four, as the published code does.",
        "All masks were compared and are equal, but for groups of four in which two scores are equal: ours "
        "prunes the first, torch.topk either. The bound is on how many times faster ours is.",
    ]
    return [Table(f"WANDA ({LAYERS} layers of {width} x {width})", rows, notes)]


def _same(metric: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether both keep as many scores of the same size of every four."""
    rows = (ours != theirs).any(dim=1)
    kept = [(metric[rows] * mask[rows]).reshape(-1, 4).sort(dim=1)[0] for mask in (ours, theirs)]
    return torch.equal(*kept)
