"""The two pictures: loss over steps with the sparsity ramp, and how much each layer gave."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bittersweet.demo.plan import Plan, percent

if TYPE_CHECKING:
    from bittersweet.demo.train import ArmResult

_DENSE = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito's palette
_MARKERS = "os^Dv"
_GREY = "#7f7f7f"
GRID = "#e6e6e6"
_SHARES = ([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def draw(folder: Path, results: Sequence[ArmResult], plan: Plan) -> list[Path]:
    """Writes loss.png and layers.png into `folder` and returns their paths; see `save`."""
    paints = {"loss.png": _paint_loss, "layers.png": _paint_layers}
    return save(folder, {name: partial(paint, results=results, plan=plan) for name, paint in paints.items()})


def save(folder: Path, paints: Mapping[str, Callable[[Any], None]]) -> list[Path]:
    """Writes one PNG per entry of `paints`, each drawn by a call with an empty figure; returns the paths.

    Uses no display and leaves matplotlib's global settings alone. Raises `ImportError` without matplotlib.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 11.0,
        "axes.titlesize": 12.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    paths = []
    with rc_context(style):
        for name, paint in paints.items():
            figure = Figure(layout="constrained")
            FigureCanvasAgg(figure)
            paint(figure)
            paths.append(folder / name)
            figure.savefig(paths[-1], dpi=140)
    return paths


def _levels(results: Sequence[ArmResult]) -> list[float]:
    return list(dict.fromkeys(result.arm.sparsity for result in results if result.arm.scorer is not None))


def _scorers(results: Sequence[ArmResult]) -> list[str]:
    return list(dict.fromkeys(result.arm.scorer for result in results if result.arm.scorer is not None))


def _runs(results: Sequence[ArmResult], scorer: str | None, level: float) -> list[ArmResult]:
    return [run for run in results if run.arm.scorer == scorer and run.arm.sparsity == level]


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}


def _legend(figure: Any, panel: Any) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))


def _title(figure: Any, text: str, small: str) -> None:
    figure.suptitle(f"{text}\n({small})", fontsize=13)


def _seeds(runs: Sequence[ArmResult]) -> str:
    return f"mean of {len(runs)} seeds" if len(runs) > 1 else "one seed"


def _paint_loss(figure: Any, results: Sequence[ArmResult], plan: Plan) -> None:
    """Above the losses with the ramp behind them, below what pruning cost: each arm minus dense."""
    levels, scorers = _levels(results), _scorers(results)
    figure.set_size_inches(5.4 * len(levels) + 0.8, 6.8)
    grid = figure.subplots(2, len(levels), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
    dense = _runs(results, None, 0.0)
    for column, level in enumerate(levels):
        losses, gaps = grid[0][column], grid[1][column]
        _paint_ramp(losses, _runs(results, scorers[0], level)[0], plan, labelled=column == len(levels) - 1)
        _paint_curve(losses, dense, "dense", color=_DENSE, linewidth=2.0, linestyle="--", zorder=5)
        gaps.axhline(0.0, color=_DENSE, linewidth=2.0, linestyle="--")
        for position, scorer in enumerate(scorers):
            look = {**_style(position), "markersize": 4.5, "linewidth": 1.6}
            _paint_curve(losses, _runs(results, scorer, level), scorer, **look)
            _paint_curve(gaps, _runs(results, scorer, level), scorer, minus=dense, **look)
        losses.set_title(f"{percent(level)} of the Linear weights pruned")
        gaps.set_xlabel("training step")
        for panel in (losses, gaps):
            panel.grid(axis="y", color=GRID)
    shown = [loss for result in results for step, loss in result.curve if step >= plan.begin_step]
    margin = 0.08 * (max(shown) - min(shown))
    grid[0][0].set_xlim(0.9 * plan.begin_step, plan.steps + 0.1 * plan.begin_step)
    grid[0][0].set_ylim(min(shown) - margin, max(shown) + margin)
    grid[0][0].set_ylabel("held-out loss (nats per byte)")
    grid[1][0].set_ylabel("difference to dense")
    band = ", band: lowest to highest" if len(dense) > 1 else ""
    _title(figure, "Held-out loss while pruning; grey: sparsity", f"{_seeds(dense)}{band}")
    _legend(figure, grid[0][0])


def _paint_ramp(panel: Any, run: ArmResult, plan: Plan, *, labelled: bool) -> None:
    """A second axis on the right, behind the losses."""
    axes = panel.twinx()
    steps = [1, *(event["train_step"] for event in run.events), plan.steps]
    shares = [0.0, *(event["achieved_sparsity"] for event in run.events)]
    shares.append(shares[-1])
    axes.fill_between(steps, shares, step="post", color=_GREY, alpha=0.15, linewidth=0)
    axes.plot(steps, shares, drawstyle="steps-post", color=_GREY, linewidth=1.2)
    axes.set_ylim(0, 1)
    axes.set_yticks(*_SHARES)
    axes.tick_params(labelright=labelled, right=labelled, colors=_GREY)
    axes.spines["right"].set(visible=labelled, color=_GREY)
    axes.set_ylabel("sparsity" if labelled else "", color=_GREY)
    panel.set_zorder(axes.get_zorder() + 1)
    panel.patch.set_visible(False)


def _paint_curve(
    panel: Any, runs: Sequence[ArmResult], label: str, minus: Sequence[ArmResult] | None = None, **style: Any
) -> None:
    """Mean over seeds, and the range where there are several; with `minus`, less those runs seed by seed."""
    steps = [step for step, _ in runs[0].curve]
    losses = [[loss for _, loss in run.curve] for run in runs]
    if minus is not None:
        bases = ([loss for _, loss in run.curve] for run in minus)
        losses = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(losses, bases, strict=True)]
    columns = list(zip(*losses, strict=True))
    panel.plot(steps, [statistics.fmean(column) for column in columns], label=label, **style)
    if len(runs) > 1:
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        panel.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _paint_layers(figure: Any, results: Sequence[ArmResult], plan: Plan) -> None:
    """One row per layer, one dot per scorer (mean over seeds), at the end of training."""
    levels, scorers = _levels(results), _scorers(results)
    names = list(_runs(results, scorers[0], levels[0])[0].per_tensor)
    figure.set_size_inches(4.6 * len(levels) + 1.4, 1.8 + 0.36 * len(names))
    panels = figure.subplots(1, len(levels), sharex=True, sharey=True, squeeze=False)[0]
    for panel, level in zip(panels, levels, strict=True):
        panel.axvline(level, color=_GREY, linewidth=1.2, linestyle="--", label="whole model")
        for position, scorer in enumerate(scorers):
            runs = _runs(results, scorer, level)
            means = [statistics.fmean(run.per_tensor[name] for run in runs) for name in names]
            shift = 0.5 * ((position + 0.5) / len(scorers) - 0.5)
            rows = [row + shift for row in range(len(names))]
            panel.plot(means, rows, linestyle="", markersize=6, label=scorer, **_style(position))
        panel.set_title(f"{percent(level)} of the Linear weights pruned")
        panel.set_xlabel("sparsity of the layer")
        panel.grid(axis="x", color=GRID)
        panel.set_axisbelow(True)
        panel.set_xticks(*_SHARES)
    panels[0].set_xlim(-0.03, 1.03)
    panels[0].set_yticks(range(len(names)), [name.removesuffix(".weight") for name in names])
    panels[0].invert_yaxis()
    _title(figure, "Sparsity of each layer at the end of training", _seeds(_runs(results, None, 0.0)))
    _legend(figure, panels[0])
