"""A pruning method decides which weights of those that are left go; `prune_parameters` applies one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ..errors import ArgumentError, DTypeError, ShapeError
from ..options.values import one_of, shown
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs
from .parameters import Place, hold

__all__ = ["BasePruningMethod", "bools", "prune_parameters", "scores_of"]

TYPES = ("unstructured", "structured", "global")


class BasePruningMethod(ABC):
    """What one writes to prune by a rule of one's own: `compute_mask` and, where it is not
    ``"unstructured"``, `PRUNING_TYPE`.

    Attributes:
        PRUNING_TYPE: What `compute_mask` is given of a tensor that is pruned already. ``"unstructured"``: its
            live elements, as one dimension. ``"structured"``: its channels along ``self.dim`` that have a
            live element. ``"global"``: all of it.
    """

    PRUNING_TYPE: ClassVar[str] = "unstructured"

    @abstractmethod
    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """A new mask: 1 keeps, 0 prunes.

        Args:
            t: The weights, or the importance scores given in their place; not to be written. In their own
                shape while nothing of the parameter is pruned; after that what `PRUNING_TYPE` says, where
                "unstructured" gives the live ones as one row.
            default_mask: The mask so far, in the dtype of `t`.
        """

    @classmethod
    def apply(
        cls,
        module: torch.nn.Module,
        name: str,
        *args: Any,
        importance_scores: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BasePruningMethod:
        """Prunes the parameter `name` of `module` by ``cls(*args, **kwargs)``, which is returned.

        Raises:
            ArgumentError, ShapeError, DTypeError, LayoutError, NonFiniteScoreError: Nothing is pruned then.
        """
        method = cls(*args, **kwargs)
        prune_parameters(method, [Place(module, name)], [importance_scores])
        return method

    def prune(
        self,
        t: torch.Tensor,
        default_mask: torch.Tensor | None = None,
        importance_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``t`` times the mask of `compute_mask`: a new tensor, for one that belongs to no module."""
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise ShapeError(f"importance_scores: shape {tuple(scores.shape)}; t has {tuple(t.shape)}")
        mask = torch.ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores.detach(), default_mask=mask)

    def new_masks(self, items: Sequence[ScoreInputs]) -> list[Mask]:
        """The masks after this method, of tensors that compete with each other: each item has the weights, or
        the scores in their place, and the mask so far."""
        kinds = [one_of("PRUNING_TYPE", self.PRUNING_TYPE, TYPES)]
        live = [bools(item) for item in items]
        if len(items) == 1:
            # as in torch, the first method sees the parameter in its own shape, later ones what is left of it
            kind = "global" if items[0].mask is None else kinds[0]
            made = [self._over(items[0].weight, live[0], kind)]
        else:
            weights = torch.cat([item.weight.reshape(-1) for item in items])
            mask = self._over(weights, torch.cat([one.reshape(-1) for one in live]), kinds[0])
            parts = torch.split(mask, [one.numel() for one in live])
            made = [part.reshape(one.shape) for part, one in zip(parts, live, strict=True)]
        return [Mask.from_bool(one, str(item.name)) for one, item in zip(made, items, strict=True)]

    def _over(self, t: torch.Tensor, live: torch.Tensor, kind: str) -> torch.Tensor:
        """`compute_mask` of the part that its type asks for."""
        place: Any = ...
        if kind == "unstructured":
            place = live
        elif kind == "structured":
            place = channels_along(live, self.dim)  # type: ignore[attr-defined]
        part, before = t[place], live[place]
        found = self.compute_mask(part, default_mask=before.to(t.dtype))
        if not isinstance(found, torch.Tensor) or found.shape != part.shape:
            raise ShapeError(
                f"{type(self).__name__}.compute_mask: returned {shown(found)}; accepted: a tensor of the "
                f"shape of t, {tuple(part.shape)}"
            )
        mask = live.clone()
        mask[place] = as_bools(f"{type(self).__name__}.compute_mask", found) & before
        return mask


def prune_parameters(
    method: BasePruningMethod, places: Sequence[Place], scores: Sequence[torch.Tensor | None]
) -> None:
    """Prunes parameters, which compete with each other, by `method`. All masks are there before any weight is
    written."""
    items = []
    for index, (place, given) in enumerate(zip(places, scores, strict=True)):
        name = place.name if len(places) == 1 else f"parameters[{index}] ({place.name})"
        place.require_usable(name)
        held = place.held()
        weight = place.parameter.detach() if given is None else scores_of(place, given)
        items.append(ScoreInputs(weight, name=name, mask=None if held is None else held.mask))
    with torch.no_grad():
        masks = method.new_masks(items)
    for place, mask in zip(places, masks, strict=True):
        hold(place, mask.called(place.name))


def scores_of(place: Place, given: Any) -> torch.Tensor:
    """Importance scores of a parameter, checked."""
    if not isinstance(given, torch.Tensor):
        raise ArgumentError(f"importance_scores of '{place.name}': {shown(given)}; accepted: a torch tensor")
    if given.shape != place.parameter.shape:
        raise ShapeError(
            f"importance_scores of '{place.name}': shape {tuple(given.shape)}; the parameter has "
            f"{tuple(place.parameter.shape)}"
        )
    if given.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise DTypeError(
            f"importance_scores of '{place.name}' has dtype {str(given.dtype).removeprefix('torch.')}; "
            "accepted: float32, float16, bfloat16. Convert it first"
        )
    return given.detach()


def bools(item: ScoreInputs) -> torch.Tensor:
    """The mask so far, as a bool tensor beside the weight."""
    if item.mask is None:
        return torch.ones(item.weight.shape, dtype=torch.bool, device=item.weight.device)
    kept: torch.Tensor = item.mask.bool()
    return kept


def as_bools(argument: str, mask: torch.Tensor) -> torch.Tensor:
    """A mask of 0 and 1 in any dtype as bool, an expanded one written out.

    Raises:
        ArgumentError: Other numbers: they would scale.
    """
    kept = mask.detach().bool().contiguous()
    if mask.dtype is not torch.bool and not torch.equal(kept.to(mask.dtype), mask.detach()):
        raise ArgumentError(
            f"{argument}: a mask with other numbers than 0 and 1. Give mask != 0, or a bool tensor"
        )
    return kept


def channels_along(live: torch.Tensor, dim: int) -> tuple[Any, ...]:
    """The index of the channels along `dim` that have a live element."""
    dim = dim % live.dim()
    kept = live.movedim(dim, 0).flatten(1).any(1)
    return (*[slice(None)] * dim, kept)
