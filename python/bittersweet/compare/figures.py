"""Three pictures of the document: loss over sparsity, overlap of masks, losses after pruned training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from bittersweet.compare.oneshot import SCOPES
from bittersweet.demo.figures import COLOURS, GRID, save
from bittersweet.demo.plan import percent

_MARKERS = "os^Dv"
_LINES = ("-", "--", ":", "-.")
_LINEAR_BELOW = 0.01


def draw(folder: Path, document: dict[str, Any]) -> list[Path]:
    """Writes a PNG for each part that has results and returns their paths; see `save`."""
    paints: dict[str, Any] = {}
    if document["one_shot"]["summary"]:
        paints["one_shot.png"] = partial(_paint_one_shot, document=document)
        paints["overlap.png"] = partial(_paint_overlap, document=document)
    if document["training"]["summary"]:
        paints["training.png"] = partial(_paint_training, document=document)
    return save(folder, paints)


def _paint_one_shot(figure: Any, document: dict[str, Any]) -> None:
    """A panel per scope: what pruning costs against the dense model; band from lowest to highest seed."""
    figure.set_size_inches(15.5, 7.0)
    summary = document["one_shot"]["summary"]
    names = list(dict.fromkeys(row["scorer"] for row in summary))
    panels = figure.subplots(1, len(SCOPES), sharex=True, sharey=True)
    for panel, scope in zip(panels, SCOPES, strict=True):
        for position, name in enumerate(names):
            rows = [row for row in summary if row["scorer"] == name and row["scope"] == scope]
            rows.sort(key=lambda row: row["sparsity"])
            levels = [100 * row["sparsity"] for row in rows]
            costs = [row["difference_to_dense"] for row in rows]
            colour = COLOURS[position % len(COLOURS)]
            style = position // len(COLOURS)
            panel.plot(
                levels,
                [cost["mean"] for cost in costs],
                color=colour,
                linestyle=_LINES[style % len(_LINES)],
                marker=_MARKERS[style % len(_MARKERS)],
                markersize=5,
                label=name,
            )
            low, high = [cost["low"] for cost in costs], [cost["high"] for cost in costs]
            panel.fill_between(levels, low, high, color=colour, alpha=0.12, linewidth=0)
        panel.set_yscale("symlog", linthresh=_LINEAR_BELOW)
        panel.set_title(f"scope {scope}")
        panel.set_xlabel("weights pruned (%)")
        panel.grid(axis="y", color=GRID)
    panels[0].set_ylabel("held-out loss, difference to dense (nats per byte)")
    figure.suptitle(f"One-shot pruning of the same frozen weights ({_seeds(document, 'band')})")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)


def _paint_overlap(figure: Any, document: dict[str, Any]) -> None:
    part = document["overlap"]
    names = part["scorers"]
    side = 3.2 + 0.42 * len(names)
    figure.set_size_inches(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(part["mean"], vmin=0.0, vmax=1.0, cmap="cividis")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    for row, values in enumerate(part["mean"]):
        for column, value in enumerate(values):
            axes.text(
                *(column, row, f"{100 * value:.0f}"),
                ha="center",
                va="center",
                fontsize=7.5,
                color="black" if value > 0.5 else "white",
            )
    figure.colorbar(image, ax=axes, shrink=0.7, label="Jaccard index of the kept weights")
    level, chance = percent(part["sparsity"]), percent(round(part["by_chance"], 2))
    axes.set_title(f"Overlap in %, {level} pruned, scope global ({_seeds(document)}; by chance {chance})")


def _paint_training(figure: Any, document: dict[str, Any]) -> None:
    part = document["training"]
    rows = sorted(part["summary"], key=lambda row: row["difference_to_dense"]["mean"], reverse=True)
    figure.set_size_inches(8.5, 1.8 + 0.34 * len(rows))
    axes = figure.subplots()
    costs = [row["difference_to_dense"] for row in rows]
    whiskers = [
        [cost["mean"] - cost["low"] for cost in costs],
        [cost["high"] - cost["mean"] for cost in costs],
    ]
    axes.barh(
        [row["scorer"] for row in rows], [cost["mean"] for cost in costs], color=COLOURS[0], height=0.65
    )
    axes.errorbar(
        *([cost["mean"] for cost in costs], range(len(rows))),
        xerr=whiskers,
        fmt="none",
        ecolor="black",
        elinewidth=1.0,
        capsize=2.5,
    )
    axes.set_xlabel("held-out loss, difference to dense (nats per byte)")
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    level, seeds = percent(part["sparsity"]), _seeds(document, "whiskers")
    axes.set_title(f"Pruned during training to {level} ({seeds})")


def _seeds(document: dict[str, Any], spread: str | None = None) -> str:
    seeds = document["run"]["seeds"]
    if seeds == 1:
        return "one seed"
    return f"mean of {seeds} seeds" + (f"; {spread}: lowest to highest" if spread else "")
