"""Nothing from Python crashes the interpreter: odd inputs are used rightly, or refused by our own errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bittersweet as bs
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

SUPPORT = Path(__file__).parents[1] / "support"


def run(program: str, *arguments: str) -> str:
    """What a program of `support` prints, in a process of its own, which may not die."""
    search = f"import sys, runpy; sys.path[:0] = {sys.path!r}; sys.argv[1:] = {list(arguments)!r}"
    code = f"{search}; runpy.run_path({str(SUPPORT / program)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


def test_odd_arrays_at_every_public_function() -> None:
    assert run("nasty_inputs.py").splitlines()[-1].startswith("0 complaints, 1")


def test_settings_of_the_process_change_nothing() -> None:
    """All memory is named by dtype and device: default dtype and device, modes of autograd and of torch."""
    import process_wide

    lines = run("process_wide.py", *process_wide.SETTINGS).splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines)
    assert found.keys() == process_wide.SETTINGS.keys()
    assert {name for name, digest in found.items() if digest != found["none"]} == set()


def test_fake_tensor_mode_gives_right_answers_or_is_refused() -> None:
    weight = torch.arange(48.0).reshape(6, 8)
    expected = bs.make_masks(bs.ScoreInputs(weight), sparsity=0.5, scorer="magnitude")
    with FakeTensorMode():
        masks = bs.make_masks(bs.ScoreInputs(weight), sparsity=0.5, scorer="magnitude")
        for call in (
            lambda: bs.score(weight, "magnitude"),
            lambda: bs.kth_value(weight, 3),
            masks.bool,
            lambda: bs.SketchTracker(
                torch.nn.Linear(3, 3), torch.optim.SGD([torch.nn.Parameter(weight)])
            ).update(),
        ):
            with pytest.raises(bs.Error):
                call()
    assert masks == expected


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (np.zeros(1, np.int64), (3,)),
        (np.zeros(4, np.uint64)[::2], (65,)),
        (np.frombuffer(bytearray(9), np.uint64, 1, 1), (3,)),
        (np.zeros(1, ">u8"), (3,)),
        (torch.zeros(1, dtype=torch.int64), (3,)),
        (torch.zeros(1, dtype=torch.int64, device="meta"), (3,)),
        (torch.zeros(1, dtype=torch.int64).to_sparse(), (3,)),
        ([0], (3,)),
        (None, (3,)),
        (np.zeros(1, np.uint64), (-1, -3)),
        (np.zeros(1, np.uint64), (2.5,)),
        (np.zeros(1, np.uint64), 3),
        (np.zeros(1, np.uint64), ("3",)),
        (np.zeros(1, np.uint64), (65,)),
        (np.zeros((1, 1), np.uint64), (3,)),
        (np.array([8], np.uint64), (3,)),
    ],
)
def test_words_that_make_no_mask(words: object, shape: object) -> None:
    with pytest.raises(bs.Error, match="of 'w'"):
        bs.Mask(words, shape, "w")
    with pytest.raises(bs.ArgumentError, match="framework"):
        bs.Mask(np.zeros(1, np.uint64), (3,), "w", "jax")


def test_memory_that_is_freed_between_two_steps_is_noticed() -> None:
    """What was packed at the step before is used again only for memory that is still there."""
    for scorer, key in (("bitter10", "weight"), ("bitter10s", "exp_avg"), ("movement", "grad")):
        for size in (0, 1):
            model = torch.nn.Linear(64, 64)
            optimizer = torch.optim.AdamW(model.parameters())
            tracker = {
                "bitter10": bs.CoherenceTracker, "bitter10s": bs.SketchTracker,
                "movement": lambda m, o: bs.MovementTracker(m, o, hook=False),
            }[scorer](model, optimizer)  # fmt: skip
            for _ in range(2):
                model(torch.ones(2, 64)).sum().backward()
                optimizer.step()
                tracker.update()
            state = optimizer.state[model.weight]
            tensor = {"weight": model.weight, "grad": model.weight.grad, **state}[key]
            assert isinstance(tensor, torch.Tensor)
            tensor.untyped_storage().resize_(size)
            with pytest.raises(bs.LayoutError, match=rf"{key} of 'weight' has 4096 elements and no memory"):
                tracker.update()


def test_memory_of_a_tracker_is_looked_at_before_its_address_is_taken() -> None:
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    for broken in (
        torch.empty(64, device="meta"), torch.empty(63), torch.empty(64, dtype=torch.float64),
        torch.empty(128)[::2],
    ):  # fmt: skip
        tracker = bs.CoherenceTracker(model, optimizer)
        for _ in range(2):
            model(torch.ones(2, 8)).sum().backward()
            optimizer.step()
            tracker.update()
        tracker._kept[0]["previous"] = broken
        tracker._generation = -1
        with pytest.raises(bs.Error, match="previous of 'weight' in this CoherenceTracker is"):
            tracker.update()


@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("which", ["weight", "exp_avg", "grad"])
def test_memory_that_is_freed_between_two_holds_is_noticed(which: str, size: int) -> None:
    """The table of the step before is used again with the addresses of now, of memory that is all there."""
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1), hold="weights")
    for _ in range(3):
        model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
        pruner.mask_grads_()
        pruner.step()
    gradient = model.weight.grad
    assert gradient is not None
    state = optimizer.state[model.weight]
    moved = {"weight": model.weight.data, "grad": gradient, **state}[which]
    copy = moved.clone()
    moved.untyped_storage().resize_(size)
    with pytest.raises(bs.LayoutError, match=rf"{which} of 'weight' has 4096 elements and no memory"):
        pruner.mask_grads_() if which == "grad" else pruner.step()
    moved.untyped_storage().resize_(copy.untyped_storage().nbytes())
    moved.copy_(copy)
    pruner.mask_grads_()
    pruner.step()
    assert pruner.sparsity().zero == pruner.sparsity().masked == 0.5
