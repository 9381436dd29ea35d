"""What two events say of one model, whoever decided."""

from __future__ import annotations

from typing import Any

SAID = (
    "requested_sparsity", "achieved_sparsity", "threshold", "k", "total", "pruned", "count_below",
    "count_equal", "churn", "per_tensor", "per_tensor_threshold", "v_below_eps", "v_zero", "nonfinite",
    "selector", "scorer", "scope", "at_bounds",
)  # fmt: skip


def require_equal_events(found: Any, expected: Any) -> None:
    """That two events say the same of the model, whoever made them."""
    for field in SAID:
        one, other = getattr(found, field), getattr(expected, field)
        assert one == other, (field, one, other)
    if found.empty_rows is not None:
        assert found.empty_rows == expected.empty_rows
