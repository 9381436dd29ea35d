"""`SparseLinear`: a linear layer whose weight is packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, DeviceError, DTypeError, Error
from ..model.layers import is_conv1d
from ..options.values import as_bool, as_int, one_of
from ..tensors import devices
from ..tensors.masks import Mask
from . import layouts, ops, strips

__all__ = ["SparseLinear"]


class SparseLinear(nn.Module):
    """A linear layer for inference whose weight is stored without its zeros.

    ``forward`` takes what the dense layer takes, in the dtype of the weight, on the CPU or on a CUDA device,
    where ``to("cuda")`` brings it. Sums are float32. A single row gives the same bits whatever
    the threads, the instruction set and the device, and with `reproducible` so do several: each row's are
    those that it has alone. Without it (the default) several rows may be added in another order on the CPU,
    which is faster: the bits then depend on the processor and the number of rows, and where the processor
    multiplies bfloat16 (AMX, AVX512_BF16), denormals of it are 0. Never on the threads, nor on the run.
    Beyond `batch_limit`, tiles of the weight are unpacked for torch's own product, whose bits may depend on
    the threads too.
    Gradients reach the input and the bias, by unpacking the weight for the time of the backward pass; the
    weight itself is no parameter and has none.

    Its ``state_dict`` holds ``masks`` (strips) or ``codes`` (delta), ``values``, ``offsets`` and ``bias``;
    loading checks that they fit together, and takes their layout. Make one by `pack_` or `from_linear`.

    Attributes:
        in_features, out_features: As of the dense layer.
        layout: ``"strips"``, a bit for every weight and the values, or ``"delta"``, the values with a byte
            each for their column. What delta does not store it does not multiply: an infinity or NaN in the
            input reaches the outputs whose weight for it is stored; with strips, dense layers, and more rows
            than `batch_limit`, all.
        live: How many weights are stored.
        reproducible: Whether the batch and the processor may not show in the bits. May be set at any time.
    """

    masks: torch.Tensor
    codes: torch.Tensor
    values: torch.Tensor
    offsets: torch.Tensor
    bias: nn.Parameter | None
    layout: str
    live: int

    def __init__(
        self, measured: strips.Measured, values: torch.Tensor, like: nn.Module, reproducible: bool = False
    ) -> None:
        super().__init__()
        self.reproducible = reproducible
        self.out_features, self.in_features = measured.shape
        self.hold(measured, values)
        self.register_parameter("bias", like.bias)  # type: ignore[arg-type]
        weight: Any = like.weight
        self._kind, self._trained = type(like), bool(weight.requires_grad)
        self.train(like.training)

    @classmethod
    def from_linear(
        cls,
        layer: nn.Module,
        mask: Mask | None = None,
        reproducible: bool = False,
        layout: str = "auto",
        batch: int = 1,
    ) -> SparseLinear:
        """A packed copy of a torch.nn.Linear or a Conv1D of transformers; the bias is shared.

        Args:
            layer: The dense layer; its weight is float32, float16 or bfloat16, on the CPU or a CUDA device.
            mask: Which weights to store, of the weight's shape. None: those whose bits are not all 0.
            reproducible: See above.
            layout: ``"strips"``, ``"delta"``, or ``"auto"``: the faster one on the CPU, which on a CUDA
                device is taken as well.
            batch: With "auto" on the CPU: how many rows an input is expected to have.

        Raises:
            ArgumentError: Another kind of layer, or the mask drops weights that are not +0.
            DTypeError, DeviceError: A weight of another dtype or elsewhere, or on a CUDA device for which
                this build has no engine.
        """
        matrix, keep = matrix_of(layer, mask)
        reproducible = as_bool("reproducible", reproducible)
        asked, batch = one_of("layout", layout, layouts.ACCEPTED), as_int("batch", batch, 1)
        measured, _ = layouts.choose(asked, matrix, keep, batch, reproducible)
        return cls(measured, layouts.pack(matrix, measured), layer, reproducible)

    def hold(self, measured: strips.Measured, values: torch.Tensor) -> None:
        """Takes this packed weight, of the same shape, in place of its own."""
        self._place(layouts.layout_of(measured.marks), measured.marks, values, measured.offsets)
        self.live = measured.live

    def _place(self, layout: str, *arrays: torch.Tensor) -> None:
        for name in (name for names in layouts.ARRAYS.values() for name in names):
            self._buffers.pop(name, None)
        self.layout = layout
        for name, array in zip(layouts.ARRAYS[layout], arrays, strict=True):
            self.register_buffer(name, array)

    def to_linear(self) -> nn.Module:
        """The dense layer, of the class that it was made from, bit for bit; the bias is shared."""
        dense = self.to_dense()
        sizes = (self.in_features, self.out_features)
        sizes = sizes[::-1] if self.transposed else sizes
        with torch.device("meta"):
            layer: Any = self._kind(*sizes)
        weight = dense.t().contiguous() if self.transposed else dense
        layer.weight = nn.Parameter(weight, requires_grad=self._trained)
        layer.register_parameter("bias", self.bias)
        layer.train(self.training)
        return layer  # type: ignore[no-any-return]

    def to_dense(self) -> torch.Tensor:
        """A new tensor of shape (out_features, in_features) with the weight's bits, zeros and all."""
        with torch.inference_mode(False):
            return ops.unpack_strips(*self._packed(), self.out_features, self.in_features)

    def kept(self) -> torch.Tensor:
        """Which weights are stored, as a bool tensor of shape (out_features, in_features)."""
        marks, values, offsets = self._packed()
        with torch.inference_mode(False):
            ones = torch.ones_like(values)
            return ops.unpack_strips(marks, ones, offsets, self.out_features, self.in_features) != 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(self.values.device.type):
            x = x.to(self.values.dtype)
        shape = self.out_features, self.in_features
        return ops.packed_linear(x, *self._packed(), self.bias, *shape, self.reproducible)

    @property
    def batch_limit(self) -> int | None:
        """The most rows that meet the packed weight; None: any number."""
        elements, values = self.out_features * self.in_features, self.values
        return ops.limit_of(self._packed()[0], values.numel(), elements, values.dtype, self.reproducible)

    @property
    def transposed(self) -> bool:
        """Whether the dense layer's weight is (inputs, outputs), as a Conv1D's."""
        return self._kind is not nn.Linear

    @property
    def density(self) -> float:
        """Share of the weights that are stored; 0.0 without weights."""
        return self.live / max(1, self.out_features * self.in_features)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return sum(tensor.nbytes for tensor in self._packed())

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the weight that it stands for."""
        return self.out_features * self.in_features * self.values.element_size()

    def extra_repr(self) -> str:
        share = self.nbytes / max(1, self.dense_nbytes)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {str(self.values.dtype)[6:]}, layout='{self.layout}', "
            f"density={self.density:.3f}, bytes={self.nbytes:,} ({share:.0%} of dense)"
        )

    def _packed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.codes if self.layout == "delta" else self.masks, self.values, self.offsets

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> SparseLinear:
        after = fn(self.values[:0])
        layouts.require_place(after)
        if after.dtype not in strips.CODES:
            raise DTypeError(f"a packed layer holds float32, float16 or bfloat16, not {str(after.dtype)[6:]}")
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        error_messages = arguments[-1]
        there = [name for name in layouts.LAYOUTS if prefix + layouts.ARRAYS[name][0] in state_dict]
        layout = there[0] if len(there) == 1 else self.layout
        names = layouts.ARRAYS[layout]
        found: list[Any] = [state_dict.get(prefix + name) for name in names]
        given = [name for name, array in zip(names, found, strict=True) if isinstance(array, torch.Tensor)]
        if given and len(given) < len(names):
            error_messages.append(
                f"'{prefix[:-1]}': found {' and '.join(given)} alone; a packed weight is {', '.join(names)}"
            )
            return
        if given:
            marks, values, offsets = found
            try:
                layouts.require_place(self.values)
                layouts.check(layout, marks, values, offsets, self.out_features, self.in_features)
            except Error as error:
                error_messages.append(f"'{prefix[:-1]}': {error}")
                return
            own = self._packed()
            if layout != self.layout or any(a.shape != b.shape for a, b in zip(own, found, strict=True)):
                room = [torch.zeros_like(array, device=own[0].device) for array in found]
                self._place(layout, room[0], room[1].to(own[1].dtype), room[2])
            self.live = layouts.live_of(marks, values, offsets)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def matrix_of(layer: nn.Module, mask: Mask | None) -> tuple[torch.Tensor, Mask | None]:
    """The weight as a contiguous (outputs, inputs) matrix, and its mask likewise."""
    if type(layer) is not nn.Linear and not is_conv1d(layer):
        raise ArgumentError(
            f"layer: found {type(layer).__name__}; accepted: torch.nn.Linear, transformers' Conv1D"
        )
    weight = layer.weight.detach()  # type: ignore[operator]
    if why := layouts.why_not_there(weight.device, devices.runtime.index_of(weight)):
        raise DeviceError(f"weight: on {why}")
    if is_conv1d(layer):
        weight = weight.t()
        mask = None if mask is None else Mask.from_bool(mask.bool().t().contiguous(), mask.name)
    return weight.contiguous(), mask
