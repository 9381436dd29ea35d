"""Keywords that do not exist, but are what others call something: an error that names ours."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

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
}  # fmt: skip


def refuse(function: str, given: Mapping[str, object], accepted: Collection[str]) -> None:
    """Raises ArgumentError if `given` holds a keyword, naming the argument of `function` that is meant.

    Args:
        function: Its name, for the message.
        given: Keywords that the function does not have.
        accepted: Those that it has.
    """
    for keyword in given:
        ours = _ELSEWHERE.get(keyword)
        if ours not in accepted:
            near = difflib.get_close_matches(keyword, accepted, n=1)
            ours = near[0] if near else None
        if keyword == "density":
            raise ArgumentError(f"density: {function} has no such argument; the argument is sparsity, 1 - density")
        hint = f"the argument is {ours}" if ours else f"accepted: {', '.join(accepted)}"
        raise ArgumentError(f"{keyword}: {function} has no such argument; {hint}")
