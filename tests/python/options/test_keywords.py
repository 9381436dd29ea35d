"""Keywords that others use get the name of ours."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.options.keywords import refuse


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("amount", "the argument is sparsity"),
        ("target_sparsity", "the argument is sparsity"),
        ("density", "1 - density"),
        ("method", "the argument is scorer"),
        ("exclude", "the argument is ignore"),
        ("sparsty", "the argument is sparsity"),
        ("optim", "the argument is optimizer"),
        ("min_tensor_sparsity", "the argument is tensor_sparsity"),
        ("zzz", "accepted: sparsity, k, scope"),
    ],
)
@pytest.mark.parametrize("function", [bs.prune_, bs.make_masks])
def test_hints(function: Any, keyword: str, hint: str) -> None:
    with pytest.raises(
        bs.ArgumentError, match=rf"^{keyword}: {function.__name__} has no such argument; .*{hint}"
    ):
        function(bs.ScoreInputs(np.ones(8, np.float32)), **{keyword: 0.5})


def test_a_hint_is_an_argument_of_that_function() -> None:
    with pytest.raises(bs.ArgumentError, match=r"^granularity: .*accepted: "):
        bs.threshold(bs.ScoreInputs(np.ones(8, np.float32)), granularity="row")

    def lonely(*, size: int) -> None: ...

    with pytest.raises(bs.ArgumentError, match="amount: lonely has no such argument; accepted: size"):
        refuse(lonely, {"amount": 1})
    refuse(lonely, {})
