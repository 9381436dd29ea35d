"""Turns results.json of scripts/gpu_check.sh into docs/benchmarks_gpu.md, or into the summary of one run.

    python bench/cuda/report.py [bench/results/gpu-*/results.json ...] [--check]

Without files it takes all of bench/results/gpu-*/results.json. Dry runs are refused: they measured nothing.
`--check` writes nothing and fails where the page is not what the files say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import records

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks_gpu.md"
FACTS = (
    "date",
    "command",
    "commit",
    "device",
    "driver_version",
    "memory.total",
    "nvcc",
    "torch",
    "python",
    "seconds",
)

HEAD = """# Benchmarks on a GPU

One command measures everything that only a GPU can tell. It needs no network and says what it could not do.

```bash
scripts/gpu_carry.sh           # before: what `full` needs beside the source tree, into .carry
scripts/gpu_check.sh quick     # on the machine with the GPU: at most 150 s with the build
scripts/gpu_check.sh full      # at most 8 minutes
python bench/cuda/report.py    # writes this page from bench/results/gpu-*/results.json
```

How it is measured: times by CUDA events, medians; before every repetition other memory is read, so that no
input lies in the L2 cache; the floor is the fastest of three bare reads of the same arrays in the same run
(two of 16-byte loads, one ring of bulk copies), and for steps that zero weights a pure rewrite of them is
added. Every answer is judged by definition before it is timed: scores below and at the threshold are counted
one by one, and no mask bit may contradict it. `scripts/gpu_check.sh quick --dry` does all but touch a device:
it compiles for sm_90 and runs every oracle.
"""
UNMEASURED = """## Figures

Not measured on a device yet. The goals that a run is judged by, for 402,653,184 f32 weights in 148 tensors,
bitter7, 50 %:

| work | goal |
| --- | --- |
| exact threshold, scoring included | 1.2 times the read floor |
| the same with bit masks | 1.25 times the read floor |
| the whole step with w zeroed | 1.15 times (read floor + pure rewrite of w) |
| extra memory | 2 % of a score buffer, or 16 MiB |
| bytes read from device memory | 1.03 of the inputs |
| bf16 magnitude; bitter7 on bf16 weights | 1.4 times their own floors |
| 1 million to 4 billion weights | 80 us + 1.2 times the floor |
| 90 % zeros, 90 % dead | 1.2 times dense data |
| one score that more than 0.5 % share | one more read |
| selector histogram, threshold | 3.3 times the read floor |
| selector streaming, threshold | (its reads + 0.3) times the read floor |
| selector sampling, 2 % by line, threshold | 0.15 times the read floor |
| masks by tensor and under bounds, every distribution | timed beside one threshold over all; no goal |
| sums of squares for calibration | 1.3 times reading the activations |
| AdamW's step, 50 % of the weights masked | 1.08 times the same without masks |

AdamW's masked step is also timed beside torch's fused and foreach ones, at 1 million to 400 million weights
and at 26 and 148 tensors of 16 x 16, f32 and bf16; elements whose bits differ from torch's are counted.
"""


def figures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [record for step in document["steps"] for record in step.get("records", ())]


def table(document: Mapping[str, Any]) -> str:
    """What was measured, aligned, for the end of a run."""
    rows = [["section", "case", "ms", "GB/s", "/ floor", "goal", ""], *map(_row, figures(document))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (False, False, True, True, True, True, False)
    return "\n".join(
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def _row(record: Mapping[str, Any]) -> list[str]:
    goal = f"{record['bound_ms']:.4g} ms" if "bound_ms" in record else _number(record.get("bound"))
    return [
        record["section"],
        record["case"],
        _number(record.get("ms")),
        _number(record.get("gbs")),
        _number(record.get("ratio")),
        goal,
        _verdict(record),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _verdict(record: Mapping[str, Any]) -> str:
    if "error" in record:
        return f"failed: {record['error'][:80]}"
    if record.get("right") is False:
        return f"WRONG: {record.get('found', '')[:80]}"
    if "kept" in record:
        return "met" if record["kept"] else "MISSED"
    if "slower" in record:
        return f"{record['slower']:.1f} times ours"
    return "right" if record.get("right") else ""


OTHER = (
    "slower",
    "peak_bytes",
    "extra_bytes",
    "dram_over_input",
    "passes",
    "host_ms",
    "rewrite_ms",
    "floors_ratio",
    "compared",
    "differing",
    "largest_relative_error",
    "same_bits_from",
    "largest_relative_difference_of_scores",
    "mask_bits_differing_from_the_cpu",
    "mask_bits_differing_from_bitter7",
    "error_of_sparsity",
    "fastest",
    "path",
)


def section(document: Mapping[str, Any]) -> str:
    """One run: its facts, what did not pass, and a table for each section of figures."""
    about = document["about"]
    found = figures(document)
    bad = [step for step in document["steps"] if step["status"] not in ("passed", "absent")]
    absent = [step for step in document["steps"] if step["status"] == "absent"]
    judged = [record for record in found if "kept" in record]
    lines = [f"## {about.get('device', 'no device')}, {about['date']}", ""]
    lines += [f"- {key.replace('_', ' ').replace('.', ' ')}: {about[key]}" for key in FACTS if about.get(key)]
    lines += [f"- {sum(record['kept'] for record in judged)} of {len(judged)} goals met"]
    lines += [f"- missed: {text}" for text in records.missed(found)]
    lines += [f"- did not pass: {step['name']}: {step.get('why', step['status'])}" for step in bad]
    lines += [f"- not available there: {step['name']}: {step.get('why', '')}" for step in absent]
    for name in dict.fromkeys(record["section"] for record in found):
        lines += ["", f"### {name}", "", "| case | ms | GB/s | times the floor | goal | verdict | more |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for record in found:
            if record["section"] == name:
                cells = [*_row(record)[1:], _more(record)]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _more(record: Mapping[str, Any]) -> str:
    values = ((key.replace("_", " "), record[key]) for key in OTHER if key in record)
    return ", ".join(f"{key} {_number(v) if isinstance(v, float) else v}" for key, v in values)


def document(runs: Iterable[Mapping[str, Any]]) -> str:
    """The page: how to measure, then one section a run, or what is to be measured where there is none."""
    sections = [section(run) for run in runs]
    return "\n".join([HEAD, *(sections or [UNMEASURED])])


def load(paths: Sequence[Path]) -> list[dict[str, Any]]:
    runs = []
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["about"]["dry"]:
            raise ValueError(f"{path} is a dry run; it measured nothing")
        runs.append(run)
    return sorted(runs, key=lambda run: (run["about"]["date"], run["about"]["mode"]), reverse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes docs/benchmarks_gpu.md.")
    parser.add_argument("results", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="fail where the page differs; write nothing")
    options = parser.parse_args(arguments)
    paths = options.results or sorted((ROOT / "bench" / "results").glob("gpu-*/results.json"))
    try:
        page = document(load(paths))
    except (OSError, ValueError, KeyError) as error:
        parser.error(str(error))
    if options.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page
        print(f"{PAGE.name}: {'as the results say' if same else 'differs from the results; run report.py'}")
        return int(not same)
    PAGE.write_text(page, encoding="utf-8")
    print(f"{PAGE}: {len(paths)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
