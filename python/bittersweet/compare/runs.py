"""Runs the comparison seed by seed and collects what is finished, so that an interruption loses one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bittersweet import Error
from bittersweet.compare import calibration, histories
from bittersweet.compare.catalogue import Entry
from bittersweet.compare.oneshot import EVALUATION_UNITS, OneShotResult, combinations, overlaps, score_frozen
from bittersweet.compare.training import train_pruned
from bittersweet.demo.plan import Arm, Plan
from bittersweet.demo.progress import Progress
from bittersweet.demo.text import Corpus
from bittersweet.demo.train import ArmResult, Data, Trainer, advance, spaced_windows

_LINES = 40


@dataclass(frozen=True)
class Request:
    """A checked request. Overlaps are taken at the first of `levels`."""

    plan: Plan
    scored: Sequence[Entry]
    levels: Sequence[float]
    train_sparsity: float
    seeds: int
    calibration_windows: int

    @property
    def one_shot(self) -> list[Entry]:
        return [entry for entry in self.scored if entry.not_one_shot is None]

    @property
    def in_training(self) -> list[Entry]:
        return [entry for entry in self.scored if entry.not_in_training is None]

    @property
    def units(self) -> int:
        """The whole work in training steps, for the progress bar."""
        evaluations = len(self.one_shot) * len(combinations(self.levels))
        steps = self.plan.steps * (1 + len(self.in_training))
        return self.seeds * (steps + EVALUATION_UNITS * evaluations)


@dataclass
class Findings:
    """Everything measured so far. `failures` names scorers that the library refused, with its words."""

    dense: list[ArmResult] = field(default_factory=list)
    one_shot: list[OneShotResult] = field(default_factory=list)
    overlap: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    training: list[ArmResult] = field(default_factory=list)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """By part (``"one_shot"``, ``"training"``) and scorer."""


def compare(
    request: Request,
    corpus: Corpus,
    findings: Findings,
    say: Callable[[str], None],
    saved: Callable[[], object],
) -> None:
    """Fills `findings`; calls `saved` whenever a piece is finished. Raises what `train_pruned` raises."""
    with Progress("", request.units, say, lines=_LINES) as progress:
        for seed in range(request.seeds):
            _run_seed(request, corpus, seed, findings, progress, saved)


def _run_seed(
    request: Request,
    corpus: Corpus,
    seed: int,
    findings: Findings,
    progress: Progress,
    saved: Callable[[], object],
) -> None:
    plan = request.plan
    corpus, held_back = calibration.hold_back(corpus)
    data = Data(corpus, plan, seed)
    windows = spaced_windows(held_back, request.calibration_windows, plan.context)
    trainer = Trainer(plan, data, seed)
    recorded = {
        entry.name: histories.MAKERS[entry.name](trainer.model, trainer.optimizer)
        for entry in request.one_shot
        if entry.name in histories.MAKERS
    }
    dense = ArmResult(Arm(None, 0.0), seed)
    progress.begin(f"seed {seed} · dense")
    advance(trainer, dense, 1, plan.steps, progress, on_step=[one.on_step for one in recorded.values()])
    columns = {
        "grad": calibration.gradients(trainer.model, windows),
        "input_norm": calibration.input_norms(trainer.model, calibration.batches(windows)),
    }
    frozen = score_frozen(trainer, request.one_shot, request.levels, seed, columns, recorded, progress)
    findings.dense.append(dense)
    findings.one_shot += frozen.results
    findings.failures |= {("one_shot", name): words for name, words in frozen.failures.items()}
    for first, second, value in overlaps(frozen.kept):
        findings.overlap.setdefault((first, second), []).append(value)
    saved()
    for entry in request.in_training:
        try:
            findings.training.append(
                train_pruned(plan, data, seed, entry, request.train_sparsity, windows, progress)
            )
        except Error as refusal:
            findings.failures["training", entry.name] = str(refusal)
        saved()
