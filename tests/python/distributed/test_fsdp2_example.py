"""The example of training over ranks, as somebody would start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "fsdp2" / "train.py"


def test_the_example_prunes_over_two_ranks(tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [*command, str(EXAMPLE)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("2 ranks, ") == 8
    assert "step 160: sparsity 0.8000" in done.stdout
    losses = [float(found) for found in re.findall(r"  loss ([\d.]+)", done.stdout)]
    assert losses[-1] < losses[0]
    assert (tmp_path / "fsdp2_checkpoint" / ".metadata").exists()
