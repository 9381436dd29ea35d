"""Methods that prune whole channels: every weight at one index along a dimension."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ..errors import ArgumentError
from ..options.values import as_int, as_number
from ..select.functional import make_masks
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs
from .amounts import check_amount, count_of
from .methods import BasePruningMethod
from .unstructured import drawn_seed

__all__ = ["LnStructured", "RandomStructured"]


class _Channels(BasePruningMethod):
    """Prunes `amount` of the channels along `dim` that have a live weight."""

    PRUNING_TYPE: ClassVar[str] = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        self.amount, self.dim = check_amount(amount), as_int("dim", dim)

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """`default_mask` with the pruned channels of `t` at 0."""
        dim = self._axis(t)
        channels = t.shape[dim]
        k = count_of(self.amount, channels, "channels")
        item, scorer, seed = self.ranked(t.detach(), dim)
        kept: torch.Tensor = make_masks(item, k=k, scorer=scorer, seed=seed).bool().to(t.device)
        return default_mask * kept.reshape(-1, *[1] * (t.dim() - dim - 1))

    @abstractmethod
    def ranked(self, t: torch.Tensor, dim: int) -> tuple[ScoreInputs, str, int]:
        """One number a channel, and the scorer and seed that rank them."""

    def new_masks(self, items: Sequence[ScoreInputs]) -> list[Mask]:
        (item,) = items
        self._axis(item.weight)
        return super().new_masks(items)

    def _axis(self, t: torch.Tensor) -> int:
        """`dim` from the front."""
        if t.dim() < 2:
            raise ArgumentError(
                f"a tensor of shape {tuple(t.shape)} has no channels; structured pruning takes two or more "
                "dimensions. Use an unstructured method"
            )
        if not -t.dim() <= self.dim < t.dim():
            raise ArgumentError(
                f"dim: {self.dim}; accepted for {t.dim()} dimensions: {-t.dim()} to {t.dim() - 1}"
            )
        return self.dim % t.dim()


class LnStructured(_Channels):
    """Prunes the channels of least norm; among equal ones the lowest index first.

    Args:
        amount: A share of the channels that are left, or how many.
        n: Order of the norm: a number, ±inf, or ``"fro"``.
        dim: The dimension whose indices are the channels.
    """

    def __init__(self, amount: float, n: float | str, dim: int = -1) -> None:
        super().__init__(amount, dim)
        accepted = 'a number, inf, -inf or "fro"'
        self.n = n if n == "fro" else as_number("n", n, -torch.inf, torch.inf, accepted)

    def ranked(self, t: torch.Tensor, dim: int) -> tuple[ScoreInputs, str, int]:
        rest = [axis for axis in range(t.dim()) if axis != dim]
        order: Any = 2 if self.n == "fro" else self.n
        norms = torch.linalg.vector_norm(t, order, rest)
        return ScoreInputs(norms, scores=norms, name=f"norms along dim {dim}"), "identity", 0


class RandomStructured(_Channels):
    """Prunes channels at random, all alike.

    Args:
        amount: A share of the channels that are left, or how many.
        dim: The dimension whose indices are the channels.
        seed: As in `RandomUnstructured`.
    """

    def __init__(self, amount: float, dim: int = -1, seed: int | None = None) -> None:
        super().__init__(amount, dim)
        self.seed = drawn_seed(seed)

    def ranked(self, t: torch.Tensor, dim: int) -> tuple[ScoreInputs, str, int]:
        return ScoreInputs(torch.empty(t.shape[dim]), name="channels"), "random", self.seed
