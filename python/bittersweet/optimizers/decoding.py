"""Moments that are kept in another form than one number per element: blocks of 8-bit codes, and factors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MissingStateError
from .adapters import Moment

if TYPE_CHECKING:
    import torch

__all__ = ["FACTORED", "FACTORED_MEANS", "blockwise"]

_BLOCK = 256  # elements under one maximum in bitsandbytes' 8-bit optimizers


def blockwise(number: int, part: int | None = None) -> Moment:
    """bitsandbytes' ``state1`` or ``state2``: float32 numbers, or 8-bit codes with a maximum per block."""
    key = f"state{number}"
    return Moment((key,), part, functools.partial(_from_codes, number=number, part=part), (key,))


def _from_codes(
    entry: Mapping[str, Any], _: torch.Tensor, *, number: int, part: int | None
) -> torch.Tensor | None:
    codes, maxima = entry.get(f"state{number}"), entry.get(f"absmax{number}")
    table = entry.get(f"qmap{number}")
    if codes is None:
        return None
    if maxima is None or table is None:
        raise MissingStateError(
            f"state{number} of a bitsandbytes optimizer is quantised without blocks, which Bittersweet "
            "cannot read. Make the optimizer with block_wise=True, or choose a scorer that does without its "
            "state (magnitude, gradient, taylor, random)"
        )
    if part is not None:
        codes, maxima = codes[part], maxima[part]
    values = table[codes.reshape(-1).long()]
    scales = maxima.reshape(-1).repeat_interleave(_BLOCK)[: values.numel()]
    found: torch.Tensor = (values * scales).reshape(codes.shape)
    return found


def _outer(entry: Mapping[str, Any], _: torch.Tensor) -> torch.Tensor | None:
    """torch's Adafactor: row_var @ col_var / mean(row_var).

    torch puts a floor under that mean, for its own division; it would shrink the moments of small gradients
    beside those of others and is left out.
    """
    row, column = entry.get("row_var"), entry.get("col_var")
    if row is None or column is None:
        return None
    found: torch.Tensor = _shares(row, -2) @ column
    return found


def _outer_of_means(entry: Mapping[str, Any], _: torch.Tensor) -> torch.Tensor | None:
    """The Adafactor of transformers and others: the same from factors without the axis that was averaged."""
    row, column = entry.get("exp_avg_sq_row"), entry.get("exp_avg_sq_col")
    if row is None or column is None:
        return None
    found: torch.Tensor = _shares(row, -1).unsqueeze(-1) * column.unsqueeze(-2)
    return found


def _shares(row: torch.Tensor, axis: int) -> torch.Tensor:
    import torch

    return row / row.mean(dim=axis, keepdim=True).clamp_(min=torch.finfo(row.dtype).tiny)


FACTORED = Moment(("variance",), decode=_outer, sources=("row_var", "col_var"))
FACTORED_MEANS = Moment(("exp_avg_sq",), decode=_outer_of_means, sources=("exp_avg_sq_row", "exp_avg_sq_col"))
