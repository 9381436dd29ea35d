"""The document as tables: for a terminal by rich if it is there, as aligned text, and as Markdown."""

from __future__ import annotations

import importlib
import importlib.util
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bittersweet.demo.plan import percent
from bittersweet.demo.report import Spread, aligned_table

_TIED = 0.01
"""From this surplus over the sparsity asked for, ties count as worth a remark."""

_ONE_SHOT_NOTE = (
    "Every scorer on the same frozen weights and Adam state of each seed, without training afterwards; best "
    "under scope global first. gradient, taylor and wanda take their inputs from calibration text."
)


@dataclass(frozen=True)
class Section:
    """A heading, a table whose first row is the head, and what to know about it."""

    title: str
    rows: list[list[str]]
    note: str


def sections(document: dict[str, Any]) -> list[Section]:
    """The tables of what is finished, in reading order."""
    found = [_one_shot(document, level) for level in document["one_shot"]["levels"]]
    found += [_training(document), _overlap(document)]
    return [section for section in found if len(section.rows) > 1]


def circumstances(document: dict[str, Any]) -> str:
    """What was run, on what and when, in a few sentences."""
    run, plan, text = document["run"], document["plan"], document["text"]
    dense = document["dense"]["held_out_loss"]
    loss = "none finished" if dense is None else _spread(dense)
    seeds = "one seed"
    if run["seeds"] > 1:
        up_to = "" if run["finished"] else "up to "
        seeds = f"mean ± sample standard deviation over {up_to}{run['seeds']} seeds"
    threads = "1 thread" if run["threads"] == 1 else f"{run['threads']} threads"
    blocks = "1 block" if plan["layers"] == 1 else f"{plan['layers']} blocks"
    state = "" if run["finished"] else " **Interrupted: this is what was finished.**"
    return (
        f"`{run['command']}`, {run['date']}, {run['cpu']}, {threads}, "
        f"{run['seconds']:.0f} s; bittersweet {run['bittersweet']}, torch {run['torch']}, Python "
        f"{run['python']}.{state} Byte-level GPT with {run['parameters']:,} parameters, of which "
        f"{run['eligible']:,} can be pruned ({blocks} of width {plan['width']}); "
        f"{plan['steps']} steps of {plan['batch'] * plan['context']:,} bytes; {text['source']}. Losses are "
        f"nats per byte on text that was never trained on, {seeds}. Dense: {loss}; byte frequencies alone: "
        f"{text['unigram_loss']:.3f}."
    )


def remarks(document: dict[str, Any]) -> list[str]:
    """What the tables do not say by themselves."""
    tied = [
        f"{row['scorer']} at {percent(row['sparsity'])}: {percent(row['achieved_at_or_below'])}"
        for row in document["one_shot"]["summary"]
        if (row["achieved_at_or_below"] or 0.0) > row["achieved"] + _TIED
    ]
    lines = [
        "A model this small, trained this briefly, shows that the tools work and where a score is wrong; it "
        "does not rank scorers for large models. Differences within the spread are no differences.",
        *_left_out(document),
    ]
    if tied:
        lines.append(
            "Ties: pruning every score at or below the threshold, as published code does, instead of exactly "
            f"the share asked for, would have pruned, under scope global: {'; '.join(tied)}."
        )
    return [*lines, *(f"The library warned: {note}" for note in document["notes"])]


def text(document: dict[str, Any]) -> str:
    """Everything as aligned plain text."""
    parts = [textwrap.fill(circumstances(document).replace("**", ""), 110)]
    for section in sections(document):
        parts += [section.title, aligned_table(section.rows), textwrap.fill(section.note, 110)]
    return _joined([*parts, _list(remarks(document), 110)])


def markdown(document: dict[str, Any]) -> str:
    """Everything as Markdown, to be pasted into documents."""
    parts = [textwrap.fill(circumstances(document), 118)]
    for section in sections(document):
        parts += [f"**{section.title}**", _markdown_table(section.rows), textwrap.fill(section.note, 118)]
    return _joined([*parts, _list(remarks(document), 118)])


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


def _list(lines: Sequence[str], width: int) -> str:
    return "\n".join(
        textwrap.fill(line, width, initial_indent="- ", subsequent_indent="  ") for line in lines
    )


