"""Equal bits whatever instruction sets torch and Bittersweet run with."""

from __future__ import annotations

import os
import subprocess
import sys

import bittersweet as bs
import pytest

AVAILABLE = bs.build_info()["isa_available"]


def lines(capability: str, isa: str) -> list[str]:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "BITTERSWEET_CPU_ISA": isa}
    code = f"import sys; sys.path[:0] = {sys.path!r}; import optim_capabilities; optim_capabilities.main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("capability", ["avx512", "avx2", "default"])
def test_the_bits_are_torchs_on_every_instruction_set(capability: str, isa: str) -> None:
    first, *differing = lines(capability, isa)
    found, used, rule = first.split("; ")
    if found.lower() != capability:
        pytest.skip(f"torch runs {found} here")
    assert used == isa
    assert rule.startswith("Rounding(")
    assert differing == []
