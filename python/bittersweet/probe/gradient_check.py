"""The test behind `GradientProbe`: how large gradients are over the batches, before and after a reduction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ArgumentError, Error
from ..options.values import as_bool, as_number
from ..tensors.masks import Mask

if TYPE_CHECKING:
    import torch

__all__ = ["Batches", "GradientTest", "ProbedLayer", "Rule", "Verdict"]


class Batches:
    """Batches that can be gone through again and again.

    Args:
        source: An iterable that is not an iterator (a list, a DataLoader), or a callable that returns a fresh
            iterable each time.

    Raises:
        ArgumentError: `source` is an iterator, which is used up after one pass, or neither.
    """

    def __init__(self, source: Any) -> None:
        if isinstance(source, Iterator):
            raise ArgumentError(
                f"batches: found a {type(source).__name__}, which can be gone through once; a probe goes "
                "through its batches twice or more. Pass a list, a DataLoader, or a callable that returns a "
                "fresh iterable, such as lambda: make_batches()"
            )
        if not (hasattr(source, "__iter__") or hasattr(source, "__getitem__") or callable(source)):
            raise ArgumentError(
                f"batches: found {type(source).__name__}; accepted: an iterable that can be gone through "
                "again (a list, a DataLoader), or a callable that returns a fresh iterable"
            )
        self._source = source
        self._fresh = not hasattr(source, "__iter__") and callable(source)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._source() if self._fresh else self._source)

    def __len__(self) -> int:
        """Raises TypeError where the source has no length."""
        return len(self._source)

    def generators(self) -> list[torch.Generator]:
        """The random generators of a DataLoader's own, which decide the order of its batches."""
        import torch

        found: dict[int, torch.Generator] = {}
        for path in ("generator", "sampler.generator", "batch_sampler.sampler.generator"):
            value = self._source
            for attribute in path.split("."):
                value = getattr(value, attribute, None)
            if isinstance(value, torch.Generator):
                found[id(value)] = value
        return list(found.values())


