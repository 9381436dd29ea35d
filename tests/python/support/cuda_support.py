"""Two devices for the tests of the CUDA path: a real one, and one that host memory stands in for.

`HostRuntime` takes every torch tensor on the CPU for one on ``cuda:0`` (or where `devices` says), and
``cuda_on_host``, the package's own bindings over the CPU engine, for the compiled CUDA engine. So everything
that Python does for CUDA runs, except what only torch and a driver can do: streams, capture, memory.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from bittersweet.tensors import devices

REPOSITORY = Path(__file__).resolve().parents[3]
VARIABLE = "BITTERSWEET_CUDA_ON_HOST"


def load_stand_in(name: str) -> Any:
    """The compiled module `name`: a test without it is skipped, unless the variable names its folder."""
    file = f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    folder = os.environ.get(VARIABLE)
    if folder is not None:
        found = [Path(folder) / file]
    else:
        found = sorted(REPOSITORY.glob(f"build/*/tests/python/cuda_on_host/{file}"), key=_age)
    if not found:
        pytest.skip(f"no {file} under build/: build the CMake target {name}, or set {VARIABLE}")
    spec = importlib.util.spec_from_file_location(name, found[-1])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _age(path: Path) -> float:
    return path.stat().st_mtime


class Watched:
    """What tests watch of either runtime."""

    name: str
    reads = 0
    """Copies from the device that were waited for."""
    active = True
    """False: tensors are where they are."""

    @contextmanager
    def on_cpu(self) -> Iterator[None]:
        """Inside, tensors on the CPU are on the CPU: for comparisons with the CPU engine."""
        self.active = False
        yield
        self.active = True

    def put(self, value: Any) -> Any:
        """A copy of a tensor or a module on the device."""
        raise NotImplementedError


class HostRuntime(Watched, devices.Runtime):
    def __init__(self, native: Any, name: str = "host") -> None:
        self.native = native
        self.name = name
        self.devices: dict[int, int] = {}
        """Data pointers of tensors that lie elsewhere than on cuda:0."""
        self.stream = 7
        self.capturing = False
        self.shared: list[tuple[int, int]] = []
        """Data pointers that were marked as used by a stream other than their own, with that stream."""
        self.waits: list[tuple[int, int]] = []
        """Streams that waited, each with the one it waited for."""
        self.pins: dict[int, torch.Tensor] = {}
        """Pinned memory of the host, which is no device's, by its data pointers."""
        self.copies = 0
        """How many tensors were copied on a stream of their own."""

    def put(self, value: Any) -> Any:
        return value.clone() if isinstance(value, torch.Tensor) else value

    def index_of(self, tensor: torch.Tensor) -> int:
        if not self.active or not tensor.is_cpu:
            return super().index_of(tensor)
        if tensor.data_ptr() in self.pins:
            return devices.HOST
        return self.devices.get(tensor.data_ptr(), 0)

    def exchange_api(self) -> Any:
        return None  # torch's own describes all of this memory as the CPU's

    def adopt(self, value: Any) -> torch.Tensor:
        tensor: torch.Tensor = value.tensor
        return tensor

    def place(self, device: int) -> torch.device:
        return torch.device("cpu")

    def queue(self, device: int) -> tuple[int, int]:
        return device, self.stream

    def guard(self, device: int) -> AbstractContextManager[Any]:
        return nullcontext()

    def share(self, tensor: torch.Tensor, device: int) -> None:
        self.shared.append((tensor.data_ptr(), self.stream))

    def milestone(self, device: int) -> Callable[[], None]:
        stream = self.stream
        return lambda: self.waits.append((self.stream, stream))

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.data_ptr() in self.pins

    def is_capturing(self) -> bool:
        return self.capturing

    def pinned(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        made = torch.empty(count, dtype=dtype).fill_(-77)
        self.pins[made.data_ptr()] = made  # held, so that nothing else gets its address
        return made

    def copy_aside(self, pairs: Any, device: int) -> devices.Aside:
        """Arrives as late as may be: when somebody waits."""

        def arrive() -> None:
            while pending:
                source, into = pending.pop()
                into.copy_(source)

        pending = list(pairs)
        self.copies += len(pending)
        return devices.Aside(arrive, arrive)

    def fetch(self, words: torch.Tensor, device: int) -> Callable[[], devices.Words]:
        copy = words.clone()

        def wait() -> devices.Words:
            self.reads += 1
            found: devices.Words = copy.numpy().view("uint64")
            return found

        return wait


class DeviceRuntime(Watched, devices.Runtime):
    """A real CUDA device."""

    name = "gpu"

    def put(self, value: Any) -> Any:
        return value.to("cuda:0", copy=True) if isinstance(value, torch.Tensor) else value.to("cuda:0")

    def fetch(self, words: torch.Tensor, device: int) -> Callable[[], devices.Words]:
        inner = super().fetch(words, device)

        def wait() -> devices.Words:
            self.reads += 1
            return inner()

        return wait


def why_no_gpu() -> str | None:
    """Why real devices cannot be tested here; None if they can."""
    from bittersweet import _core

    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if not _core.CUDA_BUILT:
        return "this build of bittersweet has no CUDA engine"
    return None
