"""The rows of `end_to_end.py` as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from measure import in_words

Row = dict[str, Any]


def rate(row: Row, threads: str) -> float:
    """Tokens, or sentences, a second."""
    work = "token" if "token" in row["seconds"] else "sentence"
    return 1.0 / float(row["seconds"][work][threads])


def model_megabytes(row: Row) -> float:
    """What is resident beyond a process that has only loaded torch and the package."""
    return float(row["resident_bytes"] - row["idle_bytes"]) / 1e6


def markdown(model: str, rows: Sequence[Row]) -> str:
    """A row a variant; in brackets, how many times as fast as the first one, which is dense."""
    work, things = ("token", "tokens") if "token" in rows[0]["seconds"] else ("sentence", "sentences")
    columns: list[tuple[str, Callable[[Row], str]]] = [(model, lambda row: str(row["case"]))]
    if "spearman" in rows[0]:
        columns += [
            ("accuracy", lambda row: f"{row['accuracy']:.1%}"),
            ("rank correlation", lambda row: f"{row['spearman']:.3f}"),
        ]
    counts = list(rows[0]["seconds"][work])
    columns += [(f"{things}/s, {in_words(int(count))}", _speed(rows, count)) for count in counts]
    if "prompt" in rows[0]["seconds"]:
        columns += [(f"prompt, ms, {in_words(int(count))}", _prompt(count)) for count in counts]
    columns += [
        ("resident, MB", lambda row: f"{row['resident_bytes'] / 1e6:.0f}"),
        ("of them the model's", lambda row: f"{model_megabytes(row):.0f}"),
        ("file, MB", lambda row: f"{row['file_bytes'] / 1e6:.0f}"),
    ]
    if "same_tokens" in rows[0]:
        columns.append(("same tokens", lambda row: f"{row['same_tokens']} of {row['tokens']}"))
    lines = [[head for head, _ in columns], ["---"] * len(columns)]
    lines += [[cell(row) for _, cell in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _speed(rows: Sequence[Row], threads: str) -> Callable[[Row], str]:
    dense = rate(rows[0], threads)
    return lambda row: f"{rate(row, threads):.1f} ({rate(row, threads) / dense:.2f})"


def _prompt(threads: str) -> Callable[[Row], str]:
    return lambda row: f"{row['seconds']['prompt'][threads] * 1e3:.0f}"
