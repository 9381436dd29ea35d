"""Pruning as a callback of the Trainer of transformers."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import ArgumentError, CheckpointError, Error
from ..extras import require
from ..options.scorers import Scorer
from ..training.pruner import Pruner
from ..training.report import PruneReport
from .recipe import Length, Recipe, numbers, release, restore

__all__ = ["BittersweetCallback"]

_FILE = "pruner.pt"
_log = logging.getLogger(__name__)
_TrainerCallback: Any = require("transformers", "BittersweetCallback").TrainerCallback


class BittersweetCallback(_TrainerCallback):  # type: ignore[misc]
    """Prunes what a Trainer trains: ``Trainer(..., callbacks=[BittersweetCallback(sparsity=0.5)])``.

    When training begins it makes a `Pruner`, attached to the optimizer. It writes the pruner's state into
    every checkpoint folder (``pruner.pt``, about one bit per weight) and goes on from there when a training
    is resumed, bit for bit. When training ends it takes the masks of the best checkpoint if
    ``load_best_model_at_end`` has loaded that, and finalises. The numbers of each mask event go through
    ``Trainer.log`` as ``pruning/sparsity``, ``pruning/threshold`` and so on, so that whatever the Trainer
    reports to gets them. A callback may be used for one training after the other; each gets a pruner of its
    own.

    Args:
        scorer: A name or an object, as in `Pruner`.
        sparsity: The share of the weights that is pruned in the end; or ``{glob: share}``, with a threshold
            for each glob of names, where others stay dense. None: nothing further is pruned (see
            `keep_zeros`).
        begin, end: When pruning begins and when it is done: a float is a share of the training (0.0 to 1.0),
            an integer an optimizer step, and text such as ``"2 epochs"`` what it says. Sparsity rises from
            one to the other by `PolynomialDecay`, steep first.
        events: At most this many mask events follow on the first one at `begin`.
        initial_sparsity: The share that is pruned at `begin`.
        schedule: A schedule in steps as in `Pruner`, in place of the five arguments above.
        keep_zeros: Whether the zeros that the model has when training begins are kept (`Pruner.from_zeros`).
        start: A scorer, such as ``"random"`` or ``"magnitude"``, by which the first masks are made before the
            first step (`Pruner.start`): with `initial_sparsity`, above 0, or what `schedule` begins with. For
            `RigL` and `SET`. None: there are none.
        options: Further arguments of `Pruner`: ``scope``, ``targets``, ``ignore``, ``hold``, ``regrow`` and
            so on; with `keep_zeros` the ``min_sparsity`` of `Pruner.from_zeros` too.

    Attributes:
        pruner: The pruner of the training that runs, or ran last; None before the first.
        report: What its `Pruner.finalize` returned; None until training has ended.

    Raises:
        MissingPackageError: transformers is not installed; when this module is imported.
        ArgumentError: An argument is out of range or unknown. What depends on model, optimizer and length of
            the training is refused when that begins, and so is a second callback of this kind.
        CheckpointError: When a resumed training begins, or the best model is loaded: its folder has no state
            of a pruner, or one of other settings.
    """

    def __init__(
        self,
        scorer: str | Scorer = "bitter7",
        sparsity: float | Mapping[str, float] | None = 0.5,
        *,
        begin: float | str = 0.1,
        end: float | str = 0.8,
        events: int = 20,
        initial_sparsity: float = 0.0,
        schedule: Any = None,
        keep_zeros: bool = False,
        start: str | Scorer | None = None,
        **options: Any,
    ) -> None:
        self._recipe = Recipe(
            type(self), scorer, sparsity=sparsity, begin=begin, end=end, events=events,
            initial_sparsity=initial_sparsity, schedule=schedule, keep_zeros=keep_zeros,
            start=start, options=options,
        )  # fmt: skip
        self.pruner: Pruner | None = None
        self.report: PruneReport | None = None
        self._trainer: Any = None
        self._told = 0

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any,
        optimizer: Any,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        release(self.pruner)
        self.report = None
        self._trainer, resumed = _calling()
        callbacks = self._trainer.callback_handler.callbacks
        alike = [one for one in callbacks if isinstance(one, BittersweetCallback)]
        if len(alike) > 1:
            raise ArgumentError(
                f"callbacks: {len(alike)} of {type(self).__name__}, of which the last one's state would take "
                f"the place of the others' in checkpoints ({_FILE}). Give one; sparsity={{glob: share}} and "
                "schedule={glob: schedule} tell tensors apart"
            )
        length, goes_on = _length(args, state, train_dataloader), state.global_step > 0
        self.pruner = self._recipe.pruner(model, optimizer, length, goes_on)
        if goes_on:
            self._load(Path(resumed or f"{args.output_dir}/checkpoint-{state.global_step}"))
        self._told = self.pruner.steps
        if state.is_world_process_zero:
            _log.info("%s", self.pruner.plan())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.pruner is not None
        history = self.pruner.history
        if not history or (history[-1].step or 0) <= self._told:
            return
        self._told = self.pruner.steps
        if state.is_world_process_zero:
            _log.info("%s", history[-1])
        wanted = control.should_log  # logging answers it, and the Trainer has not logged its own numbers yet
        self._trainer.log(numbers(history[-1]))
        control.should_log = wanted

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.pruner is not None
        found = self.pruner.full_state_dict()
        if args.should_save:
            require("torch", "a checkpoint").save(found, _saved(args, state) / _FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.pruner is not None
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._trainer.accelerator.wait_for_everyone()  # for the process that has just written it
            self._load(Path(state.best_model_checkpoint))
        self._trainer = None
        self.report = self.pruner.finalize()
        if state.is_world_process_zero:
            _log.info("%s", self.report)

    def _load(self, folder: Path) -> None:
        assert self.pruner is not None
        path = folder / _FILE
        if not path.is_file():
            release(self.pruner)
            raise CheckpointError(
                f"{folder} has no {_FILE}: it was saved without {type(self).__name__}, and nobody knows "
                "its masks. Resume from a checkpoint that was saved with it; or begin a new training from "
                "these weights (from_pretrained), with keep_zeros=True if their zeros are to stay"
            )
        restore(self.pruner, require("torch", "a checkpoint").load(path, weights_only=True), str(folder))


def _calling() -> tuple[Any, str | None]:
    """The Trainer that is calling, and the folder that it resumes from. A callback is handed neither, and
    there is no other way to the Trainer's log."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        trainer = frame.f_locals.get("self")
        if hasattr(trainer, "callback_handler"):
            return trainer, frame.f_locals.get("resume_from_checkpoint")
        frame = frame.f_back
    raise Error(
        "BittersweetCallback: no Trainer of transformers is calling it. Under other trainers use "
        "bittersweet.Pruner(...).attach()"
    )


def _length(args: Any, state: Any, loader: Any) -> Length:
    try:
        epoch = max(math.ceil(len(loader) / args.gradient_accumulation_steps), 1)
    except TypeError:
        epoch = None
    return Length(state.max_steps, epoch)


def _saved(args: Any, state: Any) -> Path:
    """The folder of the checkpoint that has just been saved. In a hyperparameter search each trial has
    folders of its own, below one whose name nobody is told."""
    name = f"checkpoint-{state.global_step}"
    if not state.is_hyper_param_search:
        return Path(args.output_dir, name)
    return max(Path(args.output_dir).glob(f"*/{name}"), key=lambda folder: folder.stat().st_mtime)
