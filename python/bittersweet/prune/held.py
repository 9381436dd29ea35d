"""The mask of one parameter of one module, and what keeps its zeros. The contract is that of the package."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from ..optimizers.compilation import outside_of_compilation
from ..tensors import devices
from ..tensors.holding import Holder
from ..tensors.masks import Mask
from ..tensors.owned import is_plain
from ..tensors.table import ScoreInputs

__all__ = ["Held", "all_held", "held_of"]

_eagerly = outside_of_compilation()
_held: weakref.WeakSet[Held] = weakref.WeakSet()
_KERNELS = (torch.float32, torch.float16, torch.bfloat16)


class Held:
    """A forward pre-hook that holds the zeros of the parameter `name` of the module it is on.

    It refers to the Parameter, so that copies and pickles of a model hold theirs at once, also where no
    forward pass goes through the module (the ``out_proj`` of torch's MultiheadAttention).
    """

    def __init__(self, name: str, parameter: torch.nn.Parameter, mask: Mask) -> None:
        self.name, self.parameter = name, parameter
        self._masks = [mask]  # the same list from call to call: a Holder then knows that it is the same mask
        self._weights, self._gradients = Holder(("weight",)), Holder(("weight",))
        self._written: tuple[int, int] | None = None
        self._on_gradient: RemovableHandle | None = None
        _listen_to_optimizers()
        _held.add(self)
        self._follow_gradient()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.parameter, self.mask)

    @property
    def mask(self) -> Mask:
        return self._masks[0]

    def __call__(self, module: torch.nn.Module, inputs: Any) -> None:
        _eagerly(self._before_forward, module)

    def take(self, parameter: torch.nn.Parameter, mask: Mask) -> None:
        """Another Parameter or mask from now on."""
        if parameter is not self.parameter:
            self._forget_gradient()
        self.parameter, self._masks = parameter, [mask]
        self._follow_gradient()
        self.write()

    def write(self) -> None:
        """Writes the zeros, whether something else has written or not."""
        self._weights.apply([ScoreInputs(self.parameter, name=self.name)], self._on(self.parameter))
        self._written = self._state()

    def release(self) -> None:
        """Writes the zeros a last time and lets go."""
        self.write()
        self._forget_gradient()
        _held.discard(self)

    def _before_forward(self, module: torch.nn.Module) -> None:
        entries = module._parameters if self.name in module._parameters else vars(module)
        value = entries.get(self.name)
        if isinstance(value, torch.nn.Parameter) and value is not self.parameter:
            self.take(value, self.mask)
        elif isinstance(value, torch.Tensor) and value is not self.parameter:
            self._mask_for_one_call(module, entries, value)
        else:
            self._follow_gradient()
            if self._written is None or self._written != self._state():
                self.write()

    def _mask_for_one_call(
        self, module: torch.nn.Module, entries: dict[str, Any], value: torch.Tensor
    ) -> None:
        """For what is there in the Parameter's place during one call: the tensors of functional_call, and of
        DataParallel's replicas. They are the caller's, and may be part of a graph: nothing is written."""
        entries[self.name] = torch.where(self._bools(value), value, torch.zeros((), dtype=value.dtype))
        if entries is not module._parameters:
            return  # a replica lives for one call, and shares its dictionary of hooks with the others

        def restore(*_: Any) -> None:
            entries[self.name] = value
            handle.remove()

        handle = module.register_forward_hook(restore, always_call=True)

    def masked_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """A gradient with +0 where the weight is pruned; differentiable where the gradient is."""
        differentiable = torch.is_grad_enabled() and gradient.requires_grad
        if differentiable or not is_plain(gradient) or gradient.dtype not in _KERNELS:
            return gradient * self._bools(gradient).to(gradient.dtype)
        masked = gradient.detach().clone()
        self._gradients.apply([ScoreInputs(masked, name=self.name)], self._on(masked))
        return masked

    def _state(self) -> tuple[int, int] | None:
        """Changes when the Parameter is written or moved; None where torch keeps no count."""
        parameter = self.parameter
        return None if parameter.is_inference() else (parameter._version, parameter.data_ptr())

    def _on(self, tensor: torch.Tensor) -> list[Mask]:
        """The mask, where the tensor is: it has followed the Parameter to another device."""
        device = devices.runtime.index_of(tensor)
        if self.mask.device != device:
            self._masks = [self.mask.to(device)]
        return self._masks

    def _bools(self, like: torch.Tensor) -> torch.Tensor:
        """The mask as a tensor: by NumPy, since inside torch.func's transforms new tensors have no memory."""
        words = self.mask.to_host().view(np.uint8)
        bits = np.unpackbits(words, count=self.mask.numel, bitorder="little").view(np.bool_)
        return torch.from_numpy(bits.reshape(self.mask.shape)).to(like.device)

    def _follow_gradient(self) -> None:
        if self._on_gradient is None and self.parameter.requires_grad:
            hook = _hook_of(weakref.ref(self))
            self._on_gradient = self.parameter.register_hook(hook)  # type: ignore[no-untyped-call]

    def _forget_gradient(self) -> None:
        if self._on_gradient is not None:
            self._on_gradient.remove()
            self._on_gradient = None


def _hook_of(reference: Callable[[], Held | None]) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """A Parameter that outlives its module must not keep the mask alive."""

    def on_gradient(gradient: torch.Tensor) -> torch.Tensor | None:
        held = reference()
        if held is None:
            return None
        masked: torch.Tensor = _eagerly(held.masked_gradient, gradient)
        return masked

    return on_gradient


_listening: list[RemovableHandle] = []


def _listen_to_optimizers() -> None:
    """torch's own hook for all optimizers, once: which of them trains a parameter is not known here."""
    if not _listening:
        _listening.append(register_optimizer_step_post_hook(_after_step))


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if _held:
        _eagerly(_write_all, optimizer)


def _write_all(optimizer: torch.optim.Optimizer) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for held in tuple(_held):
        if id(held.parameter) in stepped:
            held.write()


def held_of(module: torch.nn.Module, name: str) -> Held | None:
    """What holds this parameter of this module, if it is pruned."""
    return next((held for _, held in all_held(module) if held.name == name), None)


def all_held(module: torch.nn.Module) -> Iterator[tuple[int, Held]]:
    """The pruned parameters of the module itself, with the keys of their hooks."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, Held):
            yield key, hook
