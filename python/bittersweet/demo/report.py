"""From the measurements of the arms to a table, remarks, and the two data files."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bittersweet.demo.plan import Arm, Plan, percent

if TYPE_CHECKING:
    from bittersweet.demo.text import Corpus
    from bittersweet.demo.train import ArmResult


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation, lowest and highest over seeds; one seed has no deviation."""

    mean: float
    deviation: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, min(values), max(values))

    def text(self, sign: str = "") -> str:
        mean = f"{self.mean:{sign}.4f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.4f}"


@dataclass(frozen=True)
class Summary:
    """One arm over all seeds.

    Shares compare wall time in `pruner.step()` with wall time in forward, backward, clipping and optimizer
    over the same steps; they are None for the dense arm. `hold` is that of steps without an event: the masks
    themselves are held in the optimizer's step.
    """

    arm: Arm
    achieved: float
    held_out_loss: Spread
    difference_to_dense: Spread
    ms_per_step: float
    ms_per_event: float | None = None
    ms_per_hold: float | None = None
    event_share: float | None = None
    hold_share: float | None = None
    v_below_eps: float | None = None

    @property
    def overhead(self) -> float | None:
        if self.event_share is None or self.hold_share is None:
            return None
        return self.event_share + self.hold_share


def summarize(results: Sequence[ArmResult]) -> list[Summary]:
    """One `Summary` per arm, in the order of first appearance; differences are taken within each seed."""
    dense = {result.seed: result.held_out_loss for result in results if result.arm.scorer is None}
    arms = list(dict.fromkeys(result.arm for result in results))
    return [_summary(arm, [result for result in results if result.arm == arm], dense) for arm in arms]


def _summary(arm: Arm, runs: list[ArmResult], dense: dict[int, float]) -> Summary:
    step_ms = [value for run in runs for value in run.step_ms]
    event_ms = [value for run in runs for value in run.event_ms]
    hold_ms = [value for run in runs for value in run.hold_ms]
    below = [event["v_below_eps"] for run in runs for event in run.events if event["v_below_eps"] is not None]
    pruned = arm.scorer is not None
    return Summary(
        arm=arm,
        achieved=statistics.fmean(run.achieved for run in runs),
        held_out_loss=Spread.of([run.held_out_loss for run in runs]),
        difference_to_dense=Spread.of([run.held_out_loss - dense[run.seed] for run in runs]),
        ms_per_step=statistics.median(step_ms),
        ms_per_event=statistics.median(event_ms) if event_ms else None,
        ms_per_hold=statistics.median(hold_ms) if hold_ms else None,
        event_share=sum(event_ms) / sum(step_ms) if pruned else None,
        hold_share=sum(hold_ms) / sum(step_ms) if pruned else None,
        v_below_eps=max(below) if below else None,
    )


_COLUMNS = ("arm", "sparsity", "achieved", "held-out loss", "vs dense", "ms/step", "ms/event", "overhead")


def table(summaries: Sequence[Summary]) -> str:
    """The summaries as aligned text; losses in nats per byte."""
    return aligned_table([_COLUMNS, *(_row(summary) for summary in summaries)])


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first row is the head, the first column is flush left, the rest right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = zip(row[1:], widths[1:], strict=True)
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in cells)]


def _row(summary: Summary) -> tuple[str, ...]:
    loss = summary.held_out_loss.text()
    if summary.ms_per_event is None or summary.overhead is None:
        return ("dense", "-", "-", loss, "-", f"{summary.ms_per_step:.1f}", "-", "-")
    return (
        str(summary.arm.scorer),
        percent(summary.arm.sparsity),
        f"{100 * summary.achieved:.4f} %",
        loss,
        summary.difference_to_dense.text("+"),
        f"{summary.ms_per_step:.1f}",
        f"{summary.ms_per_event:.2f}",
        f"{100 * summary.overhead:.2f} %",
    )


