"""Methods that prune single weights, chosen by the engine over all tensors that compete."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ..errors import ArgumentError, ShapeError
from ..options.scorers import check_seed
from ..options.values import shown
from ..select.functional import make_masks
from ..tensors import devices
from ..tensors.combining import kept_by_both
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs
from .amounts import check_amount, count_of
from .methods import BasePruningMethod, as_bools

__all__ = ["CustomFromMask", "Identity", "L1Unstructured", "RandomUnstructured", "drawn_seed"]


class _ByEngine(BasePruningMethod):
    """A method whose masks the engine makes; `compute_mask` is for one that asks for a single tensor's."""

    @abstractmethod
    def new_masks(self, items: Sequence[ScoreInputs]) -> list[Mask]: ...

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """The mask of this method over all of `t`, times `default_mask`."""
        (mask,) = self.new_masks([ScoreInputs(t.detach(), name="t")])
        kept: torch.Tensor = mask.bool()
        return default_mask * kept


class Identity(_ByEngine):
    """Prunes nothing, and holds the zeros of what was pruned before."""

    def new_masks(self, items: Sequence[ScoreInputs]) -> list[Mask]:
        return [_mask_so_far(item) for item in items]


class L1Unstructured(_ByEngine):
    """Prunes `amount` of the live weights: those of least absolute value.

    The exact number, ``round(amount * live)`` or the int; among equal ones the lowest (tensor, index) first.
    Importance scores are taken by their absolute value too. A NaN is a NonFiniteScoreError.
    """

    def __init__(self, amount: float) -> None:
        self.amount = check_amount(amount)

    def new_masks(self, items: Sequence[ScoreInputs]) -> list[Mask]:
        k = _dead_and_new(items, self.amount)
        return list(make_masks(items, k=k, scorer="magnitude"))


class RandomUnstructured(_ByEngine):
    """Prunes `amount` of the live weights at random, all alike.

    Args:
        amount: A share, or how many.
        seed: From 0. None: drawn once from torch's CPU generator, so that ``torch.manual_seed`` decides. The
            masks of one seed are the same on every device; they are not those that torch draws.
    """

    def __init__(self, amount: float, seed: int | None = None) -> None:
        self.amount, self.seed = check_amount(amount), drawn_seed(seed)

    def new_masks(self, items: Sequence[ScoreInputs]) -> list[Mask]:
        k = _dead_and_new(items, self.amount)
        return list(make_masks(items, k=k, scorer="random", seed=self.seed))


class CustomFromMask(_ByEngine):
    """Prunes what `mask` prunes, beside what is pruned already.

    Args:
        mask: Of the parameter's shape: a bool tensor, a tensor of 0 and 1, or a `bittersweet.Mask`.
    """

    PRUNING_TYPE: ClassVar[str] = "global"

    def __init__(self, mask: Any) -> None:
        if not isinstance(mask, (torch.Tensor, Mask)):
            raise ArgumentError(f"mask: {shown(mask)}; accepted: a torch tensor of 0 and 1, or a Mask")
        self.mask = mask if isinstance(mask, Mask) else as_bools("mask", mask)

    def new_masks(self, items: Sequence[ScoreInputs]) -> list[Mask]:
        (item,) = items
        if tuple(self.mask.shape) != tuple(item.weight.shape):
            raise ShapeError(
                f"mask: shape {tuple(self.mask.shape)}; '{item.name}' has {tuple(item.weight.shape)}"
            )
        given = self.mask
        if not isinstance(given, Mask):
            given = Mask.from_bool(given.to(item.weight.device), str(item.name))
        before = _mask_so_far(item)
        return [kept_by_both(before, given.to(before.device))]


def drawn_seed(seed: int | None) -> int:
    """A seed, checked, or one that torch's CPU generator draws."""
    return int(torch.randint(2**63 - 1, ())) if seed is None else check_seed(seed)


def _mask_so_far(item: ScoreInputs) -> Mask:
    if item.mask is not None:
        found: Mask = item.mask
        return found
    device = devices.runtime.index_of(item.weight)
    return Mask.full(tuple(item.weight.shape), str(item.name), "torch", device)


def _dead_and_new(items: Sequence[ScoreInputs], amount: Any) -> int:
    """How many are pruned after pruning `amount` of those that are left."""
    total = sum(item.weight.numel() for item in items)
    dead: int = sum(item.mask.numel - item.mask.kept() for item in items if item.mask is not None)
    return dead + count_of(amount, total - dead, "weights")
