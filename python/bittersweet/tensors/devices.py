"""Where memory lies: the host or a CUDA device, and what is asked of torch and of the compiled engine there.

Nothing is allocated but by ``torch.empty`` on the current stream, so that torch's allocator keeps memory that
a stream still reads from other uses, whatever the stream. Nothing waits for the device but `Runtime.fetch`'s
result.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core

if TYPE_CHECKING:
    import torch

HOST = -1
"""The device number of memory of the host; CUDA devices count from 0."""

Words = npt.NDArray[np.uint64]
HOW_TO_GET_CUDA = (
    "install a build with CUDA (from the sources, with the CUDA Toolkit 12.4 or newer: "
    "pip install . -C cmake.define.BITTERSWEET_CUDA=on)"
)


class Runtime:
    """What this package asks of torch and of the compiled engine about CUDA; tests put another here."""

    native: Any = _core

    def __init__(self) -> None:
        self._side: dict[int, Any] = {}

    def index_of(self, tensor: torch.Tensor) -> int:
        """The CUDA device of a tensor; `HOST` for any other kind of memory."""
        return tensor.get_device() if tensor.is_cuda else HOST

    def exchange_api(self) -> Any:
        """The functions that torch offers compiled code, with `index_of`'s devices in their descriptions of
        tensors; None if it has none."""
        return getattr(sys.modules["torch"].Tensor, "__dlpack_c_exchange_api__", None)

    def adopt(self, value: Any) -> torch.Tensor:
        """An array of another library on a CUDA device as a tensor over the same memory."""
        library: Any = sys.modules["torch"]
        if hasattr(value, "__dlpack__"):
            lent: torch.Tensor = library.from_dlpack(value)  # waits for its producer by itself
            return lent
        made: torch.Tensor = library.as_tensor(value)
        producer = value.__cuda_array_interface__.get("stream")
        if producer:  # 1 and 2 are the default streams' handles
            stream = library.cuda.ExternalStream(producer, device=made.device)
            library.cuda.current_stream(made.device).wait_stream(stream)
        return made

    def place(self, device: int) -> torch.device:
        """Where torch allocates for a device number."""
        torch_device: torch.device = sys.modules["torch"].device("cuda", device)
        return torch_device

    def queue(self, device: int) -> tuple[int, int]:
        """The device, and the address of torch's current stream on it."""
        return device, sys.modules["torch"].cuda.current_stream(device).cuda_stream

    def guard(self, device: int) -> AbstractContextManager[Any]:
        """Makes `device` the current one of this thread for a while."""
        context: AbstractContextManager[Any] = sys.modules["torch"].cuda.device(device)
        return context

    def share(self, tensor: torch.Tensor, device: int) -> None:
        """Keeps a tensor's memory from other uses until the current stream is done with it."""
        tensor.record_stream(sys.modules["torch"].cuda.current_stream(device))

    def is_capturing(self) -> bool:
        return bool(sys.modules["torch"].cuda.is_current_stream_capturing())

    def fetch(self, words: torch.Tensor, device: int) -> Callable[[], Words]:
        """Enqueues a copy of int64 words to the host; calling the result waits for that copy alone."""
        torch = sys.modules["torch"]
        copy = torch.empty(words.shape, dtype=torch.int64, device="cpu", pin_memory=True)
        copy.copy_(words, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(device))

        def wait() -> Words:
            done.synchronize()
            found: Words = copy.numpy().view(np.uint64)
            return found

        return wait

    def milestone(self, device: int) -> Callable[[], None]:
        """Calling the result lets the stream that is current then wait for all that the current one has been
        given so far."""
        torch = sys.modules["torch"]
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(device))
        return lambda: torch.cuda.current_stream(device).wait_event(done)

    def pinned(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Uninitialised memory of the host that devices read and write where it is."""
        made: torch.Tensor = sys.modules["torch"].empty(count, dtype=dtype, device="cpu", pin_memory=True)
        return made

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether devices read this memory of the host where it is."""
        return tensor.is_pinned()

    def copy_aside(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], device: int) -> Aside:
        """Enqueues copies, from the first of each pair into the second, on a stream of their own: behind all
        that the current stream has to do so far, and beside what it will be given. What is copied from is
        kept from other uses until then; nobody may write to it."""
        torch = sys.modules["torch"]
        side = self._side.get(device)
        if side is None:
            side = self._side[device] = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for source, into in pairs:
                into.copy_(source, non_blocking=True)
                source.record_stream(side)
            done = torch.cuda.Event()
            done.record(side)
        return Aside(lambda: torch.cuda.current_stream(device).wait_event(done), done.synchronize)


class Aside(NamedTuple):
    """Copies that are under way on a stream of their own."""

    join: Callable[[], None]
    """Lets the current stream wait for them, and nobody else."""

    wait: Callable[[], None]
    """Waits for them."""


runtime = Runtime()


def refusal() -> str | None:
    """Why CUDA tensors cannot be worked on, and what to do; None if they can."""
    if not runtime.native.CUDA_BUILT:
        return (
            "this build of Bittersweet has no engine for it (no CUDA engine). Move the model to the CPU "
            f"(model.cpu()), or {HOW_TO_GET_CUDA}"
        )
    if getattr(sys.modules["torch"].version, "hip", None):
        return (
            "this torch runs on ROCm, for which there is no engine. Move the model to the CPU (model.cpu())"
        )
    return None


def name_of(device: int) -> str:
    return "the CPU" if device == HOST else f"cuda:{device}"


class Engine:
    """The verbs of `_core` on memory of a CUDA device and its current stream; counting ones wait for it."""

    def __init__(self, device: int) -> None:
        self.device = device

    def write_scores(self, table: array[int], names: list[str], scorer: Any, out: array[int]) -> None:
        with runtime.guard(self.device):
            runtime.native.cuda_write_scores(runtime.queue(self.device), table, names, scorer, out)

    def apply_masks(self, table: array[int], which: int, roles: int) -> None:
        with runtime.guard(self.device):
            runtime.native.cuda_apply_masks(runtime.queue(self.device), table, which, roles)

    def count_live(self, table: array[int], which: int) -> list[int]:
        return self._counted("cuda_count_live", table, which)

    def count_violations(self, table: array[int], which: int, roles: int) -> list[int]:
        return self._counted("cuda_count_violations", table, which, roles)

    def enqueue_violations(self, table: array[int], which: int, roles: int) -> Callable[[], list[int]]:
        """`count_violations` without waiting; calling the result waits."""
        return self._enqueued("cuda_count_violations", table, which, roles)

    def _counted(self, verb: str, table: array[int], *arguments: int) -> list[int]:
        return self._enqueued(verb, table, *arguments)()

    def _enqueued(self, verb: str, table: array[int], *arguments: int) -> Callable[[], list[int]]:
        with runtime.guard(self.device):
            counts = words_on(self.device, len(table) // len(_core.TABLE_COLUMNS))
            getattr(runtime.native, verb)(runtime.queue(self.device), table, *arguments, counts.data_ptr())
            wait = runtime.fetch(counts, self.device)
        return lambda: [int(count) for count in wait()]


def stream_of(device: int) -> int:
    """The address of torch's current stream on a CUDA device; 0 for the host."""
    return 0 if device == HOST else runtime.queue(device)[1]


def engine_of(device: int) -> Any:
    """The engine whose verbs take a table: the compiled module for the host, or `Engine`."""
    return _core if device == HOST else Engine(device)


def words_on(device: int, count: int) -> torch.Tensor:
    """Uninitialised int64 words."""
    import torch

    return torch.empty(count, dtype=torch.int64, device=runtime.place(device))
