"""What packing did, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..training.report import text_table

__all__ = ["PackReport", "PackedLayer"]


@dataclass(frozen=True)
class PackedLayer:
    """One layer.

    Attributes:
        name: Its name in the model.
        shape: Outputs and inputs.
        dtype: Of its weight.
        sparsity: Share of the weights that are not stored, or would not be.
        layout: ``"strips"`` or ``"delta"``; None: it was left as it is.
        dense_bytes: Bytes of the dense weight.
        bytes: Bytes of the weight now.
        batch_limit: The most rows of an input that meet the packed weight; beyond, tiles of it are unpacked
            for torch's dense product. None: any number, as on processors with AVX2. 0 where it was left as it
            is.
        reason: Why it was left; empty where it was packed.
        choice: The layout in memory and why: as asked, or from which share of zeros on "auto" takes delta.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    layout: str | None
    dense_bytes: int
    bytes: int
    batch_limit: int | None
    reason: str = ""
    choice: str = ""


@dataclass(frozen=True)
class PackReport:
    """All linear layers of a model, packed or left. Prints as a table."""

    layers: Sequence[PackedLayer]

    @property
    def packed(self) -> list[str]:
        """Names of the packed layers."""
        return [layer.name for layer in self.layers if layer.layout is not None]

    @property
    def left(self) -> dict[str, str]:
        """Why a layer was left as it is, by name."""
        return {layer.name: layer.reason for layer in self.layers if layer.layout is None}

    @property
    def dense_bytes(self) -> int:
        """Bytes of these layers' weights before."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of these layers' weights now."""
        return sum(layer.bytes for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [asdict(layer) | {"shape": list(layer.shape)} for layer in self.layers]
        return {"dense_bytes": self.dense_bytes, "bytes": self.bytes, "layers": rows}

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "shape", "dtype", "sparsity", "layout", "bytes", "of dense")]
        rows += [_row(layer) for layer in self.layers]
        rows.append(("all", "", "", "", "", f"{self.bytes:,}", _share(self.bytes, self.dense_bytes)))
        lines = [text_table(rows)]
        limits = {layer.batch_limit for layer in self.layers if layer.layout is not None} - {0, None}
        if limits:
            most = " or ".join(map(str, sorted(limit for limit in limits if limit)))
            lines.append(
                f"Inputs of up to {most} rows meet the packed weights; for larger ones tiles are unpacked "
                "into a scratch for torch's dense product."
            )
        lines += self._rules()
        lines += [f"{name}: left dense, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)

    def _rules(self) -> list[str]:
        """How layouts were chosen, each way once."""
        ways: dict[str, int] = {}
        for layer in self.layers:
            if layer.choice:
                ways[layer.choice] = ways.get(layer.choice, 0) + 1
        return [f"{choice} ({count} layer{'s' * (count != 1)})" for choice, count in ways.items()]

    def __repr__(self) -> str:
        share = _share(self.bytes, self.dense_bytes)
        return f"PackReport({len(self.packed)} of {len(self.layers)} layers packed, {share} of the bytes)"


def _row(layer: PackedLayer) -> tuple[str, ...]:
    return (
        layer.name,
        "x".join(map(str, layer.shape)),
        layer.dtype,
        f"{layer.sparsity:.4f}",
        layer.layout or "dense",
        f"{layer.bytes:,}",
        _share(layer.bytes, layer.dense_bytes),
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "100.0%"
