"""The functions, by torch's names. Each prunes in place and returns its module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..errors import ArgumentError
from ..options.values import shown
from ..tensors.masks import Mask
from .held import all_held
from .methods import BasePruningMethod, prune_parameters
from .parameters import Place, let_go, require_module
from .structured import LnStructured, RandomStructured
from .unstructured import CustomFromMask, Identity, L1Unstructured, RandomUnstructured

Module = torch.nn.Module


def identity(module: Module, name: str) -> Module:
    """Prunes nothing of the parameter `name`, and makes it a pruned one for `is_pruned` and `remove`."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Module, name: str, amount: float, *, seed: int | None = None) -> Module:
    """Prunes `amount` of the live weights of the parameter `name` at random; see `RandomUnstructured`."""
    RandomUnstructured.apply(module, name, amount, seed=seed)
    return module


def l1_unstructured(
    module: Module, name: str, amount: float, importance_scores: torch.Tensor | None = None
) -> Module:
    """Prunes the live weights of least absolute value; see `L1Unstructured`.

    Args:
        module: The module whose own parameter `name` is.
        name: Name of the parameter, such as ``"weight"``.
        amount: A share of the weights that are left (float, 0.0 to 1.0), or how many (int).
        importance_scores: Of the parameter's shape: ranked in place of the weights, by absolute value.

    Raises:
        ArgumentError: No such parameter, a wrong `amount`.
        ShapeError: `importance_scores` of another shape.
        DTypeError, DeviceError, LayoutError: A tensor that no engine reads, float64 among them.
        NonFiniteScoreError: A score is NaN.
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(
    module: Module, name: str, amount: float, dim: int, *, seed: int | None = None
) -> Module:
    """Prunes `amount` of the live channels along `dim` at random; see `RandomStructured`."""
    RandomStructured.apply(module, name, amount, dim, seed=seed)
    return module


def ln_structured(
    module: Module,
    name: str,
    amount: float,
    n: float | str,
    dim: int,
    importance_scores: torch.Tensor | None = None,
) -> Module:
    """Prunes the live channels along `dim` of least Ln norm; see `LnStructured`. Shapes stay as they are."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: dict[tuple[Module, str], torch.Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prunes the parameters of several modules by one threshold over all that is left of them.

    Args:
        parameters: (module, name) pairs; each Parameter once.
        pruning_method: An unstructured method: `L1Unstructured`, `RandomUnstructured`, or one's own (which is
            given all weights as one tensor; the others concatenate nothing).
        importance_scores: By (module, name): ranked in place of the weights.
        **kwargs: Arguments of the method, such as ``amount=0.2``.
    """
    if not isinstance(parameters, Iterable) or isinstance(parameters, (str, dict)):
        raise ArgumentError(f"parameters: {shown(parameters)}; accepted: (module, name) pairs")
    places = [_place_of(index, pair) for index, pair in enumerate(parameters)]
    if len({id(place.parameter) for place in places}) < len(places):
        raise ArgumentError("parameters: the same Parameter is listed twice (it may be tied); list it once")
    is_method = isinstance(pruning_method, type) and issubclass(pruning_method, BasePruningMethod)
    if not is_method or pruning_method.PRUNING_TYPE != "unstructured":
        raise ArgumentError(
            f"pruning_method: {shown(pruning_method)}; accepted: a class of bittersweet.prune that prunes "
            "single weights, such as L1Unstructured or RandomUnstructured"
        )
    given = {} if importance_scores is None else importance_scores
    if not isinstance(given, dict):
        raise ArgumentError(f"importance_scores: {shown(given)}; accepted: a dict by (module, name)")
    scores = [given.get((place.module, place.name)) for place in places]
    if len(given) != sum(one is not None for one in scores):
        ours = {(place.module, place.name) for place in places}
        other = next(key for key in given if key not in ours)
        raise ArgumentError(
            f"importance_scores: the key {shown(other)} is none of the (module, name) pairs in parameters"
        )
    if not places:
        raise ArgumentError("parameters: no pair at all; accepted: at least one (module, name) pair")
    prune_parameters(pruning_method(**kwargs), places, scores)


def custom_from_mask(module: Module, name: str, mask: Any) -> Module:
    """Prunes what `mask` prunes, beside what is pruned already; see `CustomFromMask`.

    ``custom_from_mask(module, "weight", module.weight != 0)`` holds the zeros of a sparse checkpoint.
    """
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: Module, name: str) -> Module:
    """Makes pruning permanent: the zeros stay in the Parameter, and nothing holds them any longer.

    Raises:
        ArgumentError: The parameter is not pruned.
    """
    if not let_go(Place(module, name)):
        raise ArgumentError(
            f"name: '{name}' of this {type(module).__name__} is not pruned, so nothing can be removed"
        )
    return module


def is_pruned(module: Module) -> bool:
    """Whether this module, or one inside it, has a pruned parameter."""
    require_module(module)
    return any(True for inner in module.modules() for _ in all_held(inner))


def mask_of(module: Module, name: str) -> Mask:
    """The mask of a pruned parameter, one bit a weight; ``mask_of(module, "weight").bool()`` is a tensor.

    Raises:
        ArgumentError: The parameter is not pruned.
    """
    held = Place(module, name).held()
    if held is None:
        raise ArgumentError(f"name: '{name}' of this {type(module).__name__} is not pruned and has no mask")
    return held.mask


def _place_of(index: int, pair: Any) -> Place:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ArgumentError(f"parameters[{index}]: {shown(pair)}; accepted: a (module, name) pair")
    return Place(*pair)
