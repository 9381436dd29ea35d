"""One rank of `launch.Ranks`: ``worker.py RANK SIZE FOLDER``. Reads cases as JSON lines, answers likewise."""

from __future__ import annotations

import datetime
import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what cases and libraries print belongs to the log
    faulthandler.register(signal.SIGUSR1)
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent / "support")]
    import bittersweet as bs
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    bs.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line), rank, size)) + "\n")
        answers.flush()
    dist.destroy_process_group()


def answer(order: dict[str, Any], rank: int, size: int) -> dict[str, Any]:
    import torch.distributed as dist

    try:
        case = getattr(importlib.import_module(order["module"]), order["case"])
        value = case(rank, size, **order["arguments"])
        json.dumps(value)
        dist.barrier()  # the group still works, and no rank begins the next case before the others
    except BaseException:
        return {"ok": False, "traceback": traceback.format_exc()}
    return {"ok": True, "value": value}


if __name__ == "__main__":
    main()
