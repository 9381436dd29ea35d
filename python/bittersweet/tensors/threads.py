"""Which threads the engine takes: torch's own, as many as the process may use and never more than torch does.

A number that the user set (`set_num_threads`, BITTERSWEET_NUM_THREADS) stands; where torch has fewer, the
engine starts threads for the call, as it does without torch.
"""

from __future__ import annotations

import os
import sys

from .. import _core

_chosen = "BITTERSWEET_NUM_THREADS" in os.environ
_followed = 0
_asked = False


def choose(count: int) -> None:
    """The user's number, from now on."""
    global _chosen
    _chosen = True
    _core.set_num_threads(count)


def follow_torch() -> None:
    """Before a call: takes over torch's threads, and their number if it changed since the last look."""
    global _asked, _followed
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return
    if not _asked:
        if not _is_forked():
            _core.lend_openmp_threads("libtorch_cpu.so")
        _asked = True
    if _chosen:
        return
    count = torch.get_num_threads()
    if count != _followed:
        _core.set_num_threads(0)  # back to what the process may use
        _core.set_num_threads(min(count, _core.get_num_threads()))
        _followed = count


def _is_forked() -> bool:
    """Whether Linux knows this process as a fork that has not called exec (PF_FORKNOEXEC).

    Torch's threads may have run before the fork and be gone: OpenMP would wait for them without end. One that
    was lent them before the fork knows by itself.
    """
    try:
        with open("/proc/self/stat") as file:
            return bool(int(file.read().rpartition(")")[2].split()[6]) & 0x40)
    except OSError:
        return False
