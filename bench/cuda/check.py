"""Runs steps, each with a time limit, and keeps what they found in one JSON file, whole after every step.

`scripts/gpu_check.sh` is the command; bench/cuda/steps.py lists the steps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import records

TAIL = 4000  # characters of a failed step's output
LOG = 8 << 20  # characters of all output that are kept
PASSED, FAILED, TIMED_OUT, ABSENT, NOT_RUN = "passed", "failed", "timed out", "absent", "not run"
BAD = frozenset((FAILED, TIMED_OUT, NOT_RUN))


@dataclass(frozen=True)
class Step:
    """One command. `records`: it takes `--out FILE` and appends its figures there."""

    name: str
    command: Sequence[str]
    limit_s: float
    records: bool = False
    needs: Sequence[str] = ()  # programs; the step is absent, not failed, where one is not installed
    after: Sequence[str] = ()  # steps that must have passed
    unavailable: Sequence[str] = ()  # what a tool says where the machine forbids it: absent, not failed
    wants: str = ""  # a pattern in its output: tests that skip everything end with 0, too
    environment: Mapping[str, str] = field(default_factory=dict)


class Check:
    """The results so far, on disk after every step."""

    def __init__(
        self,
        out: Path,
        about: dict[str, Any],
        budget_s: float,
        root: Path,
        say: Callable[[str], None] = print,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.about, self.steps = out, about, list[dict[str, Any]]()
        self._root, self._say, self._begin, self._budget_s = root, say, time.monotonic(), budget_s
        self._scratch = root / "build" / "gpu-records"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        self._log = out / "log.txt"
        self._log.write_text("", encoding="utf-8")
        self.save()

    def run(self, step: Step) -> str:
        """Runs a step whatever happened before it; returns its status."""
        passed = {done["name"]: done["status"] == PASSED for done in self.steps}
        lacking = [name for name in step.needs if shutil.which(name) is None]
        broken = [name for name in step.after if not passed.get(name, False)]
        left = self._budget_s - (time.monotonic() - self._begin)
        entry: dict[str, Any] = {"name": step.name, "command": " ".join(map(str, step.command))}
        if broken:
            entry |= {"status": NOT_RUN, "why": f"it needs {', '.join(broken)}"}
        elif lacking:
            entry |= {"status": ABSENT, "why": f"{', '.join(lacking)} is not installed here"}
        elif left < 1:
            entry |= {"status": NOT_RUN, "why": f"the {self._budget_s:.0f} s of the whole check are spent"}
        else:
            entry |= self._execute(step, min(step.limit_s, left))
        self.steps.append(entry)
        self.save()
        self._say(line(entry))
        return str(entry["status"])

    def _execute(self, step: Step, limit_s: float) -> dict[str, Any]:
        stem = "".join(c if c.isalnum() else "-" for c in step.name)
        lines, output = self._scratch / f"{stem}.jsonl", self._scratch / f"{stem}.txt"
        command = [*map(str, step.command), *(("--out", str(lines)) if step.records else ())]
        begin, stopped, code = time.monotonic(), False, -1
        with output.open("w", encoding="utf-8") as sink:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self._root,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # so that its children end with it
                )
            except OSError as error:
                return {"status": FAILED, "seconds": 0.0, "why": str(error)}
            try:
                code = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                stopped = True
            finally:
                _end(process)
        said = output.read_text(encoding="utf-8", errors="replace")
        self._keep_log(step.name, said)
        found, complaints = records.read(lines)
        offences = records.wrong(found)
        entry: dict[str, Any] = {
            "seconds": round(time.monotonic() - begin, 2),
            "limit_s": round(limit_s, 1),
            "records": found,
        }
        if stopped:
            entry |= {"status": TIMED_OUT, "why": f"stopped after {limit_s:.0f} s"}
        elif code != 0 and (said_no := [text for text in step.unavailable if text in said]):
            entry |= {"status": ABSENT, "why": f"it does not work here: {said_no[0]}"}
        elif code != 0 or complaints or offences:
            whys = [*offences, *complaints] or [f"exit status {code}"]
            entry |= {"status": FAILED, "why": "; ".join(whys[:8])}
        elif step.wants and not re.search(step.wants, said):
            entry |= {"status": FAILED, "why": f"its output has no '{step.wants}'"}
        elif step.records and not found:
            entry |= {"status": FAILED, "why": "it wrote no record"}
        else:
            entry["status"] = PASSED
        if entry["status"] != PASSED:
            entry["tail"] = said[-TAIL:]
        return entry

    def _keep_log(self, name: str, said: str) -> None:
        room = LOG - self._log.stat().st_size
        if room > 0:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"==== {name}\n{said[-room:]}\n")

    def save(self) -> None:
        """Writes results.json by renaming, so that a stop at any moment leaves a whole file."""
        self.about["seconds"] = round(time.monotonic() - self._begin, 1)
        unfinished = self.out / ".results.json"
        unfinished.write_text(json.dumps(self.document(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(self.out / "results.json")

    def document(self) -> dict[str, Any]:
        return {"about": self.about, "steps": self.steps}

    def bad(self) -> list[str]:
        return [step["name"] for step in self.steps if step["status"] in BAD]

    def missed(self) -> list[str]:
        return [text for step in self.steps for text in records.missed(step.get("records", ()))]

    def status(self) -> int:
        """0: everything passed and every goal was met; 1: a step did not pass; 3: only goals were missed."""
        return 1 if self.bad() else 3 if self.missed() else 0


def line(step: Mapping[str, Any]) -> str:
    """A row of the summary."""
    seconds = f"{step['seconds']:7.1f} s" if "seconds" in step else " " * 9
    figures = f"{len(step['records'])} records" if step.get("records") else ""
    return f"{step['status']:<10} {seconds}  {step['name']:<28} {figures:<12} {step.get('why', '')}".rstrip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what a step left running: its own process group, nothing else."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
