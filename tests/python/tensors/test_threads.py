"""Whose threads a call runs on: torch's, where torch is loaded; the results do not tell."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("torch")


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_lent_before_torch_is_loaded() -> None:
    run(
        """
        import numpy, bittersweet as bs
        from bittersweet import _core
        bs.threshold(bs.ScoreInputs(numpy.arange(10, dtype="f4")), sparsity=0.5, scorer="magnitude")
        assert not _core.lend_openmp_threads("libtorch_cpu.so")
        """
    )


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_torchs_threads_stay_the_only_ones() -> None:
    run(
        """
        import os, threading, time, torch, bittersweet as bs

        torch.set_num_threads(2)
        bs.set_num_threads(2)
        w = torch.randn(4_000_000)
        (w * 2).sum()  # torch's threads are there now
        found = bs.threshold(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude")
        most, running = [], True

        def watch():
            while running:
                most.append(len(os.listdir("/proc/self/task")))

        before = len(os.listdir("/proc/self/task"))
        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(30):
            assert bs.threshold(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude").value == found.value
        running = False
        watcher.join()
        assert most and max(most) <= before + 1, (before, max(most))

        bs.set_num_threads(3)  # more than torch has: these are started
        assert bs.threshold(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude").value == found.value
        """
    )


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_child_after_a_fork_does_not_wait_for_threads_that_are_gone() -> None:
    run(
        """
        import os, torch, bittersweet as bs

        torch.set_num_threads(2)
        bs.set_num_threads(2)
        w = torch.randn(2_000_000)
        found = bs.threshold(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude").value
        child = os.fork()
        if child == 0:
            again = bs.threshold(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude").value
            os._exit(0 if again == found else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        """
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("first", ["import bittersweet", "pass"])
def test_a_child_that_makes_the_first_call_does_not_wait_for_torchs_threads(first: str) -> None:
    run(
        f"""
        import os, signal, torch
        {first}

        torch.set_num_threads(2)
        w = torch.randn(4_000_000)
        (w * 2).sum()  # torch's threads are there now, and not in the child
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # the end of one that waits
            import bittersweet as bs

            bs.set_num_threads(2)
            bs.threshold(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        """
    )
