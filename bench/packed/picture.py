"""The decoder's speed and memory as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from measure import in_words
from pictures import OTHERS, OURS, bars, svg, title

from .tables import Row, model_megabytes, rate


def chosen(rows: Sequence[Row]) -> list[Row]:
    """The dense model, the one with most zeros in dense tensors, and the packed ones."""
    zeros = [row for row in rows if row["sparsity"] and not row["packed"]]
    return [rows[0], *zeros[-1:], *(row for row in rows if row["packed"])]


def draw(rows: Sequence[Row], path: Path) -> None:
    threads = max(rows[0]["seconds"]["token"], key=int)
    shown = chosen(rows)
    colors = [OURS if row["packed"] else OTHERS for row in shown]
    panels: tuple[tuple[str, dict[str, float], str], ...] = (
        (
            f"Tokens a second, {in_words(int(threads))}",
            {row["case"]: rate(row, threads) for row in shown},
            "{:.0f}",
        ),
        ("Resident memory of the model", {row["case"]: model_megabytes(row) for row in shown}, "{:.0f} MB"),
    )
    with svg(path, 2, figsize=(7, 5)) as (_, axes):
        for panel, (text, values, form) in zip(axes, panels, strict=True):
            bars(panel, values, colors, form)
            title(panel, text)
