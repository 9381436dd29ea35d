"""The keywords of `pruning`, by name, for those who check types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ..options.scopes import Scope
    from ..options.scorers import Scorer
    from ..options.selectors import Selector

__all__ = ["ModelOptions", "TensorOptions"]


class _Common(TypedDict, total=False):
    k: int | None
    scope: str | Scope
    distribution: str | None
    rounding: str
    remainder: str
    scorer: str | Scorer | None
    selector: str | Selector
    ties: str | None
    nonfinite: str
    seed: int
    eps: float | None
    regrow: bool
    max_tensor_sparsity: float | None
    tensor_sparsity: Mapping[str, float | tuple[float, float]] | None
    sync: bool
    process_group: Any


class TensorOptions(_Common, total=False):
    """What `make_masks` takes beside ScoreInputs."""

    sparsity: float | None


class ModelOptions(_Common, total=False):
    """What `make_masks` takes beside a module."""

    sparsity: float | Mapping[str, float] | None
    optimizer: Any
    targets: Any
    ignore: Any
    masks: Any
    input_norms: Any
    in_dim: Any
    missing: str