def show(document: dict[str, Any]) -> None:
    """Prints everything to standard output: by rich where it is installed and this is a terminal."""
    if importlib.util.find_spec("rich") is None:
        print(text(document), flush=True)
        return
    rich_console, rich_table = importlib.import_module("rich.console"), importlib.import_module("rich.table")
    console = rich_console.Console(highlight=False, markup=False)
    if not console.is_terminal:
        print(text(document), flush=True)
        return
    console.print(circumstances(document).replace("**", ""))
    for section in sections(document):
        head, *rows = section.rows
        table = rich_table.Table()
        for position, cell in enumerate(head):
            table.add_column(cell, justify="right" if position else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        width = 1 + sum(3 + max(map(len, column)) for column in zip(*section.rows, strict=True))
        body = table if width <= console.width else aligned_table(section.rows)
        console.print("", section.title, body, sep="\n", soft_wrap=True)
        if section.note:
            console.print(section.note)
    console.print("", _list(remarks(document), console.width), sep="\n")


def _one_shot(document: dict[str, Any], level: float) -> Section:
    rows = [row for row in document["one_shot"]["summary"] if row["sparsity"] == level]
    scopes = list(dict.fromkeys(row["scope"] for row in rows))
    cells = {(row["scorer"], row["scope"]): row["held_out_loss"] for row in rows}
    order = sorted(
        dict.fromkeys(row["scorer"] for row in rows), key=lambda n: _rank(cells.get((n, "global")))
    )
    body = [[name, *(_spread(cells.get((name, scope))) for scope in scopes)] for name in order]
    first = level == document["one_shot"]["levels"][0]
    return Section(
        f"One-shot, {percent(level)} pruned: held-out loss by scope",
        [["scorer", *scopes], *body],
        _ONE_SHOT_NOTE if first else "",
    )


def _training(document: dict[str, Any]) -> Section:
    part = document["training"]
    scopes = {scorer["name"]: scorer["training_scope"] for scorer in document["scorers"]}
    body = [
        [
            row["scorer"],
            scopes[row["scorer"]],
            percent(row["achieved"]),
            _spread(row["held_out_loss"]),
            _spread(row["difference_to_dense"], "+"),
        ]
        for row in sorted(part["summary"], key=lambda row: _rank(row["held_out_loss"]))
    ]
    plan = document["plan"]
    return Section(
        f"During training, to {percent(part['sparsity'])}: held-out loss at the end",
        [["scorer", "scope", "pruned", "held-out loss", "vs dense"], *body],
        "Every run starts from the same initial weights and sees the same batches as the dense one of its "
        f"seed; PolynomialDecay, {plan['mask_events']} mask events from step {plan['begin_step']} to "
        f"{plan['ramp_end']} of {plan['steps']}; what is pruned stays pruned. gradient and taylor use the "
        "gradient of the step's own batch. bitter4 has its published scope and distribution "
        "(layer_adaptive), wanda its rows and norms measured anew at each event. RigL and SET are sparse "
        "from the first step (erk), drop by magnitude, and open as many places at each event.",
    )


def _overlap(document: dict[str, Any]) -> Section:
    part = document["overlap"]
    names = part["scorers"]
    body = [
        [f"{position + 1} {name}", *(f"{100 * value:.0f}" for value in row)]
        for position, (name, row) in enumerate(zip(names, part["mean"], strict=True))
    ]
    return Section(
        f"Overlap of the masks in %, {percent(part['sparsity'])} pruned, scope global",
        [["scorer", *(str(position + 1) for position in range(len(names)))], *body],
        "Jaccard index of the sets of kept weights (intersection by union), mean over seeds, one-shot. Two "
        f"unrelated masks have about {100 * part['by_chance']:.0f} %.",
    )


def _left_out(document: dict[str, Any]) -> list[str]:
    parts = {"one_shot": "one-shot", "training": "training"}
    lines = []
    for scorer in document["scorers"]:
        places: dict[str, list[str]] = {}
        for part, reason in scorer["left_out"].items():
            if reason is not None:
                places.setdefault(reason, []).append(parts[part])
        lines += [
            f"Left out of {' and '.join(where)}: {scorer['name']}: {reason}."
            for reason, where in places.items()
        ]
    others = [scorer for scorer in document["scorers"] if scorer["aliases"]]
    names = "; ".join(f"{' and '.join(scorer['aliases'])} as {scorer['name']}" for scorer in others)
    return [*lines, f"Other names of a score are shown once: {names}."] if names else lines


def _rank(loss: dict[str, Any] | None) -> float:
    """Sorting key: the mean, with what is missing or not a number last."""
    return loss["mean"] if loss is not None and not math.isnan(loss["mean"]) else math.inf


def _spread(values: dict[str, Any] | None, sign: str = "") -> str:
    return "-" if values is None else Spread(**values).text(sign)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], f"| --- |{' ---: |' * (len(rows[0]) - 1)}", *lines[1:]])
