"""One training run with everything that keeps memory, under settings of the process: prints what came out.

Run as a program with the name of a setting; model and data are made before it is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import bittersweet as bs
import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class FunctionMode(TorchFunctionMode):
    """Sees every function of torch, and changes none."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def set_and_reset(put: Callable[[Any], Any], value: Any, former: Any) -> Iterator[None]:
    put(value)
    try:
        yield
    finally:
        put(former)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "none": contextlib.nullcontext,
    "dtype float64": lambda: set_and_reset(torch.set_default_dtype, torch.float64, torch.float32),
    "dtype bfloat16": lambda: set_and_reset(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "dtype float16": lambda: set_and_reset(torch.set_default_dtype, torch.float16, torch.float32),
    "device meta": lambda: set_and_reset(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
    "anomaly": torch.autograd.detect_anomaly,
    "function mode": FunctionMode,
    "dispatch mode": DispatchMode,
    "flush denormals": lambda: set_and_reset(torch.set_flush_denormal, True, False),
}  # fmt: skip

SCORERS = ["bitter7", "bitter10", "bitter10s", bs.Bitter10c(every=2), "movement", "wanda", "random"]


class Digest:
    """Everything that came out, as bytes."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def add(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            assert value.device.type == "cpu", value.device
            self.hash.update(f"{value.dtype} {tuple(value.shape)}".encode())
            if value.dtype is torch.bfloat16:
                value = value.view(torch.int16)
            self.hash.update(np.ascontiguousarray(value.detach().numpy()).tobytes())
        elif isinstance(value, dict):
            for key, item in value.items():
                if key not in ("milliseconds", "history"):
                    self.hash.update(str(key).encode())
                    self.add(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.add(item)
        else:
            self.hash.update(repr(value).encode())


def train(scorer: Any, weights: torch.dtype, setting: str, digest: Digest) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(33, 17), torch.nn.Tanh(), torch.nn.Linear(17, 5)).to(weights)
    data = [torch.randn(8, 33).to(weights) for _ in range(9)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    norms = {"0.weight": torch.linspace(1, 2, 33), "2.weight": torch.linspace(1, 2, 17)}
    options = {"input_norms": norms} if scorer == "wanda" else {}
    inside = SETTINGS[setting]
    if setting in ("no grad", "inference"):  # training itself cannot run in these, all else can
        pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=bs.Linear(0, 0.5, 4, 8, 2), **options)
        outside: Any = contextlib.nullcontext
    else:
        with inside():
            pruner = bs.Pruner(
                model, optimizer, scorer=scorer, schedule=bs.Linear(0, 0.5, 4, 8, 2), **options
            )
        outside = inside
    for batch in data[:-1]:
        with outside():
            model(batch).square().mean().backward()
            optimizer.step()
        with inside():
            pruner.step()
        with outside():
            optimizer.zero_grad()
    with inside():
        state = pruner.state_dict()
        pruner.load_state_dict(state)
    with outside():
        model(data[-1]).square().mean().backward()
        optimizer.step()
    with inside():
        pruner.step()
        if pruner.tracker is not None:
            digest.add(pruner.tracker.state_dict())
            digest.add(pruner.tracker.answers())
            digest.add(pruner.tracker.nbytes)
        digest.add(pruner.state_dict())
        digest.add(dict(pruner.masks))
        digest.add(pruner.sparsity().to_dict())
        pruner.finalize()
    digest.add([parameter.detach() for parameter in model.parameters()])


def one_shot(setting: str, digest: Digest) -> None:
    """Functions, calibration, sequential pruning and the gradient probe."""
    torch.manual_seed(0)
    weight, moment = torch.randn(9, 33), torch.rand(9, 33)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 4))
    blocks = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6))
    images, hidden = torch.randn(3, 2, 4, 4), torch.randn(5, 6)
    with SETTINGS[setting]():
        digest.add(bs.score(weight, exp_avg_sq=moment))
        digest.add(bs.kth_value([weight, moment], 7))
        masks = bs.make_masks(bs.ScoreInputs(weight.t(), exp_avg_sq=moment.t()), sparsity=0.5)
        digest.add(masks.bool())
        again = bs.Mask.from_bool(masks.bool(), "again")
        digest.add(again.bool())
        bs.prune_(bs.ScoreInputs(weight, exp_avg_sq=moment.bfloat16()), sparsity=0.3)
        digest.add(weight)
        calibrator = bs.Calibrator(model).run([images])
        digest.add(dict(calibrator.norms))
        bs.prune_(calibrator.score_inputs(), sparsity=0.5, scorer="wanda", scope="row")
        bs.prune_blocks_(blocks, [hidden], sparsity=0.5)
        if setting not in ("no grad", "inference"):
            probe = bs.GradientProbe(
                model, lambda m, batch: m(batch).square().mean(), [images], gradient_threshold=0.5
            )
            probe.prune(0.7)
    if setting in ("no grad", "inference"):  # a loss without gradients is no matter of defaults
        bs.GradientProbe(
            model, lambda m, batch: m(batch).square().mean(), [images], gradient_threshold=0.5
        ).prune(0.7)
    digest.add([parameter.detach() for parameter in (*model.parameters(), *blocks.parameters())])


def main(setting: str) -> str:
    warnings.simplefilter("ignore")
    digest = Digest()
    for weights in (torch.float32, torch.bfloat16):
        for scorer in SCORERS:
            train(scorer, weights, setting, digest)
    one_shot(setting, digest)
    return digest.hash.hexdigest()


if __name__ == "__main__":
    import faulthandler

    faulthandler.enable()
    for name in sys.argv[1:]:
        print(name, main(name), flush=True)
