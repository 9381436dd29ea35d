"""Pruning as a callback of Lightning's Trainer."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError, CheckpointError
from ..extras import require
from ..options.scorers import Scorer
from ..select.events import MaskEvent
from ..training.pruner import Pruner
from ..training.report import PruneReport
from .recipe import Length, Recipe, numbers, release, restore

__all__ = ["BittersweetPruning"]

_log = logging.getLogger(__name__)
_PACKAGE = "pytorch_lightning"
if importlib.util.find_spec("lightning") or not importlib.util.find_spec(_PACKAGE):
    _PACKAGE = "lightning.pytorch"
_callbacks: Any = require(f"{_PACKAGE}.callbacks", "BittersweetPruning")
_AVERAGING = tuple(
    getattr(_callbacks, name)
    for name in ("WeightAveraging", "StochasticWeightAveraging")
    if hasattr(_callbacks, name)
)

_OF_MODEL_PRUNING = {
    "amount": "sparsity is the share that is pruned in the end; a function of the epoch becomes schedule=, a "
    "function of the step",
    "apply_pruning": "begin and end say when masks are made",
    "make_pruning_permanent": "there is nothing to make permanent: weights stay plain parameters with zeros",
    "parameter_names": 'targets takes globs of names, such as targets="*.weight"',
    "parameters_to_prune": "targets takes names, globs, modules or module types",
    "prune_on_train_epoch_end": "masks are made after optimizer steps, events of them",
    "pruning_dim": "whole rows or columns are not pruned; scope='row' prunes the same share of each row",
    "pruning_fn": "scorer is 'magnitude' for l1_unstructured and 'random' for random_unstructured",
    "pruning_norm": "whole rows or columns are not pruned; scope='row' prunes the same share of each row",
    "resample_parameters": "weights are not made anew: give the Pruner of a new module these masks, by "
    "load_masks(callback.pruner.masks)",
    "use_global_unstructured": "scope is 'global' for True and 'tensor' for False",
    "use_lottery_ticket_hypothesis": "weights go back by callback.pruner.rewind_to(early_state)",
    "verbose": "the logger 'bittersweet' says it at level INFO, and callback.report prints it",
}


class BittersweetPruning(_callbacks.Callback):  # type: ignore[misc]
    """Prunes what a Trainer trains: ``Trainer(callbacks=[BittersweetPruning(sparsity=0.5)])``.

    When training begins it makes a `Pruner` of the module and of all optimizers (one threshold), attached to
    them. The pruner's state is in Lightning's checkpoints, and a resumed training goes on from there. At the
    end it finalises, after callbacks that average weights (EMAWeightAveraging, StochasticWeightAveraging)
    have put their average into the module, which gets its zeros too. The numbers of each mask event go to all
    loggers as ``pruning/sparsity``, ``pruning/threshold`` and so on; ``pruning/sparsity`` is in the progress
    bar and in ``trainer.callback_metrics``. A callback may be used for one training after the other; each
    gets a pruner of its own.

    Args:
        scorer: A name or an object, as in `Pruner`.
        sparsity: The share of the weights that is pruned in the end; or ``{glob: share}``, with a threshold
            for each glob of names, where others stay dense. None: nothing further is pruned (see
            `keep_zeros`).
        begin, end: When pruning begins and when it is done: a float is a share of the training (0.0 to 1.0),
            an integer an optimizer step, and text such as ``"2 epochs"`` what it says. Sparsity rises from
            one to the other by `PolynomialDecay`, steep first. With manual optimisation shares and epochs
            suppose that every optimizer steps once for each batch.
        events: At most this many mask events follow on the first one at `begin`.
        initial_sparsity: The share that is pruned at `begin`.
        schedule: A schedule in steps as in `Pruner`, in place of the five arguments above.
        keep_zeros: Whether the zeros that the module has when training begins are kept (`Pruner.from_zeros`).
        start: A scorer, such as ``"random"`` or ``"magnitude"``, by which the first masks are made before the
            first step (`Pruner.start`): with `initial_sparsity`, above 0, or what `schedule` begins with. For
            `RigL` and `SET`. None: there are none.
        options: Further arguments of `Pruner`: ``scope``, ``targets``, ``ignore``, ``hold``, ``regrow`` and
            so on; with `keep_zeros` the ``min_sparsity`` of `Pruner.from_zeros` too.

    Attributes:
        pruner: The pruner of the training that runs, or ran last; None before the first.
        report: What its `Pruner.finalize` returned; None until training has ended.

    Raises:
        MissingPackageError: Lightning is not installed; when this module is imported.
        ArgumentError: An argument is out of range or unknown; for one of Lightning's ModelPruning the message
            names the counterpart. What depends on module, optimizers and length of the training is refused
            when that begins.
        CheckpointError: When a resumed training begins: the checkpoint has no state of this callback, or one
            of other settings.
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
        for argument in options:
            if argument in _OF_MODEL_PRUNING:
                raise ArgumentError(
                    f"{argument}: an argument of Lightning's ModelPruning. Here {_OF_MODEL_PRUNING[argument]}"
                )
        self._recipe = Recipe(
            type(self), scorer, sparsity=sparsity, begin=begin, end=end, events=events,
            initial_sparsity=initial_sparsity, schedule=schedule, keep_zeros=keep_zeros,
            start=start, options=options,
        )  # fmt: skip
        self.pruner: Pruner | None = None
        self.report: PruneReport | None = None
        self._saved: dict[str, Any] = {}
        self._device: Any = None
        self._shown: MaskEvent | None = None
        self._told = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        release(self.pruner)
        self.report = None
        resumed, saved, self._saved = trainer.ckpt_path, self._saved, {}
        if resumed and not saved:
            raise CheckpointError(
                f"{resumed} has no state of {type(self).__name__}: it was saved without it, and nobody "
                "knows its masks. Resume from a checkpoint that was saved with it; or begin a new training "
                "from these weights (load_from_checkpoint), with keep_zeros=True if their zeros are to stay"
            )
        length = _length(trainer, 0 if resumed else trainer.global_step)
        self.pruner = self._recipe.pruner(pl_module, trainer.optimizers, length, bool(resumed))
        if resumed:
            restore(self.pruner, saved, str(resumed))
        self._device, self._shown = pl_module.device, None
        self._told = self.pruner.steps
        if trainer.is_global_zero:
            _log.info("%s", self.pruner.plan())

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        # StochasticWeightAveraging may have put its average there, to measure the statistics of batch norms.
        if batch_idx == 0 and _averages(trainer):
            self._apply(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        assert self.pruner is not None
        history = self.pruner.history
        if not history:
            return
        event = history[-1]
        if event is not self._shown:  # Lightning keeps what was logged last; a resumed one has lost it
            self._shown, now = event, event.achieved_sparsity
            pl_module.log("pruning/sparsity", now, prog_bar=True, logger=False, on_step=True, on_epoch=False)
        if (event.step or 0) <= self._told:
            return
        self._told = self.pruner.steps
        for logger in trainer.loggers:
            logger.log_metrics(numbers(event), step=trainer.global_step)
        if trainer.is_global_zero:
            _log.info("%s", event)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        # Not in on_train_end: whether callbacks that average weights run before this one there, nobody knows.
        if self.pruner is None or self.report is not None:  # there was nothing left to train
            return
        moved = pl_module.device != self._device
        if moved:  # to the host, as Lightning does in the end: the masks follow
            self.pruner.load_state_dict(self.pruner.state_dict())
        if _averages(trainer):
            self._apply(pl_module)
        self.report = self.pruner.finalize()
        if trainer.is_global_zero:
            _log.info("%s", self.report)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.pruner is None else self.pruner.full_state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    def _apply(self, module: Any) -> None:
        assert self.pruner is not None
        if self.pruner.masks.packed:
            self.pruner.apply_to(module)


def _averages(trainer: Any) -> bool:
    """Whether a callback puts an average of the weights into the module."""
    return any(isinstance(one, _AVERAGING) for one in trainer.callbacks)


def _length(trainer: Any, done: int) -> Length:
    """Of the training that begins, in steps of all optimizers; `done` steps of Lightning's came before it."""
    each = max(len(trainer.optimizers), 1)  # Lightning counts the steps of every one
    steps = trainer.estimated_stepping_batches
    if trainer.max_steps != -1:
        steps = min(steps, trainer.max_steps // each)
    epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    if any(isinstance(one, _callbacks.GradientAccumulationScheduler) for one in trainer.callbacks):
        steps = epoch = math.inf
    return Length(
        int(steps) - done // each if 0 <= steps < math.inf else None,
        math.ceil(epoch) if epoch < math.inf else None,
    )
