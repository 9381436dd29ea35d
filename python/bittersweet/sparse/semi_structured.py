"""`to_semi_structured`: 2:4 weights handed over to torch's own format, which CUDA devices multiply faster.

What torch demands is read off torch itself (`torch.sparse.semi_structured`). What it does not look at, the
pattern, is looked at here: its converters take two of every four weights whatever the others are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, Error
from ..model.wrappers import unwrap
from ..options.values import as_bool
from ..training.report import text_table
from ..whole.strip import require_stripped
from .packing import no_plain_layer

__all__ = ["SemiStructuredLayer", "SemiStructuredReport", "to_semi_structured"]

_OLDEST = (8, 0)  # compute capability: Ampere


@dataclass(frozen=True)
class SemiStructuredLayer:
    """One linear layer.

    Attributes:
        name: Its name in the model.
        shape: Outputs and inputs.
        dtype: Of its weight.
        converted: Whether its weight is in torch's format now.
        reasons: What keeps it from that, of the layer itself; empty where nothing does.
        machine: What keeps it from that, of the device that it is on; empty likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    converted: bool
    reasons: tuple[str, ...] = ()
    machine: str = ""

    @property
    def verdict(self) -> str:
        """``"converted"``, ``"fits"``, ``"fits, not here"`` or ``"stays dense"``."""
        if self.converted:
            return "converted"
        return "stays dense" if self.reasons else "fits, not here" if self.machine else "fits"


@dataclass(frozen=True)
class SemiStructuredReport:
    """All linear layers of a model. Prints as a table.

    Attributes:
        backend: Torch's kernels: ``"cusparselt"`` or ``"cutlass"``.
        layers: One row a layer, in the order of the model.
    """

    backend: str
    layers: Sequence[SemiStructuredLayer]

    @property
    def converted(self) -> list[str]:
        """Names of the layers that were converted."""
        return [layer.name for layer in self.layers if layer.converted]

    @property
    def fitting(self) -> list[str]:
        """Names of the layers that have pattern, shape and dtype for it, wherever they are."""
        return [layer.name for layer in self.layers if not layer.reasons]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [asdict(row) | {"verdict": row.verdict} for row in self.layers]
        return {"backend": self.backend, "layers": rows}

    def __str__(self) -> str:
        rows = [("layer", "shape", "dtype", "verdict")]
        rows += [(row.name, "x".join(map(str, row.shape)), row.dtype, row.verdict) for row in self.layers]
        head, rule, *lines = text_table(rows).splitlines()
        reasons = ["; ".join(row.reasons) or row.machine for row in self.layers]
        table = [f"{line}  {reason}".rstrip() for line, reason in zip(lines, reasons, strict=True)]
        counts = Counter(row.verdict for row in self.layers)
        summary = "; ".join(f"{count} of {len(self.layers)}: {verdict}" for verdict, count in counts.items())
        end = f"torch's backend is {self.backend}. {summary or 'There is no linear layer'}"
        return "\n".join([f"{head}  reason", rule + "-" * len("  reason"), *table, end])

    def __repr__(self) -> str:
        return f"SemiStructuredReport({self.backend}, {len(self.converted)} of {len(self.layers)} converted)"


def to_semi_structured(model: nn.Module, *, dry_run: bool = False) -> SemiStructuredReport:
    """Puts the weights of linear layers with a 2:4 pattern into torch's semi-structured format, in place.

    For inference: torch computes no gradients of such weights. Each ``nn.Linear`` is looked at: its pattern
    (at most 2 of every 4 neighbouring inputs are not 0; for float32, which torch's CUTLASS kernels take as
    1:2, at most 1 of every 2), dtype, shape and contiguity as the backend wants them, the dtype of its bias,
    and its device. What fits is converted by ``torch.sparse.to_sparse_semi_structured``, and the other layers
    stay as they are; the report says why. The backend is torch's choice: cuSPARSELt, or CUTLASS under
    ``torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS``.

    Args:
        model: The model, pruned with ``scope="2:4"``.
        dry_run: Only look, on any machine.

    Returns:
        What was converted (or, dry, what fits) and what not, layer by layer; prints as a table.

    Raises:
        ArgumentError: Not one layer can be converted, with the report. Not with `dry_run`.
        Error: A pruner of the model is not finalized, or see `strip`; or torch refuses a layer after all.
            Nothing has been changed in any of these cases.
    """
    dry_run, model = as_bool("dry_run", dry_run), unwrap(model)
    require_stripped(model)
    cls = _backend()
    addresses = Counter(
        weight.data_ptr() for _, weight in model.named_parameters(remove_duplicate=False) if weight.numel()
    )
    found = [
        (layer, _row(name, layer, parent, addresses, cls)) for name, layer, parent in _linear_layers(model)
    ]
    report = SemiStructuredReport(cls.BACKEND, [row for _, row in found])
    if dry_run:
        return report
    ready = [(layer, row) for layer, row in found if row.verdict == "fits"]
    if not ready:
        raise ArgumentError(f"model: not one of its linear layers can be converted:\n{report}")
    _convert(ready)
    done = {row.name for _, row in ready}
    rows = [
        SemiStructuredLayer(row.name, row.shape, row.dtype, True) if row.name in done else row
        for row in report.layers
    ]
    return SemiStructuredReport(cls.BACKEND, rows)


