"""What a gradient probe did, as data that prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..select.events import encode
from ..training.report import text_table

__all__ = ["ProbeIteration", "ProbeLayer", "ProbeResult", "ProbeRound"]


@dataclass(frozen=True)
class ProbeLayer:
    """One weight in one probe. Counts are of elements.

    Attributes:
        name: Its name.
        elements: Its size.
        dead: Pruned before this probe.
        candidates: Live elements that the scorer proposed.
        pruned: Candidates that the gradient test let go.
        zero_gradients: Candidates whose gradients were 0 before and after the reduction.
    """

    name: str
    elements: int
    dead: int
    candidates: int
    pruned: int
    zero_gradients: int

    @property
    def kept(self) -> int:
        """Candidates that the gradient test kept, at their original value."""
        return self.candidates - self.pruned

    @property
    def sparsity(self) -> float:
        """Share of dead elements after the probe."""
        return (self.dead + self.pruned) / self.elements if self.elements else 0.0


@dataclass(frozen=True)
class ProbeResult:
    """One probe: prints as a table, `to_dict` for JSON. Counts are of elements.

    Attributes:
        requested_sparsity: Share of all target elements that was asked for: an upper bound.
        layers: Every target, in the order of the model.
        threshold: Highest score among the candidates; None for scopes without a single threshold.
        scorer, scope, order: By name.
        reduction, gradient_threshold: As given.
        batches: Batches of one pass; 0 if there were no candidates and so no pass.
        evaluations: How often a loss and its gradients were computed.
        milliseconds: Wall time of the whole call.
    """

    requested_sparsity: float
    layers: tuple[ProbeLayer, ...]
    threshold: float | None
    scorer: str
    scope: str
    order: str
    reduction: float
    gradient_threshold: float
    batches: int
    evaluations: int
    milliseconds: float

    @property
    def total(self) -> int:
        return sum(layer.elements for layer in self.layers)

    @property
    def candidates(self) -> int:
        return sum(layer.candidates for layer in self.layers)

    @property
    def pruned(self) -> int:
        """Newly pruned."""
        return sum(layer.pruned for layer in self.layers)

    @property
    def kept(self) -> int:
        """Candidates that the gradient test kept."""
        return self.candidates - self.pruned

    @property
    def zero_gradients(self) -> int:
        return sum(layer.zero_gradients for layer in self.layers)

    @property
    def achieved_sparsity(self) -> float:
        """Share of dead elements after the probe, earlier ones included."""
        dead = sum(layer.dead for layer in self.layers) + self.pruned
        return dead / self.total if self.total else 0.0

    @property
    def per_tensor(self) -> Mapping[str, float]:
        """Sparsity after the probe, by name."""
        return {layer.name: layer.sparsity for layer in self.layers}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinities become the strings ``"inf"`` and ``"-inf"``."""
        values = {item.name: encode(getattr(self, item.name)) for item in fields(self)}
        values["layers"] = [asdict(layer) | {"sparsity": layer.sparsity} for layer in self.layers]
        for key in ("achieved_sparsity", "candidates", "pruned", "kept", "zero_gradients", "total"):
            values[key] = getattr(self, key)
        return values

    def __repr__(self) -> str:
        return (
            f"ProbeResult({len(self.layers)} weights, requested {self.requested_sparsity:.4f}, achieved "
            f"{self.achieved_sparsity:.4f}; print it for the table)"
        )

    def __str__(self) -> str:
        rows: list[Sequence[str]] = [
            ("tensor", "elements", "candidates", "pruned", "kept", "no gradient", "sparsity")
        ]
        for layer in self.layers:
            counts = (layer.elements, layer.candidates, layer.pruned, layer.kept, layer.zero_gradients)
            rows.append((layer.name, *(f"{count:,}" for count in counts), f"{layer.sparsity:.4f}"))
        lines = (
            f"gradient probe: sparsity {self.achieved_sparsity:.4f} (requested "
            f"{self.requested_sparsity:.4f}); of {self.candidates:,} candidates {self.pruned:,} pruned, "
            f"{self.kept:,} kept by the gradient test",
            f"  {self.scorer}, scope {self.scope}, order {self.order}, reduction {self.reduction:g}, "
            f"gradient threshold {self.gradient_threshold:g}",
            f"  {self.batches:,} batches, {self.evaluations:,} losses with gradients, "
            f"{self.milliseconds:.1f} ms",
            text_table(rows),
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class ProbeRound:
    """One round of `GradientProbe.iterate`: what was probed, the metric after it, and whether it stays."""

    result: ProbeResult
    metric: float
    accepted: bool


@dataclass(frozen=True)
class ProbeIteration:
    """The rounds of `GradientProbe.iterate`: prints as a table, `to_dict` for JSON.

    Attributes:
        reference: The metric before the first round.
        budget: How much worse than that it may become.
        lower_is_better: The direction of the metric.
        initial_sparsity: Share of dead elements before the first round.
        rounds: In order; only the last can be one that was not accepted.
        stopped: Why it ended: ``"budget"`` (the last round was undone), ``"limit"`` (everything that the
            scope allows has been asked for or is dead) or ``"on_round"``.
    """

    reference: float
    budget: float
    lower_is_better: bool
    initial_sparsity: float
    rounds: tuple[ProbeRound, ...]
    stopped: str

    @property
    def accepted(self) -> tuple[ProbeRound, ...]:
        """The rounds that stay; none if the first one failed and the model is as it was found."""
        return tuple(one for one in self.rounds if one.accepted)

    @property
    def metric(self) -> float:
        """Of the model as it is left."""
        return self.accepted[-1].metric if self.accepted else self.reference

    @property
    def requested_sparsity(self) -> float:
        """Of the last accepted round."""
        return self.accepted[-1].result.requested_sparsity if self.accepted else self.initial_sparsity

    @property
    def achieved_sparsity(self) -> float:
        """Of the model as it is left."""
        return self.accepted[-1].result.achieved_sparsity if self.accepted else self.initial_sparsity

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinities and NaN become strings."""
        values = {item.name: encode(getattr(self, item.name)) for item in fields(self)}
        values["rounds"] = [
            {"result": one.result.to_dict(), "metric": encode(one.metric), "accepted": one.accepted}
            for one in self.rounds
        ]
        for key in ("metric", "requested_sparsity", "achieved_sparsity"):
            values[key] = encode(getattr(self, key))
        return values

    def __repr__(self) -> str:
        return (
            f"ProbeIteration({len(self.rounds)} rounds, achieved {self.achieved_sparsity:.4f}, metric "
            f"{self.metric:.4g}; print it for the table)"
        )

    def __str__(self) -> str:
        rows = [("round", "requested", "achieved", "candidates", "pruned", "metric", "", "ms")]
        rows += [
            (
                str(number),
                f"{one.result.requested_sparsity:.4f}",
                f"{one.result.achieved_sparsity:.4f}",
                f"{one.result.candidates:,}",
                f"{one.result.pruned:,}",
                f"{one.metric:.6g}",
                "accepted" if one.accepted else "undone",
                f"{one.result.milliseconds:.1f}",
            )
            for number, one in enumerate(self.rounds, 1)
        ]
        sign = "+" if self.lower_is_better else "-"
        lines = (
            f"gradient probe, {len(self.accepted)} of {len(self.rounds)} rounds accepted: sparsity "
            f"{self.achieved_sparsity:.4f} (requested {self.requested_sparsity:.4f}), metric "
            f"{self.metric:.6g} (reference {self.reference:.6g}, budget {sign}{self.budget:g}); stopped by "
            f"{self.stopped}",
            text_table(rows),
        )
        return "\n".join(lines)
