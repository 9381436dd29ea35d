"""Optimizers whose own pass holds the masks: torch's, with the same arguments, state and checkpoints.

`Adam` and `AdamW` take the place of those of ``torch.optim``, at any time and back. On the CPU their step
gives the bits of torch's ``fused=True`` step (`equals_torch` says whether that was seen on this installation)
in less time than torch's, and on CUDA devices those of the CPU. With `MaskedStep.hold` pruned weights and
their states stay at +0 in it at no further cost.
On request it rounds bfloat16 stochastically instead, so that no small update is lost.
A `Pruner` uses that by itself.
"""

from __future__ import annotations

from ..extras import require

require("torch", "bittersweet.optim")

from .adam import Adam, AdamW  # noqa: E402
from .masked import Held, MaskedStep  # noqa: E402
from .rounding import equals_torch  # noqa: E402

__all__ = ["Adam", "AdamW", "Held", "MaskedStep", "equals_torch"]
