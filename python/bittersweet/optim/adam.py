"""`Adam` and `AdamW`: torch's optimizers of these names, in one masked pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adam import adam  # torch.optim itself lacks these names
from torch.optim.adamw import adamw

from ..errors import ArgumentError
from ..options.values import shown
from .masked import MaskedStep
from .rows import Gathered, here, why_outside

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

__all__ = ["Adam", "AdamW"]

_PLAIN = torch.nn.Parameter
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class _AdamStep(MaskedStep):
    """What both have in common beside their place among torch's classes."""

    _state_dtype: torch.dtype | None = None

    def _prepare(self, state_dtype: torch.dtype | None) -> None:
        if state_dtype not in (None, torch.float32):
            raise ArgumentError(
                f"state_dtype: {shown(state_dtype)}; accepted: torch.float32, or None for that of each "
                "parameter"
            )
        self._state_dtype = state_dtype
        self._begin()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. With ``state_dtype``, saved states keep the precision that they were saved in."""
        if self._state_dtype is None:
            super().load_state_dict(state_dict)
            return
        taken: list[dict[str, Any]] = []  # as the hooks of others leave it, and before those of others see it
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, state: taken.append(state)),
            self.register_load_state_dict_post_hook(lambda _: self._take(taken[0]), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _take(self, state_dict: Mapping[str, Any]) -> None:
        pairs = (
            (number, parameter)
            for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=True)
            for number, parameter in zip(saved["params"], own["params"], strict=True)
        )
        for number, parameter in pairs:
            for key in _MOMENTS:
                if (value := state_dict["state"].get(number, {}).get(key)) is not None:
                    self.state[parameter][key] = value.detach().to(
                        device=parameter.device, dtype=self._state_dtype, copy=True
                    )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_state_dtype": self._state_dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for kept in self.state.values():  # torch's other steps may count in float64
            if torch.is_tensor(kept.get("step")) and kept["step"].dtype != torch.float32:
                kept["step"] = kept["step"].float()

    def _options(self, group: Mapping[str, Any]) -> Iterable[float]:
        beta1, beta2 = group["betas"]
        decoupled = group.get("decoupled_weight_decay", isinstance(self, AdamW))
        numbers = group["lr"], beta1, beta2, group["eps"], group["weight_decay"]
        return (*map(float, numbers), decoupled, group["amsgrad"], group["maximize"])

    def _gather(self, now: Gathered, group: Mapping[str, Any], number: int) -> None:
        amsgrad, states = group["amsgrad"], self.state
        parameters, tensors, groups = now.parameters, now.tensors, now.groups
        for parameter in group["params"]:
            if (grad := parameter.grad) is None:
                continue
            if not (state := states[parameter]):
                self._begin_state(parameter, state, amsgrad)
            largest = state["max_exp_avg_sq"] if amsgrad else None
            found = (parameter, grad, state["exp_avg"], state["exp_avg_sq"], largest, state["step"])
            parameters.append(parameter)
            tensors += found if type(parameter) is _PLAIN else here(found)
            groups.append(number)

    def _begin_state(self, parameter: torch.Tensor, state: dict[str, Any], amsgrad: bool) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for key in _MOMENTS if amsgrad else _MOMENTS[:2]:
            state[key] = torch.zeros_like(
                parameter, dtype=self._state_dtype, memory_format=torch.preserve_format
            )

    def _step_outside(self, outside: Gathered, scale: Any, found_inf: Any) -> None:
        for entry in outside.entries():
            if entry.grad.is_sparse:
                raise RuntimeError(
                    "Adam does not support sparse gradients, please consider SparseAdam instead"
                )
            if self._state_dtype not in (None, entry.parameter.dtype):
                raise ArgumentError(
                    f"state_dtype: {self._state_dtype} with a parameter of {entry.parameter.dtype} and shape "
                    f"{tuple(entry.parameter.shape)} that is left to torch's step ({why_outside(entry)}), "
                    "which takes states of its dtype only. Make it row-major (contiguous()), or leave "
                    "state_dtype out"
                )
        for number, group in enumerate(self.param_groups):
            chosen = [
                entry for entry, of in zip(outside.entries(), outside.groups, strict=True) if of == number
            ]
            if not chosen:
                continue
            _, _, _, _, _, decoupled, amsgrad, maximize = self._options(group)
            parameters, grads, first, second, largest, steps = map(list, zip(*chosen, strict=True))
            step = adamw if decoupled else adam
            beta1, beta2 = group["betas"]
            step(
                parameters, grads, first, second, largest if amsgrad else [], steps,
                foreach=False, capturable=False, differentiable=False, fused=True,
                grad_scale=scale, found_inf=found_inf, amsgrad=bool(amsgrad), beta1=beta1, beta2=beta2,
                lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=bool(maximize),
            )  # fmt: skip


class Adam(_AdamStep, torch.optim.Adam):
    """``torch.optim.Adam`` with ``fused=True``, in one pass that holds masks (`hold`) at no further cost.

    Constructor, parameter groups, state and checkpoints are torch's: put it in the place of
    ``torch.optim.Adam``, or take it away, at any time. Hooks, closures, learning rate schedulers, GradScaler
    and trainers see torch's class.

    On the CPU the pass takes parameters whose tensors lie in memory alike (row-major, channels_last,
    transposed): all float32, all bfloat16, or 16-bit with float32 states. It gives the bits of torch's fused
    step (see `equals_torch`), whatever the number of threads. Of DTensors it takes what this rank holds. All
    others are stepped by torch's fused step, and their masks held after it; `held` says which.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: As torch's.
        foreach, capturable, differentiable, fused: There for the sake of torch's signature; only what a fused
            step does is accepted.
        state_dtype: ``torch.float32`` keeps the states of 16-bit parameters in float32, which torch does not
            do. None: in the dtype of each parameter.

    Raises:
        ArgumentError: ``foreach=True``, ``fused=False``, ``capturable=True`` or ``differentiable=True``,
            in a parameter group too, or another ``state_dtype``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        self._refuse(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        newer = {"decoupled_weight_decay": True} if decoupled_weight_decay else {}  # not in every torch
        torch.optim.Adam.__init__(
            self, params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, fused=True, **newer
        )
        self._prepare(state_dtype)


class AdamW(_AdamStep, torch.optim.AdamW):
    """``torch.optim.AdamW`` with ``fused=True``, in one pass that holds masks (`hold`) at no further cost.

    See `Adam`: all that is said there holds here.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        self._refuse(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        torch.optim.AdamW.__init__(
            self, params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, fused=True
        )
        self._prepare(state_dtype)
