"""Real ranks for tests: processes that are started once, join one gloo group, and run case after case.

A case is a function ``name(rank, size)`` in a module ``cases_*.py`` of this folder. It asserts, or returns
plain values, or both; every rank runs it. ``Ranks.run("cases_x", "name")`` gives what each rank returned.
Where one fails, all processes are ended, the test shows which rank it was and why, and the next case gets new
ones.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LIMIT = 120.0
"""Seconds that a case may take."""

GRACE = 10.0
"""Seconds that the other ranks have to end as well once one has failed."""


def cases(module: str) -> list[str]:
    """The names of the cases in a module, without importing it."""
    found = ast.parse((FOLDER / f"{module}.py").read_text()).body
    return [
        one.name
        for one in found
        if isinstance(one, ast.FunctionDef)
        and [argument.arg for argument in one.args.args] == ["rank", "size"]
    ]


class CaseFailed(AssertionError):
    """A case failed on a rank, did not end, or its process died."""


class Ranks:
    """The processes of one group; started by the first case."""

    def __init__(self, size: int, limit: float = LIMIT) -> None:
        self.size, self.limit = size, limit
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, module: str, case: str, **arguments: Any) -> list[Any]:
        """What every rank returned from a case.

        Raises:
            CaseFailed: Naming the ranks, with their tracebacks.
        """
        if not self._processes:
            self._start()
        order = json.dumps({"module": module, "case": case, "arguments": arguments}).encode() + b"\n"
        answers: dict[int, Any] = {}
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.write(order)
                process.stdin.flush()
        self._wait(answers)
        if all(answers.get(rank, {}).get("ok") for rank in range(self.size)):
            return [answers[rank]["value"] for rank in range(self.size)]
        report = self._report(f"{module}.{case}", answers)
        self.stop()
        raise CaseFailed(report)

    def stop(self) -> None:
        """Ends the processes, and waits for them."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()
        self._processes = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        folder = Path(self._folder.name)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONUNBUFFERED": "1",
        }
        for rank in range(self.size):
            with open(folder / f"log{rank}", "wb") as log:
                command = [sys.executable, str(FOLDER / "worker.py"), str(rank), str(self.size), str(folder)]
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
                )
            self._processes.append(process)

    def _wait(self, answers: dict[int, Any]) -> None:
        """Collects one line from every rank, until all have answered, one has died, or time is up."""
        end = time.monotonic() + self.limit
        with selectors.DefaultSelector() as selector:
            for rank, process in enumerate(self._processes):
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, rank)
            while len(answers) < self.size and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    stream: Any = key.fileobj
                    line = stream.readline()
                    answers[key.data] = json.loads(line) if line else {"ok": False, "died": True}
                    selector.unregister(stream)
                    if not answers[key.data]["ok"]:
                        end = min(end, time.monotonic() + GRACE)

    def _report(self, case: str, answers: dict[int, Any]) -> str:
        lines = [f"{case} on {self.size} ranks failed"]
        silent = [rank for rank in range(self.size) if rank not in answers]
        for rank in silent:
            with contextlib.suppress(OSError):
                os.kill(self._processes[rank].pid, signal.SIGUSR1)  # has it write where it is into its log
        if silent:
            time.sleep(0.5)
        for rank in range(self.size):
            answer = answers.get(rank)
            if answer is None:
                lines.append(f"rank {rank} did not end; its log:\n{self._log(rank)}")
            elif answer.get("died"):
                code = self._processes[rank].wait()
                lines.append(f"rank {rank} died with code {code}; its log:\n{self._log(rank)}")
            elif not answer["ok"]:
                lines.append(f"rank {rank}:\n{answer['traceback']}")
            else:
                lines.append(f"rank {rank} passed")
        return "\n".join(lines)

    def _log(self, rank: int) -> str:
        assert self._folder is not None
        return (Path(self._folder.name) / f"log{rank}").read_text(errors="replace")[-4000:]
