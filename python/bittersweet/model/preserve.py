"""Leaving a model as it was found: what a probe puts back after its passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["preserved"]


@contextmanager
def preserved(
    model: torch.nn.Module, generators: Iterable[torch.Generator] = ()
) -> Iterator[Callable[[], None]]:
    """Restores, when the block ends in whatever way, all of `model` but its parameters' values.

    That is: buffers (the tensors themselves, and their values from real copies), every parameter's ``.grad``
    (the same objects; inside the block all are None, so that nothing can write them), ``requires_grad`` of
    every parameter, ``training`` of every module, and the random states of Python, NumPy, torch on the CPU
    and on the model's devices, and `generators`.

    Yields:
        A function that rewinds buffers and random states to the start of the block, so that a second pass
        meets what the first one met.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    slots = [(m._buffers, name, value) for m in model.modules() for name, value in m._buffers.items()]
    copies = [
        (buffer, buffer.detach().clone())
        for buffer in {id(value): value for _, _, value in slots if value is not None}.values()
        if _writable(buffer)
    ]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    states = [*_random_states(devices), *((one.set_state, one.get_state()) for one in generators)]

    def rewind() -> None:
        with torch.no_grad():
            for owner, name, value in slots:
                owner[name] = value
            for buffer, copy in copies:
                buffer.copy_(copy)
        for put, state in states:
            put(state)

    try:
        for parameter, _, _ in parameters:
            parameter.grad = None
        yield rewind
    finally:
        rewind()
        for parameter, requires_grad, grad in parameters:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for module, training in modes:
            module.training = training


def _writable(buffer: torch.Tensor) -> bool:
    """False for buffers that no forward pass can write in place: expanded ones and inference tensors."""
    import torch

    strided = buffer.layout is torch.strided
    expanded = strided and any(
        stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True)
    )
    return not expanded and not buffer.is_inference()


def _random_states(devices: Iterable[torch.device]) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """(restore, state) of every global generator that a forward pass on these devices may draw from."""
    import torch

    yield random.setstate, random.getstate()
    yield np.random.set_state, np.random.get_state()
    yield torch.set_rng_state, torch.get_rng_state()
    for device in devices:
        module: Any = getattr(torch, device.type, None)
        if device.type != "cpu" and hasattr(module, "get_rng_state"):
            if device.type == "mps":  # one device, whose functions take no index
                yield module.set_rng_state, module.get_rng_state()
            else:
                yield _for_device(module.set_rng_state, device), module.get_rng_state(device)


def _for_device(put: Callable[..., Any], device: torch.device) -> Callable[[Any], Any]:
    return lambda state: put(state, device)
