"""What stands around a model: wrappers that are seen through, and those that shard its parameters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, LayoutError

if TYPE_CHECKING:
    import torch

_WRAPPERS = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("lightning.fabric.wrappers", "_FabricModule", "_forward_module"),
    ("lightning_fabric.wrappers", "_FabricModule", "_forward_module"),
)


def loaded_class(module: str, name: str) -> type[Any] | None:
    """A class of a module that somebody has imported already. Without that nothing can be an instance."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def is_a(value: Any, module: str, name: str) -> bool:
    """Whether `value` is an instance of that class, which is not imported for it."""
    cls = loaded_class(module, name)
    return cls is not None and isinstance(value, cls)


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside the wrappers of torch.compile, DDP, DataParallel and Lightning's Fabric.

    Raises:
        ArgumentError: `model` is no module.
    """
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model: found {type(model).__name__}; accepted: a torch.nn.Module. Pass the model itself, not "
            "its parameters or its state_dict"
        )
    while (inner := wrapped_child(model)) is not None:
        model = inner[1]
    return model


def wrapped_child(module: torch.nn.Module) -> tuple[str, torch.nn.Module] | None:
    """Under which name a wrapper holds its model, and the model; None for other modules."""
    for where, name, child in _WRAPPERS:
        if is_a(module, where, name) and (inner := module._modules.get(child)) is not None:
            return child, inner
    return None


def refuse_sharded(model: torch.nn.Module) -> None:
    """Raises LayoutError if FSDP1 has put parameters of the model into flat shards."""
    for name, module in model.named_modules():
        if is_a(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise LayoutError(
                f"model: {f'its part {name!r}' if name else 'it'} is a FullyShardedDataParallel module, and "
                "each rank holds a shard of its weights: thresholds would be taken per rank. Train with "
                "DistributedDataParallel, or prune before the model is wrapped"
            )


def refuse_distributed(name: str, parameter: torch.Tensor) -> None:
    """Raises LayoutError if the parameter is a DTensor."""
    if is_a(parameter, "torch.distributed.tensor", "DTensor"):
        raise LayoutError(
            f"parameter '{name}' is a DTensor, of which each rank holds a part (fully_shard or tensor "
            "parallelism), and thresholds need whole weights. Train with DistributedDataParallel, prune "
            "before the model is sharded, or leave it out with ignore"
        )
