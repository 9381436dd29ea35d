"""Stand-in until adapters are merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from . import optimizer_state

if TYPE_CHECKING:
    import torch

__all__ = ["Optimizers"]


class Optimizers:
    def __init__(self, inner: tuple[Any, ...], outer: tuple[Any, ...]) -> None:
        self.inner, self.outer = inner, outer

    @classmethod
    def of(cls, given: Any) -> Optimizers:
        if isinstance(given, Optimizers):
            return given
        if given is None:
            return cls((), ())
        given = given if isinstance(given, (list, tuple)) else [given]
        inner = tuple(optimizer_state.innermost(one) for one in given)
        outer = []
        for one, core in zip(given, inner, strict=True):
            while not (
                hasattr(one, "_optimizer_step_post_hooks") and getattr(type(one).step, "hooked", False)
            ):
                if one is core:
                    break
                one = one.optimizer
            outer.append(one)
        return cls(inner, tuple(outer))

    def __bool__(self) -> bool:
        return bool(self.inner)

    def groups(self) -> dict[int, Mapping[str, Any]]:
        return {k: v for one in self.inner for k, v in optimizer_state.groups_of(one).items()}

    def _of(self, parameter: Any) -> Any:
        return next((one for one in self.inner if parameter in one.state), None)

    def read(self, parameter: Any, group: Any = None, with_step: bool = False, decode: bool = False) -> Any:
        return optimizer_state.read(self._of(parameter), parameter, group, with_step)

    def companions(self, parameter: Any) -> dict[str, torch.Tensor]:
        return {}

    def element_state(self, parameter: Any) -> dict[str, torch.Tensor]:
        return optimizer_state.element_state(self._of(parameter), parameter)

    def require_elementwise(self) -> None:
        for one, outer in zip(self.inner, self.outer, strict=True):
            if optimizer_state.family(one) is None or outer is not one:
                raise ArgumentError(
                    f"hold: 'grads' with {type(outer).__name__}, which is not known to update element by "
                    f"element; known: {', '.join(optimizer_state.ELEMENTWISE)}. Use hold='weights'"
                )

    def require_state(self, reads: frozenset[str], scorer: str) -> None:
        for one in self.inner:
            kept = optimizer_state.kept_moments(one)
            moments = sorted(reads & {"exp_avg", "exp_avg_sq"})
            lacking = [] if kept is None else [name for name in moments if name not in kept]
            if lacking:
                raise ArgumentError(
                    f"optimizer: {type(one).__name__} keeps no {', '.join(lacking)}, and scorer '{scorer}' "
                    "reads it. Use Adam or AdamW, or a scorer that does without (magnitude, gradient, taylor, random)"
                )

    def held(self, mask_state: bool) -> str:
        return "weights and optimizer state" if mask_state else "weights"

    def unknown(self) -> tuple[str, ...]:
        return ()

    def evaluates_again(self) -> str | None:
        return None
