"""Masks made of masks, word by word; on the device where they are."""

from __future__ import annotations

from .masks import Mask

__all__ = ["all_but_opened", "kept_by_both", "kept_by_either", "kept_by_one_alone", "opposite"]


def kept_by_both(mask: Mask, other: Mask | None) -> Mask:
    """A mask that keeps what both keep; `mask` itself if there is no other."""
    return mask if other is None else mask.of_words(mask.held & other.ordered(mask.order).held)


def kept_by_either(mask: Mask, other: Mask) -> Mask:
    """A mask that keeps what one of them keeps."""
    return mask.of_words(mask.held | other.ordered(mask.order).held)


def kept_by_one_alone(mask: Mask, other: Mask) -> Mask:
    """A mask that keeps what `mask` keeps and `other` does not."""
    return mask.of_words(mask.held & ~other.ordered(mask.order).held)


def opposite(mask: Mask) -> Mask:
    """A mask that keeps what `mask` prunes."""
    words, rest = ~mask.held, mask.numel % 64
    if rest:
        words[-1:] &= (1 << rest) - 1
    return mask.of_words(words)


def all_but_opened(mask: Mask, former: Mask | None) -> Mask | None:
    """A mask that prunes what `mask` keeps and `former` did not; None if `former` kept everything."""
    return None if former is None else kept_by_either(opposite(mask), former)
