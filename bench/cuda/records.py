"""What a line of a measuring program says: its keys, their types, and what a dry run may not claim."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

# Figures that only a device can give. A dry record has none of them.
TIMES = (
    "ms",
    "least_ms",
    "most_ms",
    "host_ms",
    "host_least_ms",
    "floor_ms",
    "rewrite_ms",
    "bound_ms",
    "ours_ms",
    "gbs",
    "ratio",
    "floors_ratio",
    "slower",
)
KEYS: dict[str, type | tuple[type, ...]] = {
    "section": str,
    "case": str,
    "dry": bool,
    "error": str,  # the case threw
    "right": bool,  # agrees with its oracle; `found` says what does not
    "found": str,
    "kept": bool,  # within `bound` or `bound_ms`
    "bound": (int, float),
    "scorer": str,
    "fastest": str,
    "all": str,
    "path": str,
    "at_zero": str,
    "at_infinity": str,
    "overflow": bool,
    "missed": bool,
    "profiled": bool,
    **dict.fromkeys(TIMES, (int, float)),
    **dict.fromkeys(
        (
            "sparsity",
            "passes",
            "extra_bytes",
            "margin",
            "same_bits_from",
            "largest_relative_error",
            "largest_relative_error_of_denormals",
            "largest_relative_difference_of_scores",
            "mask_bits_differing_cpu_from_bitter7",
            "mask_bits_differing_from_the_cpu",
            "mask_bits_differing_from_bitter7",
            "error_of_sparsity",
            "dram_over_input",
        ),
        (int, float),
    ),
    **dict.fromkeys(
        (
            "weights",
            "bytes",
            "input_bytes",
            "dram_read_bytes",
            "dram_written_bytes",
            "peak_bytes",
            "repeats",
            "compared",
            "status",
            "differing",
            "unusable",
            "unusable_of_denormals",
            "blocks_that_fit",
        ),
        int,
    ),
}


def problems(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record; empty where nothing is."""
    name = f"{record.get('section')}, {record.get('case')}"
    found = [f"{name}: the key '{key}' is missing" for key in ("section", "case") if key not in record]
    for key, value in record.items():
        accepted = KEYS.get(key)
        if accepted is None:
            found.append(f"{name}: nobody knows the key '{key}'")
        elif not isinstance(value, accepted) or (isinstance(value, bool) and accepted is not bool):
            found.append(f"{name}: '{key}' is {value!r}")
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{name}: '{key}' is {value}")
    if "kept" in record and "bound" not in record and "bound_ms" not in record:
        found.append(f"{name}: 'kept' without a bound")
    if record.get("dry"):
        claimed = sorted({*TIMES, "kept"} & set(record))
        found += [f"{name}: a dry run measures no '{key}'" for key in claimed]
    return found


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a file, one a line, and what is wrong with them. A missing file has no records."""
    if not path.exists():
        return [], []
    records, found = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # a program that was stopped may leave half a line
            found.append(f"line {number} is not JSON: {line[:80]}")
            continue
        if not isinstance(record, dict):
            found.append(f"line {number} is not an object: {line[:80]}")
            continue
        found += problems(record)
        records.append(record)
    return records, found


def wrong(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per record that disagrees with its oracle or threw."""
    return [
        f"{record['section']}, {record['case']}: {record.get('error') or record.get('found', 'wrong')}"
        for record in records
        if record.get("right") is False or "error" in record
    ]


def missed(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per goal that was not met."""
    return [
        f"{record['section']}, {record['case']}: {_figure(record)}"
        for record in records
        if record.get("kept") is False
    ]


def _figure(record: Mapping[str, Any]) -> str:
    if "bound_ms" in record:
        return f"{record['ms']:.4g} ms, the goal {record['bound_ms']:.4g} ms"
    value = next((record[key] for key in ("extra_bytes", "dram_over_input", "ratio") if key in record), None)
    return f"{value:.6g}, the goal {record['bound']:.6g}" if value is not None else "missed"


def write(path: Path | None, record: dict[str, Any]) -> None:
    """Appends a record and flushes it."""
    complaints = problems(record)
    if complaints:
        raise ValueError("; ".join(complaints))
    line = json.dumps(record, allow_nan=False)
    if path is None:
        print(line, flush=True)
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


class Recorder:
    """Writes one case after the other; one that fails is recorded and stops no other."""

    def __init__(self, section: str, out: Path | None, dry: bool) -> None:
        self.section, self.out, self.dry, self.failed = section, out, dry, False

    def write(self, case: str, figures: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        record: dict[str, Any] = {"section": self.section, "case": case} | ({"dry": True} if self.dry else {})
        try:
            record |= figures()
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {error}"[:500]
        self.failed |= "error" in record or record.get("right") is False
        write(self.out, record)
        return record
