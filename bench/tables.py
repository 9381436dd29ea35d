"""Result tables: one set of rows, as aligned text, as Markdown and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COLUMNS: dict[str, tuple[str, str]] = {  # key -> heading and format
    "data": ("data", ""),
    "case": ("work", ""),
    "layout": ("layout", ""),
    "of_dense": ("of the dense bytes", ".1%"),
    "weights": ("weights", ",d"),
    "threads": ("threads", "d"),
    "ranks": ("ranks", "d"),
    "rank_ms": ("ms", ".4g"),
    "time_of_ours": ("time / ours", ".2f"),
    "time_without": ("with / without a group", ".2f"),
    "rounds": ("rounds", "d"),
    "kib": ("KiB a rank", ".0f"),
    "ours_ms": ("ours, ms", ".4g"),
    "peer_ms": ("peer, ms", ".4g"),
    "repetitions": ("repetitions of the peer", "d"),
    "dense_ms": ("dense, ms", ".4g"),
    "torch_ms": ("torch, ms", ".4g"),
    "ours_us": ("ours, us", ".4g"),
    "torch_us": ("torch, us", ".4g"),
    "torch_ratio": ("ours / torch", ".3f"),
    "event": ("one event more, ms", ".3g"),
    "event_ratio": ("time / pruning event", ".2f"),
    "ours_gbs": ("ours, GB/s", ".1f"),
    "floor": ("floor", ""),
    "floor_ms": ("floor, ms", ".4g"),
    "floor_gbs": ("floor, GB/s", ".1f"),
    "ratio": ("ours / floor", ".2f"),
    "mv_ms": ("torch.mv, ms", ".4g"),
    "over_linear": ("times torch's speed", ".2f"),
    "over_best": ("times the better's", ".2f"),
    "share_of_floor": ("of the floor's speed", ".2f"),
    "exact_ratio": ("time / exact", ".2f"),
    "peer_ratio": ("ours / peer", ".4f"),
    "faster": ("times faster", ".1f"),
    "share_of_step": ("of an AdamW step", ".1%"),
    "nanoseconds": ("ns per 1000 weights", ".0f"),
    "growth": ("ms per weight, to the largest", ".2f"),
    "error": ("error of the sparsity", ".2e"),
    "passes": ("passes", ".2f"),
    "peak": ("peak, bytes per weight", ".4f"),
    "mask": ("of these masks", ".4f"),
    "account": ("library's account", ".4f"),
    "extra_bytes": ("extra bytes per weight", ".4f"),
    "bound": ("bound", ".3g"),
    "best_bound": ("over the better", ".3g"),
    "floor_bound": ("of the floor", ".3g"),
    "kept": ("kept", ""),
}


@dataclass
class Table:
    """Rows by the keys of COLUMNS. `notes` say what a reader must know beside them."""

    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Aligned columns, numbers to the right."""
        keys, cells = self._cells()
        widths = [max(len(row[column]) for row in cells) for column in range(len(keys))]
        right = [any(isinstance(row.get(key), (int, float)) for row in self.rows) for key in keys]
        lines = [
            "  ".join(
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        notes = [f"  {note}" for note in self.notes]
        return "\n".join([self.title, rule, lines[0], rule, *lines[1:], *notes])

    def markdown(self) -> str:
        """A heading, the table, and the notes as a list."""
        keys, cells = self._cells()
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
        rule = "|" + " --- |" * len(keys)
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([f"### {self.title}", "", lines[0], rule, *lines[1:], *notes])

    def to_dict(self) -> dict[str, Any]:
        return {"title": self.title, "rows": self.rows, "notes": self.notes}

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        keys = [key for key in COLUMNS if any(row.get(key) is not None for row in self.rows)]
        rows = [[_cell(row.get(key), COLUMNS[key][1]) for key in keys] for row in self.rows]
        return keys, [[COLUMNS[key][0] for key in keys], *rows]


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return value if isinstance(value, str) else format(value, form)


def missed(sections: Mapping[str, Sequence[Table]]) -> list[str]:
    """One line per row that does not keep its bound."""
    return [
        f"{name}, {table.title}: "
        + ", ".join(str(row[key]) for key in ("data", "case", "weights", "threads") if key in row)
        + f" (bound {row['bound']:g})"
        for name, tables in sections.items()
        for table in tables
        for row in table.rows
        if row.get("kept") is False
    ]


def verdict(sections: Mapping[str, Sequence[Table]], bullet: str = "") -> str:
    """How many of the judged bounds are kept, and which are not."""
    rows = [row for tables in sections.values() for table in tables for row in table.rows]
    judged, offences = sum(row.get("kept") is not None for row in rows), missed(sections)
    lines = [f"{bullet}missed: {line}" for line in offences]
    return "\n".join([f"{judged - len(offences)} of {judged} judged bounds kept.", *lines])


def document(about: Mapping[str, Any], sections: Mapping[str, Sequence[Table]]) -> str:
    """All tables under the facts of the run, for docs/benchmarks.md."""
    facts = [f"- {key.replace('_', ' ')}: {_fact(value)}" for key, value in about.items()]
    parts = ["\n".join(facts), verdict(sections, "- ")]
    parts += [table.markdown() for tables in sections.values() for table in tables]
    return "\n\n".join(parts) + "\n"


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
