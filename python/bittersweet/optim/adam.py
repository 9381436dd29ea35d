"""`Adam` and `AdamW`: torch's optimizers of these names, in one masked pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adam import adam  # torch.optim itself lacks these names
from torch.optim.adamw import adamw

from ..distributed.shards import is_dtensor
from ..errors import ArgumentError, DTypeError, ShapeError
from ..options.values import as_int, one_of, shown
from .entries import Gathered, here, rate_of, why_outside
from .masked import MaskedStep

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

__all__ = ["Adam", "AdamW"]

_PLAIN = torch.nn.Parameter
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_NARROW = frozenset((torch.float16, torch.bfloat16))
_ROUNDING = ("rounding", "rounding_seed")


class _AdamStep(MaskedStep):
    """What both have in common beside their place among torch's classes."""

    _state_dtype: torch.dtype | None = None

    def _prepare(self, state_dtype: torch.dtype | None, rounding: str, rounding_seed: int) -> None:
        if state_dtype not in (None, torch.float32):
            raise ArgumentError(
                f"state_dtype: {shown(state_dtype)}; accepted: torch.float32, or None for that of each "
                "parameter"
            )
        self._state_dtype = state_dtype
        given = {"rounding": rounding, "rounding_seed": rounding_seed}
        if _seed_of(given) is not None:
            self.defaults.update(given)
        self._complete()
        self._begin()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        _seed_of(param_group)
        super().add_param_group(param_group)

    def _complete(self) -> None:
        """Groups that do not say how they are rounded, as those of torch's checkpoints, take the default."""
        for group in self.param_groups:
            for key in _ROUNDING if "rounding" in self.defaults else ():
                group.setdefault(key, self.defaults[key])

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
        self._complete()
        for parameter, kept in self.state.items():  # torch's other steps may count in float64, or on the CPU
            if torch.is_tensor(kept.get("step")):
                kept["step"] = kept["step"].to(parameter.device, torch.float32)

    def _options(self, group: Mapping[str, Any]) -> Iterable[float]:
        beta1, beta2 = group["betas"]
        decoupled = group.get("decoupled_weight_decay", isinstance(self, AdamW))
        lr = 0.0 if rate_of(group) is not None else group["lr"]  # it is read where it lies
        numbers = lr, beta1, beta2, group["eps"], group["weight_decay"]
        seed = _seed_of(group)
        drawn = (0, 0, 0) if seed is None else (1, seed & 0xFFFFFFFF, seed >> 32)
        return (*map(float, numbers), decoupled, group["amsgrad"], group["maximize"], *drawn)

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

    def _check(self, inside: Iterable[Gathered], outside: Gathered) -> None:
        drawing = [_seed_of(group) is not None for group in self.param_groups]
        if not any(drawing):
            return
        pairs = (pair for part in inside for pair in zip(part.parameters, part.groups, strict=True))
        for parameter, group in pairs:
            if drawing[group] and parameter.dtype == torch.float16:
                raise DTypeError(
                    f"rounding: 'stochastic' with a parameter of {parameter.dtype} and shape "
                    f"{tuple(parameter.shape)}; accepted: bfloat16, and float32, which needs no rounding"
                )
            if drawing[group] and type(parameter) is not _PLAIN and is_dtensor(parameter):
                raise ArgumentError(
                    f"rounding: 'stochastic' with a DTensor of shape {tuple(parameter.shape)}, whose parts "
                    "on the ranks would draw the same bits; accepted: plain parameters. Leave it out, or "
                    "give this parameter a group with rounding='nearest'"
                )
        for entry, group in zip(outside.entries(), outside.groups, strict=True):
            stored = (entry.parameter.dtype, entry.exp_avg.dtype, entry.exp_avg_sq.dtype)
            if drawing[group] and not _NARROW.isdisjoint(stored):
                why = why_outside(entry) or "it shares memory with another one"
                raise ArgumentError(
                    f"rounding: 'stochastic' with a parameter of {entry.parameter.dtype} and shape "
                    f"{tuple(entry.parameter.shape)} that is left to torch's step ({why}), which rounds "
                    "to nearest. Make it row-major (contiguous()), or give it a group with rounding='nearest'"
                )

    def _step_outside(self, outside: Gathered, scale: Any, found_inf: Any) -> None:
        for entry in outside.entries():
            if entry.grad.is_sparse:
                raise RuntimeError(
                    "Adam does not support sparse gradients, please consider SparseAdam instead"
                )
            shapes = [tuple(tensor.shape) for tensor in entry[:5] if tensor is not None]
            if len(set(shapes)) > 1:  # torch's fused step would read and write beyond their ends
                raise ShapeError(
                    f"state of a parameter of shape {shapes[0]}: gradient, exp_avg and so on have the shapes "
                    f"{', '.join(map(str, shapes[1:]))}; they must be equal. Load the state_dict() of an "
                    "optimizer of this model"
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
            _, _, _, _, _, decoupled, amsgrad, maximize, *_ = self._options(group)
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

    The pass takes parameters whose tensors lie in memory alike (row-major; on the CPU also channels_last,
    transposed): all float32, all bfloat16, or 16-bit with float32 states. On the CPU it gives the bits of
    torch's fused step (see `equals_torch`), whatever the number of threads, and on CUDA devices the CPU's.
    There it is enqueued on torch's current stream and waits for nothing: step counts, a learning rate that is
    a tensor there, ``grad_scale`` and ``found_inf`` are read on the device. Of DTensors it takes what this
    rank holds. All others are stepped by torch's fused step, and their masks held after it; `held` says
    which. Parameters may be on several devices.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: As torch's.
        foreach, differentiable, fused: There for the sake of torch's signature; only what a fused step does
            is accepted.
        capturable: Whether a step may be captured into a CUDA graph; for parameters on CUDA devices. Masks,
            and learning rates that are numbers, are captured as they are: capture again after a change.
        state_dtype: ``torch.float32`` keeps the states of 16-bit parameters in float32, which torch does not
            do. None: in the dtype of each parameter.
        rounding: ``"stochastic"`` rounds bfloat16 weights, ``exp_avg`` and ``exp_avg_sq`` to one of their two
            neighbours, the nearer the likelier (see `stochastic_round_`), so that no small update is lost. It
            is the same pass; pruned weights stay 0, float32 tensors are not rounded, ``max_exp_avg_sq`` is to
            nearest. ``"nearest"``: as torch.
        rounding_seed: Of the random bits, which are drawn by seed, step count, number of the parameter and
            element in the order of memory: replicas stay equal, and a run that is resumed from
            ``state_dict()`` has the same bits. Both are options of a parameter group and part of its
            checkpoint, as ``lr`` is.

    Raises:
        ArgumentError: ``foreach=True``, ``fused=False`` or ``differentiable=True``, ``capturable=True`` with
            a parameter on the CPU, in a parameter group too, or another ``state_dtype`` or ``rounding``. By
            ``step()``, before anything is written: stochastic rounding of a 16-bit parameter that torch
            steps, or of a DTensor.
        Error: By ``step()``: the current stream is being captured, without `capturable`.
        DTypeError: By ``step()``: stochastic rounding of a float16 parameter.
        ShapeError: By ``step()``, before anything is written: states that were loaded are of another shape
            than their parameter.
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
        rounding: str = "nearest",
        rounding_seed: int = 0,
    ) -> None:
        self._refuse(foreach=foreach, differentiable=differentiable, fused=fused)
        newer = {"decoupled_weight_decay": True} if decoupled_weight_decay else {}  # not in every torch
        torch.optim.Adam.__init__(
            self,
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            capturable=capturable,
            fused=True,
            **newer,
        )
        self._prepare(state_dtype, rounding, rounding_seed)


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
        rounding: str = "nearest",
        rounding_seed: int = 0,
    ) -> None:
        self._refuse(foreach=foreach, differentiable=differentiable, fused=fused)
        torch.optim.AdamW.__init__(
            self,
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            capturable=capturable,
            fused=True,
        )
        self._prepare(state_dtype, rounding, rounding_seed)


def _seed_of(group: Mapping[str, Any]) -> int | None:
    """The seed of stochastic rounding; None if a group rounds to nearest."""
    if (rounding := group.get("rounding", "nearest")) == "nearest":
        return None
    one_of("rounding", rounding, ("nearest", "stochastic"))
    seed = group.get("rounding_seed", 0)
    return as_int("rounding_seed", seed, 0, 2**63 - 1, "an integer from 0 to 2**63 - 1")
