"""Options of a `Pruner` that exclude each other, or an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ArgumentError
from ..options.scopes import resolve_scope
from ..options.selectors import resolve_selector
from ..steps.keeping import steppers

if TYPE_CHECKING:
    from ..optimizers.optimizers import Optimizers
    from ..options.regrowth import Regrowth
    from .settings import Settings

__all__ = ["check_growth", "check_hold"]


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
    most = settings.max_tensor_sparsity
    for argument, found, right, accepted in (
        ("scope", scope, scope in ("global", "tensor"), "'global', 'tensor'"),
        ("selector", selector, selector not in ("sampling", "streaming"), "'exact', 'histogram', 'kthvalue'"),
        ("ties", settings.ties, settings.ties in (None, "exact"), "None, 'exact'"),
        ("nonfinite", settings.nonfinite, settings.nonfinite == "error", "'error'"),
        ("max_tensor_sparsity", most, most is None, "None"),
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
