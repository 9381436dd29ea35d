"""Options of a `Pruner` that exclude each other, or an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ArgumentError
from ..optimizers.optimizers import WITHOUT_STATE, Optimizers
from ..options.scopes import resolve_scope
from ..options.scorers import TRACKED, ScorerCall
from ..options.selectors import resolve_selector
from ..steps.keeping import steppers
from .remembering import parameters_of, tracker_class

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..model.plan import PlanEntry
    from ..options.regrowth import Regrowth
    from .settings import Settings

__all__ = [
    "MOMENT_READS",
    "check_growth",
    "check_history",
    "check_hold",
    "check_ranges",
    "check_ranks",
    "require_inputs",
]

_IN_TRAINING = frozenset(("weight", "exp_avg", "exp_avg_sq", "grad", "step", "bias_correction1"))
MOMENT_READS = frozenset(("exp_avg", "exp_avg_sq"))


def check_growth(settings: Settings, growth: Regrowth) -> None:
    """Raises ArgumentError for options that exclude `growth`."""
    name = type(growth).__name__
    if settings.schedule is None:
        raise ArgumentError(
            f"regrow: {name} without a schedule, which says when. Pass one, such as ConstantSparsity(0.9, "
            "begin_step=100, end_step=1000, frequency=100); or leave regrow out, and start() makes masks "
            "that are held as they are"
        )
    scope = resolve_scope(settings.scope, "nearest", "error").text
    selector = resolve_selector(settings.selector)[0]
    most, ranges = settings.max_tensor_sparsity, settings.tensor_sparsity
    for argument, found, right, accepted in (
        ("scope", scope, scope in ("global", "tensor"), "'global', 'tensor'"),
        ("selector", selector, selector not in ("sampling", "streaming"), "'exact', 'histogram', 'kthvalue'"),
        ("ties", settings.ties, settings.ties in (None, "exact"), "None, 'exact'"),
        ("nonfinite", settings.nonfinite, settings.nonfinite == "error", "'error'"),
        ("max_tensor_sparsity", most, most is None, "None"),
        ("tensor_sparsity", ranges and dict(ranges.by_glob), ranges is None, "None"),
    ):
        if not right:
            raise ArgumentError(
                f"{argument}: {found!r} with regrow={name}, which counts exactly, by tensor or over all "
                f"tensors; accepted: {accepted}"
            )
    if settings.hold == "grads" and "grad" in growth.reads:
        raise ArgumentError(
            f"hold: 'grads' zeroes the gradients of pruned weights, by which {name} grows. Use hold='auto', "
            "or regrow=SET()"
        )
    for end in settings.ends.values():
        growth.require_end(end)


def check_hold(settings: Settings, optimizers: Optimizers) -> None:
    """Raises ArgumentError for a way of holding that these optimizers do not go with."""
    if settings.hold == "step":
        able = steppers(optimizers)
        others = [one for one in optimizers.inner if one not in able]
        if others or not able:
            found = type(others[0]).__name__ if others else "no optimizer"
            raise ArgumentError(
                f"hold: 'step' with {found}, which does not hold masks in its own step, or not with what "
                "is around it. Use bittersweet.optim.AdamW or Adam in its place (same arguments, same "
                "state), or hold='auto'"
            )
    if settings.hold != "grads":
        return
    if not optimizers:
        raise ArgumentError("hold: 'grads' masks gradients before optimizer.step(). Pass the optimizer")
    optimizers.require_elementwise()
    if (name := optimizers.spread()) is not None:
        raise ArgumentError(
            f"hold: 'grads' with {name}, where each rank steps some of the weights and sends them to the "
            "others. Use hold='weights'"
        )
    if not settings.mask_optimizer_state:
        raise ArgumentError(
            "hold: 'grads' with mask_optimizer_state=False: the moments left would move pruned weights "
            "off zero. Use mask_optimizer_state=True or hold='weights'"
        )
    if any(group.get("eps") == 0 for group in optimizers.groups().values()):
        raise ArgumentError(
            "hold: 'grads' with an optimizer whose eps is 0: it divides 0 by 0 for pruned weights. Use a "
            "positive eps or hold='weights'"
        )


def check_ranges(settings: Settings) -> None:
    """Raises ArgumentError for a schedule that ranges per tensor do not go with."""
    ranges = settings.tensor_sparsity
    if ranges is None:
        return
    if settings.schedule is None:
        raise ArgumentError(
            "tensor_sparsity: given without a schedule, so that no event would heed it. Pass a schedule"
        )
    if ranges.has_least and None in settings.goals.values():
        raise ArgumentError(
            f"tensor_sparsity: a lower share with {settings.schedule!r}, which does not say where it ends, "
            "so that nobody knows how to go towards it. Use a schedule that does (Schedule.goal), or "
            "ranges from 0"
        )


def check_history(settings: Settings, optimizers: Optimizers) -> None:
    """Raises ArgumentError if a scorer with a memory would be asked before it has one."""
    assert settings.schedule is not None
    if not optimizers:
        raise ArgumentError(
            f"optimizer: None, and scorer '{settings.call.name}' follows its steps. Pass the optimizer"
        )
    needed = tracker_class(settings.call.name).needed
    if settings.missing == "error" and settings.schedule.last_due(0, needed - 1):
        raise ArgumentError(
            f"schedule: {settings.schedule!r} is due before step {needed}, and scorer '{settings.call.name}' "
            f"needs {needed} steps before its first use. Begin later, or pass missing='skip'"
        )


def check_ranks(settings: Settings, targets: Iterable[PlanEntry], optimizers: Optimizers) -> None:
    """Raises ArgumentError for what several ranks cannot decide together."""
    selector = resolve_selector(settings.selector)[0]
    if settings.schedule is not None and selector != "exact":
        raise ArgumentError(
            f"selector: '{selector}' over ranks, which agree by exact counts; accepted: 'exact'"
        )
    if settings.call.name not in TRACKED or settings.schedule is None:
        return
    tracker = tracker_class(settings.call.name)
    if (name := optimizers.spread()) is not None and set(tracker.roles) & MOMENT_READS:
        raise ArgumentError(
            f"scorer: '{settings.call.name}' with {name}, which keeps the moments that it follows on other "
            "ranks. Use a scorer without a memory, or 'movement'"
        )
    for entry in targets:
        if entry.local_shape != entry.shape and "scores" not in settings.call.reads:
            raise ArgumentError(
                f"scorer: '{settings.call.name}' with '{entry.name}', of which each rank holds a part: its "
                "memory averages, at every step, a number of the whole tensor, and ranks exchange "
                "nothing between events. Use 'movement' or a scorer without a memory"
            )
        if entry.local_shape != entry.shape and parameters_of(settings.scorer, 0)["storage"] != "float32":
            raise ArgumentError(
                f"storage: 'bfloat16' with '{entry.name}', of which each rank holds a part: the parts would "
                "be rounded by the same random bits. Use storage='float32'"
            )


def require_inputs(
    call: ScorerCall,
    optimizers: Optimizers,
    given: frozenset[str] = frozenset(),
    *,
    over_ranks: bool = False,
) -> None:
    """Raises ArgumentError if the scorer reads what neither training, these optimizers nor `given` have."""
    foreign = sorted(call.reads - _IN_TRAINING - given)
    if foreign:
        raise ArgumentError(
            f"scorer: '{call.name}' reads {', '.join(foreign)}, which a training loop does not have. Pass "
            "input_norms=Calibrator(model).run(batches).norms for it"
            if foreign == ["input_norm"]
            else f"scorer: '{call.name}' reads {', '.join(foreign)}, which a training loop does not have. "
            "Use make_masks or prune_, which take it as an argument"
        )
    moments = sorted(call.reads & MOMENT_READS)
    if not moments:
        return
    if not optimizers:
        raise ArgumentError(
            f"optimizer: None, and scorer '{call.name}' reads {', '.join(moments)} of the optimizer. Pass "
            "the optimizer (of a Trainer: after create_optimizer()), or choose "
            f"{WITHOUT_STATE}"
        )
    optimizers.require_state(call.reads, call.name, over_ranks=over_ranks)
