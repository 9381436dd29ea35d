"""A parameter of a module by its name, and the mask that is put on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from ..errors import ArgumentError, LayoutError
from ..options.values import shown
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs, Table
from .held import Held, all_held, held_of

__all__ = ["Place", "hold", "let_go", "require_module"]


@dataclass(frozen=True, eq=False)
class Place:
    """The parameter `name` of `module`, checked.

    Raises:
        ArgumentError: `module` is none, or has no parameter of its own by this name.
    """

    module: torch.nn.Module
    name: str

    def __post_init__(self) -> None:
        require_module(self.module)
        own = {name: value for name, value in self.module._parameters.items() if value is not None}
        if isinstance(self.name, str) and self.name in own:
            return
        raise ArgumentError(
            f"name: {shown(self.name)}; parameters of this {type(self.module).__name__}: "
            f"{', '.join(own) or 'none'}{self._hint(own)}"
        )

    def _hint(self, own: dict[str, Any]) -> str:
        if not isinstance(self.name, str):
            return ""
        if f"{self.name}_orig" in own:
            return ". torch.nn.utils.prune holds it: call its remove(module, name) first"
        if "." in self.name:
            return ". Give the submodule itself, module.get_submodule(...), and the last part of the name"
        if is_parametrized(self.module, self.name):
            return f". It is parametrised: give module.parametrizations.{self.name} and 'original'"
        return ""

    @property
    def parameter(self) -> torch.nn.Parameter:
        return self.module._parameters[self.name]  # type: ignore[return-value]

    def held(self) -> Held | None:
        """What holds it, if it is pruned."""
        return held_of(self.module, self.name)

    def require_usable(self, name: str) -> None:
        """Raises what would keep its zeros from being written."""
        if isinstance(self.parameter, UninitializedParameter):
            raise LayoutError(f"'{name}' has no values yet. Run one batch through the lazy module first")
        Table([ScoreInputs(self.parameter, name=name)], writes=("weight",))


def require_module(module: Any) -> None:
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(f"module: {shown(module)}; accepted: a torch.nn.Module")


def hold(place: Place, mask: Mask) -> None:
    """Puts a mask on a parameter, in the place of the one it may have, and writes its zeros."""
    held = place.held()
    if held is None:
        held = Held(place.name, place.parameter, mask)
        held.write()
        place.module.register_forward_pre_hook(held)
    else:
        held.take(place.parameter, mask)


def let_go(place: Place) -> bool:
    """Leaves the zeros where they are and holds them no longer. False if nothing was held."""
    for key, held in all_held(place.module):
        if held.name == place.name:
            held.release()
            del place.module._forward_pre_hooks[key]
            return True
    return False
