"""`strip`: proof that a pruned model is plain tensors with zeros, which it always was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import Error
from ..model.targets import unwrap
from ..model.wrappers import is_a
from ..steps.watching import prunes
from .zero_count import ZeroCount
from .zeros import sparsity

if TYPE_CHECKING:
    import torch

__all__ = ["require_stripped", "strip"]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def strip(model: torch.nn.Module) -> ZeroCount:
    """Says that nothing has to be removed before a pruned model is saved, exported or compiled.

    A `Pruner` puts zeros into the model's own weights and nothing else into the model: no masks, buffers,
    hooks or parametrizations. So this changes nothing. It looks whether that is true and whether training is
    over, and counts the zeros. Over ranks it is collective where `sparsity` is.

    Returns:
        The zeros of every tensor, as `sparsity` counts them; prints as a table.

    Raises:
        Error: A pruner of the model is not finalized; a layer is packed or converted; or a layer is pruned by
            a hook or a parametrization. The message says what to call.
        ArgumentError: `model` is no module, or has nothing to count.
    """
    root = unwrap(model)
    require_stripped(root)
    return sparsity(root)


def require_stripped(model: torch.nn.Module) -> None:
    """Raises what `strip` raises, and counts nothing."""
    if prunes(model):
        raise Error(
            "model: a Pruner still works on its weights, and may change them. Call pruner.finalize() first, "
            "which verifies the zeros too"
        )
    for name, module in model.named_modules():
        where = f"'{name}'" if name else "the model"
        if is_a(module, "bittersweet.sparse.linear", "SparseLinear"):
            raise Error(f"model: {where} is a packed layer. Call bittersweet.sparse.unpack_(model) first")
        for parameter in module._parameters.values():
            if is_a(parameter, "torch.sparse.semi_structured", "SparseSemiStructuredTensor"):
                raise Error(
                    f"model: the weight of {where} is in torch's 2:4 format. Strip the model before it is "
                    "converted, or make it dense: weight.to_dense()"
                )
        for kind in _removable(module):
            raise Error(f"model: {where} {kind}")


def _removable(module: Any) -> Iterator[str]:
    """What keeps a layer pruned by other means than zeros in its weight, and what takes that away."""
    for hooks in _HOOKS:
        for hook in getattr(module, hooks).values():
            owner = getattr(hook, "__self__", hook)
            if is_a(owner, "torch.nn.utils.prune", "BasePruningMethod"):
                yield (
                    f"is pruned by torch.nn.utils.prune: torch.nn.utils.prune.remove(layer, "
                    f"'{owner._tensor_name}') first"
                )
            elif _is_ours(owner) or _is_ours(type(owner)):
                yield "is pruned by a hook of bittersweet.prune: bittersweet.prune.remove(layer, name) first"
    for name, chain in (getattr(module, "parametrizations", None) or {}).items():
        if any(_is_ours(type(step)) for step in chain):
            yield (
                f"has its {name} pruned by a parametrization: "
                f"torch.nn.utils.parametrize.remove_parametrizations(layer, '{name}') first"
            )


def _is_ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "bittersweet"
