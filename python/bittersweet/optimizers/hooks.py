"""Hooks on optimizers: before a step, when its gradients are there (inside its closure, if it has one), after
it.

A listener is referred to weakly unless asked otherwise. torch forgets an optimizer's hooks when it is copied
or pickled, so that a listener that is copied listens again by itself.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from .compilation import outside_of_compilation

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle

__all__ = ["Listener", "listen", "watch_all"]


class Listener(Protocol):
    """What `listen` calls."""

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer.step()` begins; a closure has not run yet."""

    def gradients_ready(self, optimizer: torch.optim.Optimizer, evaluation: int) -> None:
        """The gradients of this step are there: before the step (`evaluation` 0), or after its closure ran
        for the `evaluation`-th time, from 1."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer.step()` has returned."""


def listen(
    optimizers: Iterable[torch.optim.Optimizer], listener: Listener, *, keep_alive: bool = False
) -> list[RemovableHandle]:
    """Calls `listener` at every step of these optimizers, outside of graphs that torch.compile traces, until
    the handles are removed or (unless `keep_alive`) nobody else refers to it."""
    eagerly = outside_of_compilation()
    reference: Callable[[], Listener | None] = (lambda: listener) if keep_alive else weakref.ref(listener)
    depths: dict[int, int] = {}

    def begin(optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> Any:
        if depths.get(id(optimizer)) and _is_nested(optimizer):
            depths[id(optimizer)] += 1
            return None
        depths[id(optimizer)] = 1
        return _begin(reference, optimizer, arguments, named)

    def end(optimizer: torch.optim.Optimizer) -> None:
        depths[id(optimizer)] -= 1
        if not depths[id(optimizer)] and (listener := reference()) is not None:
            listener.after_step(optimizer)

    def before(optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> Any:
        return eagerly(begin, optimizer, arguments, named)

    def after(optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> None:
        eagerly(end, optimizer)

    handles = []
    for optimizer in optimizers:
        handles.append(optimizer.register_step_pre_hook(before))
        handles.append(optimizer.register_step_post_hook(after))
    return handles


def watch_all(step_taken: Callable[[torch.optim.Optimizer], None]) -> RemovableHandle:
    """Calls `step_taken` after every step of every torch optimizer of this process."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    eagerly = outside_of_compilation()
    return register_optimizer_step_post_hook(lambda optimizer, *_: eagerly(step_taken, optimizer))


def _begin(
    reference: Callable[[], Listener | None], optimizer: torch.optim.Optimizer, arguments: Any, named: Any
) -> Any:
    """The pre-hook: with a closure, what it returns takes the place of the step's arguments."""
    listener = reference()
    if listener is None:
        return None
    listener.before_step(optimizer)
    position = next((i for i, value in enumerate(arguments) if i and callable(value)), None)
    closure = named.get("closure") if position is None else arguments[position]
    if closure is None:
        listener.gradients_ready(optimizer, 0)
        return None
    looked_at = _with_a_look(closure, listener, optimizer)
    if position is None:
        return arguments, {**named, "closure": looked_at}
    return (*arguments[:position], looked_at, *arguments[position + 1 :]), named


def _with_a_look(
    closure: Callable[..., Any], listener: Listener, optimizer: torch.optim.Optimizer
) -> Callable[..., Any]:
    evaluations = 0

    @functools.wraps(closure, updated=())
    def evaluate(*arguments: Any, **named: Any) -> Any:
        nonlocal evaluations
        result = closure(*arguments, **named)
        evaluations += 1
        listener.gradients_ready(optimizer, evaluations)
        return result

    return evaluate


def _is_nested(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step runs inside another one of the same optimizer: a subclass whose step() calls its
    parent's, which torch has given hooks of its own. (A step that raised has left no trace of its end.)"""
    found, frame = 0, sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename.endswith("optimizer.py"):
            found += frame.f_locals.get("self") is optimizer
        if found == 2:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
