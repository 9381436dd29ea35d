"""Settings of all Python tests: derandomised properties, and warnings that are allowed to come again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cuda_support import DeviceRuntime, HostRuntime, load_stand_in, why_no_gpu
from hypothesis import HealthCheck, settings

settings.register_profile(
    "bittersweet",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bittersweet")


@pytest.fixture
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets warnings that come once per process come again."""
    from bittersweet import notices

    monkeypatch.setattr(notices, "_warned", set())


@pytest.fixture(scope="session")
def cuda_on_host() -> Any:
    """The package's CUDA bindings over the CPU engine."""
    return load_stand_in("_cuda_on_host")


@pytest.fixture(scope="session")
def cuda_emulated() -> Any:
    """The package's CUDA bindings over the emulated kernels of the CUDA engine."""
    return load_stand_in("_cuda_emulated")


@pytest.fixture(params=["host", "emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The runtime of the CUDA path: two stand-ins over host memory, then a real device if there is one."""
    from bittersweet.tensors import devices

    runtime: Any
    if request.param == "gpu":
        runtime = DeviceRuntime()
    else:
        module = "cuda_on_host" if request.param == "host" else "cuda_emulated"
        runtime = HostRuntime(request.getfixturevalue(module), request.param)
    monkeypatch.setattr(devices, "runtime", runtime)
    return runtime


@pytest.fixture
def host_cuda(cuda_on_host: Any, monkeypatch: pytest.MonkeyPatch) -> HostRuntime:
    """Host memory in the place of CUDA devices."""
    from bittersweet.tensors import devices

    runtime = HostRuntime(cuda_on_host)
    monkeypatch.setattr(devices, "runtime", runtime)
    return runtime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped, with the reason, where there is no GPU for them."""
    if (why := why_no_gpu()) is not None:
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {why}"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("needs a GPU:" in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests of real CUDA devices were skipped: {why_no_gpu()}")


@pytest.fixture(autouse=True)
def torchs_threads() -> Iterator[None]:
    """A test that changes torch's number of threads does not change the sums of the next ones."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    yield
    if torch is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads afterwards."""
    import bittersweet

    before = bittersweet.get_num_threads()
    yield
    bittersweet.set_num_threads(before)
