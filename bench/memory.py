"""Peak resident memory of one call beyond its inputs, or of training beyond the model, each in a process of
its own.

Run by the headline, training and torch_prune sections: ``python bench/memory.py WHAT WEIGHTS THREADS`` prints
one JSON object. WHAT is one of CALLS or PRUNES, or one of `arms.ARMS`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

CALLS = ("threshold", "masks")
PRUNES = ("prune ours", "prune torch")


def in_fresh_process(call: str, weights: int, threads: int) -> dict[str, Any]:
    """`peak_bytes` beyond the inputs, the library's own `extra_bytes`, and `mask_bytes`, of one cold call.
    Of an arm: `peak_bytes` beyond the model, over the first event and the steps after it. Of PRUNES: what
    `sections.torch_prune.measure_memory` says.

    Raises RuntimeError with what the process printed when it fails.
    """
    import bittersweet

    package = str(Path(bittersweet.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, __file__, call, str(weights), str(threads)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the memory of '{call}' could not be measured:\n{done.stderr}")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def forget_peak() -> bool:
    """Makes the peak resident size what is resident now, where the system lets a process do that."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def status(field: str) -> int:
    """VmRSS or VmHWM in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak(forgotten: bool) -> int:
    """Without a fresh start it may be that of making the data: then it is too much, never too little."""
    return status("VmHWM") if forgotten else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _of_training(arm: str, weights: int) -> dict[str, Any]:
    import arms

    def train(training: arms.Training) -> None:
        training.begin(arm)
        for _ in range(arms.EVERY + 3):
            training.step()

    train(arms.Training(1))  # loads the code
    training = arms.Training(weights)
    forgotten = forget_peak()
    before = status("VmRSS")
    train(training)
    return {"peak_bytes": max(0, peak(forgotten) - before), "exact_peak": forgotten}


def main(call: str, weights: int, threads: int) -> None:
    import warnings

    import bittersweet as bs
    import models
    from measure import set_threads

    warnings.simplefilter("ignore")
    set_threads(threads)
    if call in PRUNES:
        from sections.torch_prune import measure_memory

        print(json.dumps(measure_memory(call.removeprefix("prune "), weights)))
        return
    if call not in CALLS:
        print(json.dumps(_of_training(call, weights)))
        return
    calls = {
        "threshold": lambda inputs: bs.threshold(inputs, sparsity=0.5),
        "masks": lambda inputs: bs.make_masks(inputs, sparsity=0.5),
    }
    model = models.empty(weights, moments=False)
    models.fill(model)
    inputs = model.inputs()
    calls[call](models.one_element_each(4).inputs())  # loads the code, keeps no memory to speak of
    forgotten = forget_peak()
    before = status("VmRSS")
    result = calls[call](inputs)
    reached = peak(forgotten)
    masks = result.nbytes if call == "masks" else 0
    event = result.event if call == "masks" else result
    print(
        json.dumps(
            {
                "peak_bytes": max(0, reached - before),
                "extra_bytes": event.extra_bytes,
                "mask_bytes": masks,
                "exact_peak": forgotten,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
