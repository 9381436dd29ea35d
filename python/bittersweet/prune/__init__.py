"""torch.nn.utils.prune's names and call forms: ``import bittersweet.prune as prune``.

The same masks for the same input (scores that are equal: the lowest index goes first; random ones: a seed of
their own), one bit a weight, and no reparametrisation: ``module.weight`` stays the Parameter that it was.

How the zeros hold. Pruning writes +0 to the weights and leaves a forward pre-hook on the module and a hook on
the Parameter's gradient. Gradients of pruned weights are +0. After every step of a torch optimizer that has
the Parameter its zeros are written again, whatever momentum, weight decay or NaN moved there, and so they are
before a forward pass that finds the Parameter written since (a checkpoint, an average, another Parameter).
A write through ``.data`` that no optimizer's step contains is not noticed before the next one that is, and
so is any write to the ``out_proj`` of torch's MultiheadAttention, which has no forward pass of its own.

Copies (`copy.deepcopy`), pickles, ``torch.save(model)`` and moves to another device or dtype (not
float64, which the next write refuses) keep the masks.
``state_dict()`` has the plain names and no masks; `to_torch_state_dict` and `load_torch_state_dict` speak
torch's layout.

What differs from torch, name by name, is in docs/coming_from/torch_prune.md.
"""

from __future__ import annotations

from ..extras import require

require("torch", "bittersweet.prune")

from .checkpoints import load_torch_state_dict, to_torch_state_dict  # noqa: E402
from .functions import (  # noqa: E402
    custom_from_mask,
    global_unstructured,
    identity,
    is_pruned,
    l1_unstructured,
    ln_structured,
    mask_of,
    random_structured,
    random_unstructured,
    remove,
)
from .methods import BasePruningMethod  # noqa: E402
from .structured import LnStructured, RandomStructured  # noqa: E402
from .unstructured import CustomFromMask, Identity, L1Unstructured, RandomUnstructured  # noqa: E402

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "load_torch_state_dict",
    "mask_of",
    "random_structured",
    "random_unstructured",
    "remove",
    "to_torch_state_dict",
]
