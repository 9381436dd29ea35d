"""The results as one picture: a panel a task, a point a training, lines through the means."""

from __future__ import annotations

import statistics
from pathlib import Path

from bittersweet.demo.plan import percent
from bittersweet.extras import require

from .results import Results
from .task import DENSE, METHODS, SPARSITIES, Arm

COLOURS = {"magnitude": "#666666", "bitter7": "#c2410c", "RigL": "#1d4ed8"}
SHIFTS = {"magnitude": -0.08, "bitter7": 0.0, "RigL": 0.08}


def draw(results: Results, path: Path) -> None:
    """Writes a PNG. Raises MissingPackageError without matplotlib."""
    figure_type = require("matplotlib.figure", "a picture of the trainings").Figure
    count = len(results.tasks)
    figure = figure_type(figsize=(3.6 * count, 3.4), layout="constrained")
    for axes, task in zip(figure.subplots(1, count, squeeze=False)[0], results.tasks, strict=True):
        dense = results.values(task, Arm(DENSE, 0.0))
        if dense:
            axes.axhspan(min(dense), max(dense), color="#16a34a", alpha=0.2, linewidth=0)
            axes.axhline(statistics.mean(dense), color="#16a34a", linewidth=1.2, label="dense")
        for method in METHODS:
            places, means = [], []
            for place, sparsity in enumerate(SPARSITIES):
                values = results.values(task, Arm(method, sparsity))
                if values:
                    x = place + SHIFTS[method]
                    axes.plot([x] * len(values), values, "o", color=COLOURS[method], alpha=0.45, markersize=4)
                    places.append(x)
                    means.append(statistics.mean(values))
            axes.plot(places, means, "-", color=COLOURS[method], linewidth=1.5, label=method)
        axes.set_xticks(range(len(SPARSITIES)), [percent(sparsity) for sparsity in SPARSITIES])
        axes.set_title(task.title, fontsize=10)
        axes.set_ylabel(task.measure, fontsize=9)
        axes.set_xlabel("pruned", fontsize=9)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=90)