def remarks(
    results: Sequence[ArmResult], summaries: Sequence[Summary], plan: Plan, unigram_loss: float
) -> list[str]:
    """What was checked, and what the table does and does not say."""
    shares = [
        (s.event_share, s.hold_share)
        for s in summaries
        if s.event_share is not None and s.hold_share is not None
    ]
    events, holding = (100 * statistics.fmean(share) for share in zip(*shares, strict=True))
    eligible = max(result.eligible for result in results)
    return [
        "Checked in every pruned arm: each weight that a mask removed is exactly 0, and exactly "
        f"floor(S * n + 0.5) of the n = {eligible:,} Linear weights are removed.",
        "Losses are nats per byte on text that was never trained on; byte frequencies alone give "
        f"{unigram_loss:.3f}. " + _spread_remark(len({result.seed for result in results})),
        "ms/event is the median wall time of pruner.step() when it changes the masks. Overhead is all wall "
        "time in pruner.step() as a share of the training time without it, over the "
        f"{plan.steps - plan.begin_step} steps after the dense part: {events:.2f} % for mask events and "
        f"{holding:.2f} % on every other step (mean over the pruned arms). The masks are held in "
        "bittersweet.optim.AdamW's own step, which is part of the training time; so are events made in it.",
        "A model this small, trained this briefly, shows that the tools work; it does not rank scorers for "
        "large models. Zeros scattered over a matrix do not make inference faster by themselves.",
    ]


def _spread_remark(seeds: int) -> str:
    if seeds > 1:
        return f"Mean ± sample standard deviation over {seeds} seeds; differences are taken within each seed."
    return "One seed: a gap of a few hundredths may well be chance; --seeds 3 measures the spread."


def write_files(
    folder: Path,
    results: Sequence[ArmResult],
    summaries: Sequence[Summary],
    plan: Plan,
    corpus: Corpus,
    run: dict[str, Any],
) -> list[Path]:
    """Writes results.json and events.jsonl into `folder`; returns their paths. `run` says how it was run."""
    document = {
        **circumstances(run, plan, corpus),
        "arms": [{**asdict(summary), "overhead": summary.overhead} for summary in summaries],
        "runs": [run_record(result) for result in results],
    }
    table_path, events_path = folder / "results.json", folder / "events.jsonl"
    table_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    with events_path.open("w", encoding="utf-8") as stream:
        for result in results:
            for event in result.events:
                arm = {"seed": result.seed, "scorer": result.arm.scorer, "sparsity": result.arm.sparsity}
                stream.write(json.dumps({**arm, **event}) + "\n")
    return [table_path, events_path]


def circumstances(run: dict[str, Any], plan: Plan, corpus: Corpus) -> dict[str, Any]:
    """How it was run, by which plan and on which text, as plain values."""
    return {
        "run": {**run, "python": platform.python_version(), "machine": platform.machine()},
        "plan": {**asdict(plan), "mask_events": plan.events},
        "text": {
            "source": corpus.source,
            "sha256": corpus.sha256,
            "train_bytes": len(corpus.train),
            "held_out_bytes": len(corpus.held_out),
            "unigram_loss": corpus.unigram_loss,
        },
    }


def run_record(result: ArmResult) -> dict[str, Any]:
    """One arm of one seed as plain values."""
    return {
        "arm": result.arm.name,
        "scorer": result.arm.scorer,
        "sparsity": result.arm.sparsity,
        "seed": result.seed,
        "held_out_loss": result.held_out_loss,
        "eligible_weights": result.eligible,
        "pruned_weights": result.pruned,
        "held_out_curve": result.curve,
        "sparsity_ramp": [(event["train_step"], event["achieved_sparsity"]) for event in result.events],
        "per_tensor_sparsity": result.per_tensor,
        "step_seconds": sum(result.step_ms) / 1e3,
        "event_seconds": sum(result.event_ms) / 1e3,
        "hold_seconds": sum(result.hold_ms) / 1e3,
    }
