"""The findings as one JSON document, written after every finished piece; and the report made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bittersweet.compare import summary, tables
from bittersweet.compare.catalogue import Entry
from bittersweet.demo.report import Spread, circumstances, run_record

if TYPE_CHECKING:
    from bittersweet.compare.runs import Findings, Request
    from bittersweet.demo.text import Corpus

FORMAT = 1


def build(
    run: dict[str, Any], request: Request, corpus: Corpus, findings: Findings, notes: Sequence[str]
) -> dict[str, Any]:
    """Everything as plain values. `run` says by what command, when, where and with what it was run."""
    base = {result.seed: result.held_out_loss for result in findings.dense}
    losses = asdict(Spread.of(list(base.values()))) if base else None
    level = request.levels[0]
    return {
        "format": FORMAT,
        **circumstances(run, request.plan, corpus),
        "scorers": [_scorer(entry, findings) for entry in request.scored],
        "dense": {"held_out_loss": losses, "runs": [run_record(result) for result in findings.dense]},
        "one_shot": {
            "levels": list(request.levels),
            "summary": summary.one_shot(findings.one_shot, base),
            "runs": [asdict(result) for result in findings.one_shot],
        },
        "overlap": {
            "sets": "kept",
            "scope": "global",
            "sparsity": level,
            "by_chance": (1 - level) / (1 + level),
            **summary.overlap(findings.overlap),
        },
        "training": {
            "sparsity": request.train_sparsity,
            "summary": summary.training(findings.training, base),
            "runs": [run_record(result) for result in findings.training],
        },
        "notes": list(notes),
    }


def _scorer(entry: Entry, findings: Findings) -> dict[str, Any]:
    failures = findings.failures
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "formula": entry.formula,
        "reads": sorted(entry.reads),
        "training_scope": entry.scope,
        "left_out": {
            "one_shot": entry.not_one_shot or failures.get(("one_shot", entry.name)),
            "training": entry.not_in_training or failures.get(("training", entry.name)),
        },
    }


def write(folder: Path, document: dict[str, Any]) -> list[Path]:
    """Writes comparison.json and comparison.md, each replaced whole; returns their paths."""
    texts = {
        "comparison.json": json.dumps(document, indent=1) + "\n",
        "comparison.md": tables.markdown(document),
    }
    paths = []
    for name, text in texts.items():
        paths.append(folder / name)
        unfinished = folder / f"{name}.part"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, paths[-1])
    return paths
