"""Finished trainings in a JSON file, and the table of their means."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bittersweet as bs
import torch
from run import processor

from .task import ARMS, Arm, Result, Task


class Results:
    """Results of `tasks`, kept in `path` (None: nowhere).

    Raises:
        ValueError: The file is none of these, or holds a task with other steps or data.
    """

    def __init__(self, path: Path | None, command: str, tasks: Sequence[Task]) -> None:
        self.path, self.tasks, self.runs = path, list(tasks), list[Result]()
        known: dict[str, Any] = {}
        self.about = {
            "date": datetime.date.today().isoformat(),
            "command": command,
            "cpu": processor(),
            "bittersweet": bs.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        if path is not None and path.exists():
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                known, found = document["tasks"], [Result(**run) for run in document["runs"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} holds no results of trainings ({error!r}); name another file"
                ) from None
            self.runs = found
        for task in tasks:
            if known.get(task.name, task.facts()) != task.facts():
                raise ValueError(f"{path} has '{task.name}' with other steps or data; name another file")
        self._facts = {**known, **{task.name: task.facts() for task in tasks}}

    def has(self, task: Task, arm: Arm, seed: int) -> bool:
        wanted = (task.name, arm.method, arm.sparsity, seed)
        return any((run.task, run.method, run.sparsity, run.seed) == wanted for run in self.runs)

    def add(self, result: Result) -> None:
        """Takes it in, and writes the file whole or not at all."""
        self.runs.append(result)
        if self.path is None:
            return
        runs = [run.to_dict() for run in self.runs]
        document = {"about": self.about, "tasks": self._facts, "runs": runs}
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, self.path)

    def values(self, task: Task, arm: Arm) -> list[float]:
        """By seed."""
        runs = [run for run in self.runs if run.task == task.name]
        found = [run for run in runs if (run.method, run.sparsity) == (arm.method, arm.sparsity)]
        return [run.value for run in sorted(found, key=lambda run: run.seed)]

    def table(self) -> str:
        """Means, with the lowest and the highest of the seeds, as Markdown."""
        heads = [f"{task.title}: {task.measure}" for task in self.tasks]
        lines = [f"| training | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
        for arm in ARMS:
            cells = [_cell(self.values(task, arm), task) for task in self.tasks]
            lines.append(f"| {arm.name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _cell(values: Sequence[float], task: Task) -> str:
    if not values:
        return ""
    form = ".1f" if task.higher_is_better else ".3f"
    mean, low, high = (format(one, form) for one in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"
