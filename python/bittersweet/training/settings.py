"""The options of a `Pruner`, checked before training starts rather than at the first event."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..distributed.rounds import agree
from ..errors import ArgumentError
from ..model.targets import require_rows
from ..optimizers.optimizers import STEP_READS, Optimizers
from ..options.budgets import Schedules
from ..options.custom_schedule import checked_schedule
from ..options.ranges import Ranges, checked_ranges
from ..options.regrowth import Regrowth, checked_regrowth
from ..options.schedules import Schedule
from ..options.scopes import Global, Scope, resolve_scope
from ..options.scorers import TRACKED, AdamVariance, Scorer, ScorerCall, check_seed, resolve_scorer
from ..options.selectors import Selector, resolve_selector
from ..options.values import as_bool, as_fraction, one_of
from ..select.choices import Options, checked_distribution, checked_nonfinite, checked_ties
from ..select.over_ranks import check
from ..select.regrowing import Growth, drawn, regrow_masks
from ..select.selection import select_masks
from ..steps.keeping import steppers
from ..tensors.mask_list import Masks
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs, Table
from .bounding import among
from .conflicts import MOMENT_READS, check_growth, check_history, check_hold, check_ranges, require_inputs
from .remembering import parameters_of, tracker_class

if TYPE_CHECKING:
    from ..distributed.members import Members
    from ..model.targets import PlanEntry
    from ..steps.ranks import Ranks


@dataclass(frozen=True)
class Settings:
    """Checked options. `call` is the resolved scorer, `norms_digest` stands for the input norms, if any."""

    scorer: str | Scorer
    schedule: Schedule | Schedules | None
    selector: str | Selector
    scope: str | Scope
    distribution: str | None
    max_tensor_sparsity: float | None
    tensor_sparsity: Ranges | None
    mask_optimizer_state: bool
    hold: str
    regrow: bool | Regrowth
    missing: str
    nonfinite: str
    ties: str | None
    seed: int
    norms_digest: str | None
    over_ranks: bool
    call: ScorerCall

    @classmethod
    def checked(cls, optimizers: Optimizers, scorer: str | Scorer, **options: Any) -> Settings:
        """Raises ArgumentError for a bad option or for two that exclude each other. `over_ranks`: several
        ranks decide together."""
        call = resolve_scorer(scorer, None, options["seed"])
        options.update(_plain(options), schedule=_schedule(options["schedule"]))
        if call.name == "bitter4" and options["distribution"] is None:
            options["scope"] = "tensor" if options["scope"] == "global" else options["scope"]
            options["distribution"] = None if options["scope"] == Global() else "layer_adaptive"
        settings = cls(scorer=scorer, call=call, **options)
        settings._check_schedule()
        if settings.growth is not None:
            check_growth(settings, settings.growth)
        check_ranges(settings)
        if settings.schedule is not None and call.name in TRACKED:
            check_history(settings, optimizers)
        settings.check_optimizers(optimizers)
        if settings.norms_digest is not None and "input_norm" not in call.reads:
            raise ArgumentError(f"input_norms: given, and scorer '{call.name}' does not read them")
        settings._rehearse()
        return settings

    def check_optimizers(self, optimizers: Optimizers) -> None:
        """Raises ArgumentError for optimizers that these options do not go with."""
        call = self.call
        if self.schedule is not None:
            if call.name in TRACKED:
                brought = call.reads - {"modifier", "scores"}
                call = call._replace(reads=brought | set(tracker_class(call.name).roles))
            norms_given = self.norms_digest is not None
            given = frozenset(("input_norm",)) if norms_given else frozenset()
            require_inputs(call, optimizers, given, over_ranks=self.over_ranks)
        check_hold(self, optimizers)

    def select(
        self,
        inputs: list[ScoreInputs],
        sparsity: float,
        sync: bool = True,
        table: Table | None = None,
        made: tuple[list[Mask], Any] | None = None,
        members: Members | None = None,
        said: Mapping[str, Any] | None = None,
        step: int = 0,
        glob: str = "",
    ) -> Masks:
        """New masks for `inputs`, by these options, at a step; with those of a glob of the schedule, or all
        (""). The others are those of `select_masks`."""
        options = self.options(sparsity, sync, glob)
        if (growth := self._growth(step, glob)) is not None:
            return Masks(*regrow_masks(inputs, options, growth, table, members, said))
        _, masks, event = select_masks(inputs, options, (), table, made, members, said)
        return Masks(masks, event)

    def options(self, sparsity: float, sync: bool = True, glob: str = "") -> Options:
        """These options as the arguments of `make_masks`."""
        ranges, goal = self.tensor_sparsity, self.goals.get(glob)
        if ranges is not None and goal is not None:
            ranges = ranges.towards(goal[1])
        return Options(
            sparsity=sparsity,
            k=None,
            scope=self.scope,
            distribution=self.distribution,
            rounding="nearest",
            remainder="error",
            scorer=self.scorer,
            selector=self.selector,
            ties=self.ties,
            nonfinite=self.nonfinite,
            seed=self.seed,
            eps=None,
            regrow=self.regrow is True,
            max_tensor_sparsity=self.max_tensor_sparsity,
            tensor_sparsity=ranges,
            sync=sync,
        )

    def check_shapes(self, targets: Iterable[PlanEntry]) -> None:
        """Raises ShapeError if an N:M scope does not divide the inputs of a target, and ArgumentError if the
        scope needs rows that nobody knows."""
        scope = resolve_scope(self.scope, "nearest", "error")
        targets = list(targets)
        require_rows(targets, scope.text)
        if scope.fixed_sparsity is None:
            return
        alone = self._without_names()
        for entry in targets:
            alone.select([self._stand_in(entry.one_row, entry.name, entry.in_dim)], 0.0)

    def to_config(self) -> dict[str, Any]:
        """What must agree for a saved run to go on as if it had not stopped, as plain values."""
        name, _, q, seed = self.call.spec
        if name == AdamVariance.name and q is None:
            q = AdamVariance().q
        eps = None if self.call.eps is None else float(np.float32(self.call.eps))  # as the formula uses it
        tracked = parameters_of(self.scorer, self.seed)
        tracked.pop("path", None)  # where a snapshot lies is no part of what is computed
        if tracked.get("storage") == "float32":
            del tracked["storage"]  # as releases that knew no other saved it
        selector: dict[str, Any] = dict(
            zip(
                ("name", "fraction", "verify", "tolerance", "by"),
                resolve_selector(self.selector),
                strict=True,
            )
        )
        if selector["name"] != "sampling" or selector["by"] == "element":
            del selector["by"]  # as releases that knew no other saved it
        scope = resolve_scope(self.scope, "nearest", "error")
        given: dict[str, Any] = {} if self.norms_digest is None else {"input_norms": self.norms_digest}
        if self.tensor_sparsity is not None:
            given["tensor_sparsity"] = self.tensor_sparsity.to_config()
        return {
            **given,
            "scorer": {"name": name, "eps": eps, "q": q, "seed": seed, **tracked},
            "schedule": None if self.schedule is None else self.schedule.to_config(),
            "selector": selector,
            "scope": {"name": scope.text, "rounding": scope.rounding, "remainder": scope.remainder},
            "distribution": self.distribution,
            "max_tensor_sparsity": self.max_tensor_sparsity,
            "mask_optimizer_state": self.mask_optimizer_state,
            "hold": "grads" if self.hold == "grads" else "weights",  # "auto" and "step" give the same bits
            "regrow": self.growth.to_config() if self.growth is not None else self.regrow,
            "missing": self.missing,
            "nonfinite": self.nonfinite,
            "ties": self.ties,
            "seed": self.seed,
        }

    def describe(self, optimizers: Optimizers) -> dict[str, str]:
        """The settings as text, for plans and reports."""
        eps = "" if self.call.eps is None else f" (eps={self.call.eps:g})"
        scope = resolve_scope(self.scope, "nearest", "error").text
        held = "gradients" if self.hold == "grads" else optimizers.held(self.mask_optimizer_state)
        inside = steppers(optimizers, self.hold in ("auto", "step"))
        if inside:
            names = ", ".join(dict.fromkeys(type(one).__name__ for one in inside))
            held += f", within the step of {names}"
        text = {"between events": f"masks are held on {held}"}
        if self.schedule is None:
            return {"schedule": "none: the masks that it is given are held", **text}
        return {
            "scorer": f"{self.call.name}{eps}",
            "selector": resolve_selector(self.selector)[0],
            "scope": scope if self.distribution is None else f"{scope}, {self.distribution}",
            "schedule": repr(self.schedule),
            **({} if self.growth is None else {"regrow": repr(self.growth)}),
            **({} if self.tensor_sparsity is None else {"tensor_sparsity": str(self.tensor_sparsity)}),
            **text,
        }

    @property
    def growth(self) -> Regrowth | None:
        """What grows weights by another score; None where nothing does."""
        return self.regrow if isinstance(self.regrow, Regrowth) else None

    @property
    def reads(self) -> frozenset[str]:
        """What an event reads of every target."""
        return self.call.reads if self.growth is None else self.call.reads | self.growth.reads

    def _growth(self, step: int, glob: str) -> Growth | None:
        growth = self.growth
        if growth is None:
            return None
        own = getattr(growth, "seed", None)
        seed = drawn(self.seed if own is None else own, step, zlib.crc32(glob.encode()))
        fraction = growth.fraction(step, self.ends[glob])
        return Growth(fraction, growth.grows_by, seed, growth.allow_same)

    @property
    def ends(self) -> dict[str, int | None]:
        """The last due step by glob ("": of all targets); None where the schedule names none."""
        if isinstance(self.schedule, Schedules):
            return {glob: schedule.last_step for glob, schedule in self.schedule.given.items()}
        return {} if self.schedule is None else {"": self.schedule.last_step}

    @property
    def reads_state(self) -> bool:
        """Whether events read what optimizers keep."""
        return self.schedule is not None and bool(self.call.reads & (MOMENT_READS | STEP_READS))

    def agreement(self) -> dict[str, str]:
        """What all ranks of a decision must have alike, as text by what it is called."""
        config = self.to_config()
        return {key: repr(value) for key, value in {"seed": config["seed"], **config}.items()}

    def among(self, names: Mapping[str, Sequence[str]], numels: Mapping[str, int]) -> Settings:
        """These options, with ranges for the targets: their names with aliases, and their sizes.

        Raises:
            ArgumentError: A glob of tensor_sparsity meets none that is scheduled, or the ranges do not allow
                what the schedule ends at.
        """
        return replace(self, tensor_sparsity=among(self.tensor_sparsity, self.schedule, names, numels))

    def agree(self, ranks: Ranks) -> Settings:
        """These options for the targets of all ranks. Raises, on all of them, what they would disagree about
        at an event. Collective."""
        agree(ranks.group, self.agreement())
        if not ranks.members.names:
            raise ArgumentError(
                "targets: no rank has anything to prune. Change targets, ignore or the optimizer"
            )
        if isinstance(self.schedule, Schedules):
            ranks.groups(self.schedule)
        members = ranks.members
        settings = self.among(ranks.aliases(), dict(zip(members.names, members.numels, strict=True)))
        if self.schedule is not None:
            check(members, settings.options(0.0))
            if self.growth is not None:
                check(members, replace(settings.options(0.0), scorer=self.growth.grows_by))
        return settings

    @property
    def goals(self) -> dict[str, tuple[int, float] | None]:
        """Where the schedule ends: its last step and sparsity, by glob ("" for one of all targets); None if
        only asking would tell. Empty without a schedule."""
        if isinstance(self.schedule, Schedules):
            return self.schedule.goals
        return {} if self.schedule is None else {"": self.schedule.goal}

    def _check_schedule(self) -> None:
        goals = [goal for goal in self.goals.values() if goal is not None]
        if goals and all(step < 1 for step, _ in goals) and len(goals) == len(self.goals):
            raise ArgumentError(f"schedule: {self.schedule!r} can never fire. Steps are counted from 1")
        fixed = resolve_scope(self.scope, "nearest", "error").fixed_sparsity
        most = max((sparsity for _, sparsity in goals), default=0.0)
        if fixed is not None and most > fixed:
            raise ArgumentError(
                f"schedule: it ends at sparsity {most:g}, and scope "
                f"'{resolve_scope(self.scope, 'nearest', 'error').text}' prunes at most {fixed:g}. End the "
                "schedule there"
            )

    def _rehearse(self) -> None:
        """Runs the selection once on a toy tensor, so that options which do not go together are refused
        now."""
        scope = resolve_scope(self.scope, "nearest", "error")
        width = int(scope.text.partition(":")[2]) if scope.fixed_sparsity is not None else 4
        glob = next(iter(self.ends), "")
        self._without_names().select([self._stand_in((1, width), "rehearsal", None)], 0.0, glob=glob)

    def _without_names(self) -> Settings:
        """These options for a tensor of another name than the targets'."""
        ranges = self.tensor_sparsity
        return self if ranges is None else replace(self, tensor_sparsity=replace(ranges, by_name={}))

    def _stand_in(self, shape: tuple[int, ...], name: str, in_dim: int | None) -> ScoreInputs:
        ones = np.ones(shape, dtype=np.float32)
        return ScoreInputs(
            ones,
            exp_avg=ones,
            exp_avg_sq=ones,
            grad=ones,
            input_norm=ones.reshape(-1),
            scores=ones,
            modifier=1.0,
            in_dim=in_dim,
            step=1,
            name=name,
        )


def _schedule(given: Any) -> Schedule | Schedules | None:
    if given is None:
        return None
    return Schedules(given) if isinstance(given, Mapping) else checked_schedule(given)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are words, flags and numbers, as plain values: a checkpoint holds them."""
    most = options["max_tensor_sparsity"]
    return {
        "hold": one_of("hold", options["hold"], ("auto", "step", "weights", "grads")),
        "missing": one_of("missing", options["missing"], ("error", "skip")),
        "mask_optimizer_state": as_bool("mask_optimizer_state", options["mask_optimizer_state"]),
        "regrow": checked_regrowth(options["regrow"]),
        "max_tensor_sparsity": None if most is None else as_fraction("max_tensor_sparsity", most),
        "tensor_sparsity": checked_ranges(options["tensor_sparsity"]),
        "distribution": checked_distribution(options["distribution"]),
        "nonfinite": checked_nonfinite(options["nonfinite"]),
        "ties": checked_ties(options["ties"]),
        "seed": check_seed(options["seed"]),
    }
