"""Whether fully_shard has gathered parameters of a model for a forward pass, and putting them back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..distributed.shards import is_dtensor, local
from .plan import gathered
from .wrappers import is_a

if TYPE_CHECKING:
    import torch

__all__ = ["Gathering", "reshard"]

_PLACES = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")  # torch from 2.6, and before


class Gathering:
    """Looks at one parameter of every module that was given to fully_shard: its group is gathered as one.

    After any forward pass, an evaluation too, the root's group stays gathered, and what is written to its
    shards is not seen by the next forward pass. Between forward and backward nothing else gives that away.

    Args:
        model: As it is when nothing is gathered (`reshard`); None: nothing ever is.
    """

    def __init__(self, model: torch.nn.Module | None) -> None:
        self._witnesses = [
            (module._parameters, key, name, tuple(local(module._parameters[key]).shape))
            for root_name, root in ([] if model is None else model.named_modules())
            if _is_fsdp(root)
            for module, key, name in _first(root, root_name)
        ]

    def __bool__(self) -> bool:
        """Whether anything can be gathered."""
        return bool(self._witnesses)

    def found(self) -> str | None:
        """The name of a parameter that is gathered now; None if none is."""
        for parameters, key, name, shape in self._witnesses:
            now = parameters.get(key)
            if now is not None and not (is_dtensor(now) and local(now).shape == shape):
                return name
        return None

    def require_sharded(self) -> None:
        """Raises LayoutError if a group is gathered now."""
        if (name := self.found()) is not None:
            raise gathered(name)


def reshard(model: torch.nn.Module) -> None:
    """Puts gathered parameters back into their shards. No collective."""
    for module in model.modules():
        if _is_fsdp(module):
            again: Any = module.reshard
            again()


def _is_fsdp(module: Any) -> bool:
    return any(is_a(module, place, "FSDPModule") for place in _PLACES)


def _first(root: torch.nn.Module, name: str) -> Iterator[tuple[torch.nn.Module, str, str]]:
    """The first sharded parameter of a module's own group: not of modules below that have groups."""
    for path, module in _group(root, name):
        for key, parameter in module._parameters.items():
            if parameter is not None and is_dtensor(parameter):
                yield module, key, f"{path}.{key}" if path else key
                return


def _group(module: torch.nn.Module, name: str) -> Iterator[tuple[str, torch.nn.Module]]:
    yield name, module
    for key, child in module.named_children():
        if not _is_fsdp(child):
            yield from _group(child, f"{name}.{key}" if name else key)
