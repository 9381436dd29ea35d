"""What a call of transformers' experts adds to the sums of their stacked weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..model.experts import PROJECTIONS, follows_interface

if TYPE_CHECKING:
    import torch


def expert_squares(
    module: Any, attribute: str, name: str
) -> Callable[[Sequence[Any], Mapping[str, Any], torch.Tensor | None], tuple[torch.Tensor, int]] | None:
    """The function ``(args, kwargs, token_mask) -> (sums, positions)`` of a module that follows
    transformers' interface of experts; None for others.

    The sums are those of each expert's input features (float64), one expert after the other. Every token is a
    position of every expert, and is zero for those that it is not sent to. What goes into the second
    projection is computed for it, with the module's own first projection and activation.
    """
    if attribute not in PROJECTIONS or not follows_interface(module):
        return None

    def squares(
        args: Sequence[Any], kwargs: Mapping[str, Any], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, int]:
        import torch

        hidden, chosen = _arguments(args, kwargs, name)
        if mask is not None and mask.numel() == len(hidden):
            kept = mask.flatten().to(hidden.device)
            hidden, chosen = hidden[kept], chosen[kept]
        sums = []
        for expert in range(getattr(module, attribute).shape[0]):
            x = hidden[(chosen == expert).any(-1)]
            if attribute == "down_proj":
                x = _between(module, expert, x)
            sums.append(x.float().square().sum(0, dtype=torch.float64))
        found = torch.cat(sums)
        if not bool(found.isfinite().all()):
            raise ArgumentError(
                f"the input of the experts of '{name}' has values that are not finite. Look at the data and "
                "at the layers in front of it; nothing of this collection is kept"
            )
        return found, len(hidden)

    return squares


def _arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    given = {**dict(zip(("hidden_states", "top_k_index"), args, strict=False)), **kwargs}
    hidden, chosen = given.get("hidden_states"), given.get("top_k_index")
    if hidden is None or chosen is None:
        raise ArgumentError(
            f"the experts of '{name}' were called without hidden_states and top_k_index, so that nothing "
            "says which tokens each of them is given. Leave it out with ignore"
        )
    hidden = hidden.detach()
    return hidden.reshape(-1, hidden.shape[-1]), chosen.reshape(-1, chosen.shape[-1])


def _between(module: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    """The activations between the two projections of one expert."""
    first = "gate_up_proj" if module.has_gate else "up_proj"
    weight = getattr(module, first)[expert]
    y = x @ (weight if module.is_transposed else weight.T)
    if module.has_bias:
        y = y + getattr(module, f"{first}_bias")[expert]
    found: torch.Tensor = module._apply_gate(y) if module.has_gate else module.act_fn(y)
    return found