def _backend() -> Any:
    """The class that torch would convert to."""
    force = torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS
    return (
        torch.sparse.SparseSemiStructuredTensorCUTLASS
        if force
        else torch.sparse.SparseSemiStructuredTensorCUSPARSELT
    )


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear, nn.Module | None]]:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            yield name, layer, model.get_submodule(name.rpartition(".")[0]) if name else None


def _row(
    name: str, layer: nn.Linear, parent: nn.Module | None, addresses: Counter[int], cls: Any
) -> SemiStructuredLayer:
    shape = (layer.out_features, layer.in_features)
    reason = no_plain_layer(layer, parent)
    if not reason and type(layer) is not nn.Linear:
        reason = f"a {type(layer).__name__} may do more than a Linear does"
    if reason:
        return SemiStructuredLayer(name, shape, "", False, (reason,))
    weight = layer.weight.detach()
    reasons = list(_misfits(weight, layer.bias, cls))
    if addresses[weight.data_ptr()] > 1:
        reasons.append("its weight is tied to another parameter")
    dtype = str(weight.dtype).removeprefix("torch.")
    return SemiStructuredLayer(name, shape, dtype, False, tuple(reasons), _machine(weight, cls))


def _misfits(weight: torch.Tensor, bias: torch.Tensor | None, cls: Any) -> Iterator[str]:
    """What of a matrix and its bias the backend does not take."""
    dtype = str(weight.dtype).removeprefix("torch.")
    wanted = cls._DTYPE_SHAPE_CONSTRAINTS.get(weight.dtype)
    if wanted is None:
        names = ", ".join(str(known).removeprefix("torch.") for known in cls._DTYPE_SHAPE_CONSTRAINTS)
        yield f"{cls.BACKEND} takes {names}, not {dtype}; convert it first"
    else:
        rows, columns = wanted.sparse_min_rows, wanted.sparse_min_cols
        if not weight.numel() or weight.shape[0] % rows or weight.shape[1] % columns:
            yield f"{cls.BACKEND} wants multiples of {rows}x{columns} in {dtype}"
    if not weight.is_contiguous():
        yield "its weight is not contiguous; weight.data = weight.data.contiguous()"
    if bias is not None and bias.dtype != weight.dtype:
        yield f"its bias is {str(bias.dtype).removeprefix('torch.')} and its weight {dtype}"
    keep, of = (1, 2) if wanted is not None and weight.dtype == torch.float32 else (2, 4)
    if weight.is_meta:
        yield "its weight has no values (meta device)"
    elif weight.shape[1] % of:
        yield f"{weight.shape[1]} inputs are no whole groups of {of}"
    elif full := _full_groups(weight, keep, of):
        groups = weight.numel() // of
        yield (
            f"{full:,} of {groups:,} groups of {of} inputs have more than {keep} non-zeros; prune it with "
            f"scope='{keep}:{of}'"
        )


def _full_groups(weight: torch.Tensor, keep: int, of: int) -> int:
    live = (weight != 0).reshape(-1, of).sum(1, dtype=torch.int8)
    return int((live > keep).sum())


def _machine(weight: torch.Tensor, cls: Any) -> str:
    """What the device of a weight lacks; empty if nothing."""
    if weight.device.type != "cuda":
        return f"it is on {weight.device}, and torch converts on CUDA devices alone"
    capability = torch.cuda.get_device_capability(weight.device)
    if torch.version.hip is None and capability < _OLDEST:
        return f"{weight.device} has compute capability {capability[0]}.{capability[1]}; 8.0 is the least"
    if cls.BACKEND == "cusparselt" and not torch.backends.cusparselt.is_available():
        return "this torch has no cuSPARSELt; set SparseSemiStructuredTensor._FORCE_CUTLASS = True"
    return ""


def _convert(ready: Sequence[tuple[nn.Linear, SemiStructuredLayer]]) -> None:
    """Converts all of these layers, or none."""
    made = []
    for layer, row in ready:
        try:
            converted = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        except (RuntimeError, NotImplementedError) as error:
            raise Error(
                f"model: torch does not convert '{row.name}' ({error}); nothing has been changed"
            ) from None
        made.append(nn.Parameter(converted, requires_grad=False))
    for (layer, _), weight in zip(ready, made, strict=True):
        layer.weight = weight
