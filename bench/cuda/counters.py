"""Bytes that a step moves through device memory over the bytes of its inputs, by Nsight Compute's counters.

    python bench/cuda/counters.py [--dry] [--out FILE] build/gpu/bench/cuda/headline

`--dry` reads a made-up answer of ncu, to test the reading.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import records

READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
GOAL = 1.03
UNITS = {"byte": 1, "Kbyte": 10**3, "Mbyte": 10**6, "Gbyte": 10**9}


def total(answer: str, metric: str) -> int:
    """Sum of a metric over all kernels in ncu's `--csv` output. Raises ValueError where it has none."""
    lines = answer.splitlines()
    start = next((i for i, text in enumerate(lines) if text.startswith('"ID"')), None)
    if start is None:
        raise ValueError("ncu printed no table: " + " ".join(lines[-3:])[:300])
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[start:]))))
    found = [row for row in rows if row.get("Metric Name") == metric]
    if not found:
        raise ValueError(f"ncu's table has no {metric}")
    return round(
        sum(float(row["Metric Value"].replace(",", "")) * UNITS[row["Metric Unit"]] for row in found)
    )


def counted(answer: str, profiled: dict[str, Any]) -> dict[str, Any]:
    """The record of one profiled step."""
    read = total(answer, READ)
    ratio = read / profiled["input_bytes"]
    return {
        "section": "counters",
        "case": profiled["case"],
        "weights": profiled["weights"],
        "input_bytes": profiled["input_bytes"],
        "dram_read_bytes": read,
        "dram_written_bytes": total(answer, WRITTEN),
        "dram_over_input": ratio,
        "bound": GOAL,
        "kept": ratio <= GOAL,
    }


def ask(program: str) -> tuple[str, list[dict[str, Any]]]:
    """What ncu printed, and the records of the steps that it watched."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "profiled.jsonl"
        command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv"]
        command += ["--metrics", f"{READ},{WRITTEN}", program, "--profile", "--out", str(lines), "headline"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ValueError(f"ncu ended with {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
        return done.stdout, records.read(lines)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="DRAM bytes over input bytes, by Nsight Compute.")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("program")
    options = parser.parse_args(arguments)
    if options.dry:
        made_up = (
            f'==PROF== x\n"ID","Metric Name","Metric Unit","Metric Value"\n"0","{READ}","byte","1,000"\n'
        )
        made_up += f'"1","{READ}","Kbyte","2.5"\n"0","{WRITTEN}","byte","7"\n'
        right = total(made_up, READ) == 3500 and total(made_up, WRITTEN) == 7
        records.write(options.out, {"section": "counters", "case": "reading", "right": right, "dry": True})
        return 0 if right else 1
    try:
        answer, profiled = ask(options.program)
        watched = [record for record in profiled if record.get("profiled")]
        if len(watched) != 1:
            raise ValueError(f"{len(watched)} steps were profiled, not 1")
        records.write(options.out, counted(answer, watched[0]))
    except (OSError, ValueError, KeyError) as error:
        record = {"section": "counters", "case": "ncu", "error": f"{type(error).__name__}: {error}"[:500]}
        records.write(options.out, record)
        print(record["error"])  # the caller looks here for the reasons that are the machine's
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