class Rule:
    """How much candidates are reduced, and what their gradients decide; see `GradientProbe`."""

    def __init__(self, reduction: Any, gradient_threshold: Any, prune_zero_gradients: Any) -> None:
        self.reduction = as_number("reduction", reduction, 0.0, 1.0)
        if self.reduction == 1.0:
            raise ArgumentError("reduction: 1 changes nothing; accepted: 0 <= reduction < 1 (published: 0.1)")
        self.gradient_threshold = as_number("gradient_threshold", gradient_threshold, -1.0, math.inf)
        self.prune_zero_gradients = as_bool("prune_zero_gradients", prune_zero_gradients)

    def lets_go(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Which candidates are pruned: ``after <= before * (1 + gradient_threshold)``, in FP32.

        The factor is rounded to FP32; one beyond its range lets everything go. ``before = after = 0`` keeps,
        unless `prune_zero_gradients`.
        """
        import torch

        factor = 1.0 + self.gradient_threshold
        if factor > torch.finfo(torch.float32).max:
            chosen = torch.ones_like(before, dtype=torch.bool)
        else:
            chosen = after <= before * factor
        silent = _silent(before, after)
        return chosen | silent if self.prune_zero_gradients else chosen & ~silent


class Verdict(NamedTuple):
    """Which weights of a layer go (bool, of its shape and device); how many candidates had no gradient."""

    pruned: torch.Tensor
    silent: int


class ProbedLayer:
    """One weight under test; `candidates` is bool, of its shape and device."""

    __slots__ = ("candidates", "name", "parameter")

    def __init__(self, name: str, parameter: torch.Tensor, proposed: Mask) -> None:
        self.name = name
        self.parameter = parameter
        self.candidates: torch.Tensor = proposed.bool().to(parameter.device)

    def reduce_(self, factor: float) -> None:
        """Multiplies the candidates by `factor`, in FP32, rounded to the weight's dtype."""
        import torch

        with torch.no_grad():
            self.parameter[self.candidates] *= factor

    def no_gradient(self) -> torch.Tensor:
        """The largest gradient of each candidate before the first batch."""
        import torch

        count = int(self.candidates.count_nonzero())
        return torch.zeros(count, dtype=torch.float32, device=self.parameter.device)

    def raise_to_(self, peak: torch.Tensor, gradient: torch.Tensor, index: int) -> None:
        """Takes one batch's gradient into the maxima of the candidates."""
        import torch

        dense = gradient.to_dense() if gradient.layout is not torch.strided else gradient
        if not bool(dense.isfinite().all()):
            raise Error(
                f"the gradient of '{self.name}' in batch {index} (counted from 0) is not finite, and a "
                "probe cannot compare it. Look at that batch; in float16, gradients above 65504 overflow: "
                "scale the loss down in loss_fn, or probe the model in bfloat16 or float32"
            )
        torch.maximum(peak, dense[self.candidates].float().abs(), out=peak)


class GradientTest:
    """Passes over the batches, and what they decide.

    Args:
        model: What `loss_fn` is called with. All its parameters are frozen but those under test.
        targets: All weights that may be pruned: the loss must depend on one of them at least.
        loss_fn: ``loss_fn(model, batch)`` gives a tensor of one element.
        batches: See `Batches`.
        rule: See `Rule`.
        rewind: Called before every pass; see `_preserve.preserved`.
        tick: Called after every batch.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        targets: Sequence[torch.Tensor],
        loss_fn: Callable[[Any, Any], Any],
        batches: Batches,
        rule: Rule,
        rewind: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        self._model = model
        self._targets = targets
        self._loss_fn = loss_fn
        self._batches = batches
        self._rule = rule
        self._rewind = rewind
        self._tick = tick
        self._connected = False
        self.batches = 0
        self.evaluations = 0

    def decide(self, layers: Sequence[ProbedLayer]) -> list[Verdict]:
        """Tests `layers` together, and leaves their candidates reduced.

        Raises:
            Error: A loss or a gradient is not finite.
            ArgumentError: No loss depends on any of the targets; there are no batches, or not as many as in
                the pass before; a loss is not a tensor of one element.
        """
        before = self._peaks(layers)
        for layer in layers:
            layer.reduce_(self._rule.reduction)
        after = self._peaks(layers)
        verdicts = []
        for layer, low, high in zip(layers, before, after, strict=True):
            pruned = layer.candidates.clone()
            pruned[layer.candidates] = self._rule.lets_go(low, high)
            verdicts.append(Verdict(pruned, int(_silent(low, high).count_nonzero())))
        return verdicts

    def _peaks(self, layers: Sequence[ProbedLayer]) -> list[torch.Tensor]:
        """The maximum of |gradient| over the batches for each candidate, in FP32, layer by layer.

        A weight that a loss does not depend on has gradient 0 there.
        """
        import torch

        self._rewind()
        parameters = [layer.parameter for layer in layers]
        peaks = [layer.no_gradient() for layer in layers]
        self._require_grad_only(parameters)
        count = 0
        for index, batch in enumerate(self._batches):
            loss = self._loss(batch, index)
            if loss.requires_grad:
                self._connected = True
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                for layer, peak, gradient in zip(layers, peaks, gradients, strict=True):
                    if gradient is not None:
                        layer.raise_to_(peak, gradient, index)
                del gradients, gradient
            del loss
            count = index + 1
            self.evaluations += 1
            self._tick()
        self._check_count(count)
        if not self._connected:
            self._check_connection()
        return peaks

    def _require_grad_only(self, wanted: Sequence[torch.Tensor]) -> None:
        chosen = {id(parameter) for parameter in wanted}
        for parameter in self._model.parameters():
            if parameter.requires_grad != (id(parameter) in chosen):
                parameter.requires_grad_(id(parameter) in chosen)

    def _loss(self, batch: Any, index: int) -> torch.Tensor:
        import torch

        loss = self._loss_fn(self._model, batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            found = f"a {type(loss).__name__}"
            if isinstance(loss, torch.Tensor):
                found = f"a {loss.dtype} tensor of shape {tuple(loss.shape)}"
            raise ArgumentError(
                f"loss_fn: it returned {found} for batch {index}; accepted: a floating-point tensor of one "
                "element, such as the mean loss of the batch"
            )
        if not bool(loss.detach().isfinite()):
            raise Error(
                f"the loss of batch {index} (counted from 0) is {float(loss.detach())}; a probe needs finite "
                "losses. Look at that batch and at the weights"
            )
        return loss.reshape(())

    def _check_count(self, count: int) -> None:
        if not count:
            raise ArgumentError(
                "batches: they are empty; give at least one batch. (A callable must return a fresh iterable "
                "each time, not the same iterator)"
            )
        if self.batches and count != self.batches:
            raise ArgumentError(
                f"batches: {self.batches} in one pass and {count} in the next; every pass must go through "
                "the same batches"
            )
        self.batches = count

    def _check_connection(self) -> None:
        """Tells a layer that the loss does not use, which is fine, from a loss without any gradient."""
        self._rewind()
        self._require_grad_only(self._targets)
        self._connected = self._loss(next(iter(self._batches)), 0).requires_grad
        if not self._connected:
            raise ArgumentError(
                "loss_fn: its loss depends on none of the weights that can be pruned. It must compute the "
                "loss from the model it is given, with gradients enabled (no torch.no_grad(), detach() or "
                "item())"
            )


def _silent(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before == 0) & (after == 0)
