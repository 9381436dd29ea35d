"""Warnings point at the line of the user's that led to them."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet import notices


def _here() -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


def _swamped() -> dict[str, Any]:
    """Inputs whose second moments all lie below the scorer's eps, which is worth a warning."""
    weight = np.arange(1.0, 9.0, dtype=np.float32)
    return {"weight": weight, "exp_avg_sq": np.full(8, 1e-12, np.float32)}


@pytest.mark.parametrize("call", [bs.prune_, bs.make_masks])
def test_a_warning_of_a_function_points_at_its_caller(call: Any, fresh_warnings: None) -> None:
    with pytest.warns(UserWarning, match="below eps") as caught:
        call(bs.ScoreInputs(**_swamped()), sparsity=0.5); line = _here()  # fmt: skip  # noqa: E702
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)


@pytest.mark.parametrize("attached", [False, True])
def test_a_warning_in_training_points_at_the_loop(attached: bool, fresh_warnings: None) -> None:
    """By hand it is the line of ``pruner.step()``; attached, that of ``optimizer.step()``, through torch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = bs.Pruner(model, optimizer, scorer=bs.Bitter7(eps=0.5), schedule=bs.OneShot(0.5, 1))
    if attached:
        pruner.attach()
    model(torch.ones(2, 8)).square().mean().backward()
    with pytest.warns(UserWarning, match="below eps") as caught:
        optimizer.step(); line = _here()  # fmt: skip  # noqa: E702
        if not attached:
            pruner.step(); line = _here()  # fmt: skip  # noqa: E702
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)


def test_a_warning_of_a_dataclass_points_at_who_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated ``__init__`` methods have a file of no name; they belong to the module of their class."""
    source = (
        "import dataclasses\nfrom bittersweet import notices\n\n"
        "@dataclasses.dataclass\nclass Made:\n    x: int\n"
        "    def __post_init__(self):\n        notices.warn('odd x')\n"
    )
    module = types.ModuleType("bittersweet.made")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source, module.__dict__)
    with pytest.warns(UserWarning, match="odd x") as caught:
        module.Made(1); line = _here()  # fmt: skip  # noqa: E702
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)


def test_once_is_once_and_plain_warnings_obey_the_users_filters(fresh_warnings: None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            notices.warn_once("a key", "said once")
            notices.warn("said always", RuntimeWarning)
    assert [str(one.message) for one in caught].count("said once") == 1
    assert [one.category for one in caught].count(RuntimeWarning) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="stop here"):
            notices.warn("stop here")
