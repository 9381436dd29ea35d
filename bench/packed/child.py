"""A model in a process of its own, so that what is resident there is its own; several of them take turns."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bittersweet.demo.plan import percent

COMMAND = Path(__file__).resolve().parents[1] / "end_to_end.py"


@dataclass(frozen=True)
class Variant:
    """`model` is a name in `subjects`; `sparsity` 0: as it is; `packed`: its zeros are not stored."""

    model: str
    sparsity: float
    packed: bool

    @property
    def name(self) -> str:
        form = "packed" if self.packed else "dense"
        return f"{percent(self.sparsity)} zeros, {form}" if self.sparsity else form


def subjects() -> dict[str, Any]:
    from . import decoder, encoder

    return {"decoder": decoder.Subject, "encoder": encoder.Subject}


class Child:
    """The process of one variant. Use it as a context: it ends with it.

    Raises RuntimeError with what the process printed when it fails.
    """

    def __init__(self, variant: Variant, quick: bool) -> None:
        import bittersweet

        package = str(Path(bittersweet.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self.variant, self._log = variant, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, COMMAND, "--child", json.dumps({**asdict(variant), "quick": quick})],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def facts(self) -> dict[str, Any]:
        """Waits until the model is ready: its bytes in memory and in a file. To be called once, first."""
        return self._answer()

    def run(self, threads: int) -> dict[str, float]:
        """Seconds by what was done."""
        return self._ask("run", threads)

    def check(self) -> dict[str, Any]:
        """What is left of the quality; the packed layers are dense afterwards, so that it is called last."""
        return self._ask("check", 1)

    def _ask(self, what: str, threads: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([what, threads]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended, and why is read below
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.variant.model}, {self.variant.name} failed:\n{self._log.read()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(text: str) -> None:
    """What the process does: makes the model, says what it takes, and obeys."""
    import bittersweet as bs
    from measure import set_threads
    from memory import status

    options = json.loads(text)
    set_threads(1)
    subject_of = subjects()[options.pop("model")]
    idle = status("VmRSS")
    subject = subject_of(options["quick"])
    if options["sparsity"]:
        subject.prune(options["sparsity"])
    layouts = []
    if options["packed"]:
        report = bs.sparse.pack_(subject.model)
        layouts = sorted({layer.layout for layer in report.layers if layer.layout is not None})
    in_file = _bytes_in_file(subject.model, options["packed"])
    subject.run()
    _give_back_memory()
    tensors = {t.data_ptr(): t.nbytes for t in subject.model.state_dict().values()}
    facts = {"resident_bytes": status("VmRSS"), "idle_bytes": idle, "weight_bytes": sum(tensors.values())}
    _say({**facts, "file_bytes": in_file, "layouts": layouts})
    for line in sys.stdin:
        what, threads = json.loads(line)
        set_threads(threads)
        _say(getattr(subject, what)())


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def _bytes_in_file(model: Any, packed: bool) -> int:
    import bittersweet as bs
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if packed:
            bs.sparse.save_compressed(model, path)
        else:
            save_file(model.state_dict(), path)
        return path.stat().st_size


def _give_back_memory() -> None:
    """What was freed goes back to the system, where the C library keeps it (glibc does)."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
