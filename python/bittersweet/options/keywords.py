"""Keywords that do not exist, but are what others call something: an error that names ours."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import ArgumentError

__all__ = ["refuse"]

_ELSEWHERE = {
    **dict.fromkeys(
        (
            "amount", "ratio", "pruning_ratio", "prune_ratio", "pruning_rate", "sparsity_ratio",
            "sparsity_level", "target_sparsity", "final_sparsity", "percentage", "fraction",
        ),
        "sparsity",
    ),
    **dict.fromkeys(("n", "count", "num", "topk"), "k"),
    **dict.fromkeys(("method", "importance", "criterion", "pruning_method", "score", "metric"), "scorer"),
    **dict.fromkeys(("granularity", "mask_structure", "structure", "pattern", "sparsity_type"), "scope"),
    **dict.fromkeys(("layers", "parameters", "include", "modules", "parameters_to_prune"), "targets"),
    **dict.fromkeys(("exclude", "skip", "ignored_layers", "ignored"), "ignore"),
    **dict.fromkeys(("opt", "optim", "optimizers"), "optimizer"),
    **dict.fromkeys(("scheduler", "pruning_schedule", "sparsity_schedule"), "schedule"),
    **dict.fromkeys(("random_state", "generator"), "seed"),
    **dict.fromkeys(("mask", "prune_mask"), "masks"),
    **dict.fromkeys(("min_tensor_sparsity", "min_sparsity_per_layer", "layer_sparsity"), "tensor_sparsity"),
    **dict.fromkeys(("frequency", "update_frequency", "every"), "events"),
}  # fmt: skip

_WHEN = ("begin", "begin_step", "end", "end_step", "events", "start_step", "start_epoch", "end_epoch")
_RAMP = "PolynomialDecay(0.0, 0.5, begin_step=100, end_step=1000, frequency=100)"
_BROUGHT = ("model", "optimizer")


def refuse(
    function: Callable[..., Any], given: Mapping[str, object], passed_on: Collection[str] = ()
) -> None:
    """Raises ArgumentError if `given`, what a function caught beside its own keywords, holds any.

    The message names the argument that is meant, where that can be told; among those that the function passes
    on to another one too.
    """
    for keyword in given:
        parameters = inspect.signature(function).parameters.values()
        accepted = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        accepted += [one for one in passed_on if one not in accepted]
        ours = _ELSEWHERE.get(keyword)
        if ours not in accepted:
            ours = next(iter(difflib.get_close_matches(keyword, accepted, n=1)), None)
        if keyword == "density":
            ours = "sparsity, which is 1 - density"
        means = _ELSEWHERE.get(keyword, keyword)
        if means in _WHEN and "schedule" in accepted and "events" not in accepted:
            ours = f"schedule, which says when: schedule={_RAMP}"
        if keyword in _BROUGHT and "events" in accepted:
            raise ArgumentError(
                f"{keyword}: {function.__name__} has no such argument; the trainer brings it. Leave it out"
            )
        if means == "sparsity" and "schedule" in accepted and "sparsity" not in accepted:
            ours = "schedule, which says how much and when: schedule=OneShot(0.5, step=100)"
        hint = f"the argument is {ours}" if ours else f"accepted: {', '.join(accepted)}"
        raise ArgumentError(f"{keyword}: {function.__name__} has no such argument; {hint}")
