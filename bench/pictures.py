"""Pictures for docs/images: SVG with text as text, the same bytes from the same figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS, SECOND, OTHERS = "#5e35b1", "#e65100", "#b0a8c0"
FONT = 12


@contextlib.contextmanager
def svg(path: Path, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its panels as of pyplot.subplots, to draw on; written at the end."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "bittersweet",
        "font.size": FONT,
        "font.family": "sans-serif",
    }
    with pyplot.rc_context(settings):
        figure, panels = pyplot.subplots(rows, columns, layout="constrained", **options)
        figure.get_layout_engine().set(hspace=0.1, w_pad=0.1, h_pad=0.1)
        try:
            yield figure, panels
            figure.savefig(path, metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(figure)


def title(panel: Any, text: str) -> None:
    panel.set_title(text, loc="left", fontsize=FONT, fontweight="bold")


def bars(panel: Any, values: dict[str, float], colors: list[str], form: str) -> None:
    """Horizontal bars from top to bottom with their values, and nothing else."""
    drawn = panel.barh(list(values), list(values.values()), color=colors, height=0.7)
    panel.bar_label(drawn, [form.format(value) for value in values.values()], padding=4)
    panel.margins(x=0.2)
    panel.invert_yaxis()
    panel.xaxis.set_visible(False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
