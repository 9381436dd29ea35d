"""What stands around a model: wrappers that are seen through, and those that shard its parameters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..distributed.shards import is_dtensor
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
    """Raises LayoutError if FSDP1 or DeepSpeed has taken parameters of the model apart, which leaves nothing
    that says where their elements are."""
    for name, module in model.named_modules():
        if is_a(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise LayoutError(
                f"model: {f'its part {name!r}' if name else 'it'} is a FullyShardedDataParallel module, and "
                "each rank holds a flat piece of its weights: thresholds would be taken per rank. Use "
                "torch.distributed.fsdp.fully_shard in its place (or DistributedDataParallel), or prune "
                "before the model is wrapped"
            )
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise LayoutError(
                f"parameter '{name}' is partitioned by DeepSpeed ZeRO-3, and each rank holds a flat piece of "
                "it: thresholds would be taken per rank. Use torch.distributed.fsdp.fully_shard or ZeRO "
                "stage 1 or 2, or prune before the engine is made"
            )


def refuse_distributed(name: str, parameter: torch.Tensor) -> None:
    """Raises LayoutError if the parameter is a DTensor, for callers that take whole weights alone."""
    if is_dtensor(parameter):
        raise LayoutError(
            f"parameter '{name}' is a DTensor, of which each rank holds a part (fully_shard or tensor "
            "parallelism), and this takes whole weights. Do it before the model is sharded, or leave it out "
            "with ignore; a Pruner takes DTensors as they are"
        )
