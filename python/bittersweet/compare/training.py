"""The same scorers during training: equal initial weights, batches, schedule and steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

import bittersweet
from bittersweet.compare.calibration import batches, input_norms
from bittersweet.compare.catalogue import Entry
from bittersweet.compare.inputs import score_inputs
from bittersweet.demo.plan import Arm, Plan
from bittersweet.demo.progress import Progress
from bittersweet.demo.train import ArmResult, Data, Stepper, Trainer, advance, check_pruned

_ROLES = ("weight", "exp_avg", "exp_avg_sq")


class WandaPruner:
    """Prunes by WANDA per output row at the events of `schedule`, with norms measured anew at each.

    Norms go stale as the model learns, so that every event measures them again on `windows` of calibration
    text, which `Pruner` does not. The rest is as there: pruned weights stay pruned, and are held at 0 with
    their moments.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: bittersweet.PolynomialDecay,
        windows: Tensor,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._schedule = schedule
        self._windows = windows
        self._step = 0
        self._masks: dict[str, bittersweet.Mask] = {}

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The masks now, by parameter name: torch.bool, True = keep."""
        return {name: mask.bool() for name, mask in self._masks.items()}

    def step(self) -> bittersweet.MaskEvent | None:
        """Counts one optimizer step: makes masks if they are due, and holds those there are."""
        self._step += 1
        items = score_inputs(self._model, self._optimizer)
        due, sparsity = self._schedule(self._step)
        event = None
        if due:
            norms = input_norms(self._model, batches(self._windows))
            for item in items:
                item.input_norm = norms[str(item.name)]
                item.mask = self._masks.get(str(item.name))
            made = bittersweet.make_masks(items, sparsity=sparsity, scope="row", scorer="wanda")
            self._masks = {mask.name: mask for mask in made}
            assert made.event is not None
            event = replace(made.event, step=self._step)
        if self._masks:
            bittersweet.apply_masks_(items, list(self._masks.values()), roles=_ROLES)
        return event


def train_pruned(
    plan: Plan, data: Data, seed: int, entry: Entry, sparsity: float, windows: Tensor, progress: Progress
) -> ArmResult:
    """Trains from the initial weights of `seed`, pruning to `sparsity`; returns what was measured.

    Raises `CheckFailed` when a pruned weight is not exactly 0 or the number of pruned weights is wrong;
    `bittersweet.Error` when the library refuses the scorer.
    """
    trainer = Trainer(plan, data, seed)
    schedule = bittersweet.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=sparsity,
        begin_step=plan.begin_step,
        end_step=plan.ramp_end,
        power=3,
        frequency=plan.frequency,
    )
    model, optimizer = trainer.model, trainer.optimizer
    pruner: Stepper
    if entry.name == "wanda":
        pruner = WandaPruner(model, optimizer, schedule, windows)
    elif entry.grows:
        pruner = _growing(plan, trainer, seed, entry.name, sparsity)
    else:
        pruner = bittersweet.Pruner(model, optimizer, scorer=entry.name, schedule=schedule, seed=seed)
    result = ArmResult(Arm(entry.name, sparsity), seed)
    progress.begin(f"seed {seed} · {result.arm.name}")
    advance(trainer, result, 1, plan.steps, progress, pruner)
    check_pruned(pruner, trainer, result, wanted=result.events[-1]["k"] if entry.scope == "row" else None)
    return result


def _growing(plan: Plan, trainer: Trainer, seed: int, name: str, sparsity: float) -> bittersweet.Pruner:
    """As the papers have it: sparse from the first step, Erdos-Renyi-Kernel, weights dropped by magnitude.
    The first event of the schedule of the others prunes nothing, and is left out."""
    schedule = bittersweet.ConstantSparsity(
        sparsity, plan.begin_step + plan.frequency, plan.ramp_end, plan.frequency
    )
    pruner = bittersweet.Pruner(
        trainer.model,
        trainer.optimizer,
        scorer="magnitude",
        schedule=schedule,
        scope="tensor",
        distribution="erk",
        regrow={"RigL": bittersweet.RigL, "SET": bittersweet.SET}[name](),
        seed=seed,
    )
    pruner.start()
    return pruner
