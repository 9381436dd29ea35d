"""Arrays that are not what they seem, and every public function called with them: run as a program.

It prints one line per complaint: an exception that is no `bittersweet.Error`, or a wrong answer. A crash of
the interpreter speaks for itself.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import bittersweet as bs
import ml_dtypes
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

SHAPE = (6, 8)
VALUES = np.random.default_rng(0).permutation(48).reshape(SHAPE).astype(np.float32) + 1.0
KEPT = VALUES > 24.0  # by magnitude at one half
REFUSED = None


class Plain(torch.Tensor):
    """A subclass that adds nothing."""


class Elsewhere(torch.Tensor):
    """A wrapper whose values lie in another tensor, as those of quantised tensors do."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        made: Any = torch.Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype)  # type: ignore[attr-defined]
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{function} of a tensor that is elsewhere")


class Speaks:
    """Something that claims to know a protocol and fails."""

    shape = SHAPE

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    def __getattr__(self, name: str) -> Any:
        if name == self.__dict__.get("protocol"):
            return self.fail
        raise AttributeError(name)

    def fail(self, *_: Any, **__: Any) -> Any:
        raise ValueError("the protocol is only claimed")


def values() -> torch.Tensor:
    return torch.from_numpy(VALUES.copy())


def resized(count: int) -> torch.Tensor:
    tensor = values().clone()  # torch owns it: NumPy's memory cannot be resized
    tensor.untyped_storage().resize_(count)
    return tensor


def inside(transform: Callable[..., Any]) -> Any:
    """A tensor as it is seen inside of a transform, smuggled out."""
    seen: list[Any] = []

    def see(x: Any) -> Any:
        seen.append(x)
        return x.sum()

    transform(see)(values() if transform is not torch.vmap else values()[None])
    return seen[0]


def misaligned(framework: str) -> Any:
    memory = bytearray(4 * 48 + 1)
    memory[1:] = VALUES.tobytes()
    if framework == "torch":
        return torch.frombuffer(memory, dtype=torch.float32, offset=1).reshape(SHAPE)
    return np.frombuffer(memory, dtype=np.float32, offset=1).reshape(SHAPE)


def inference() -> torch.Tensor:
    with torch.inference_mode():
        return values() * 1.0


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(SHAPE, device="cpu")


def channels_last_inference() -> torch.Tensor:
    with torch.inference_mode():
        return (values() * 1.0).t().contiguous().t()


def arrays() -> dict[str, tuple[Callable[[], Any], Any]]:
    """By name, what makes an array, and the values that it must be taken for; None: it must be refused."""
    strided: dict[str, tuple[Callable[[], Any], Any]] = {
        "plain": (values, VALUES),
        "parameter": (lambda: torch.nn.Parameter(values()), VALUES),
        "requires grad": (lambda: values().requires_grad_(), VALUES),
        "not a leaf": (lambda: values().requires_grad_() * 1.0, VALUES),
        "inference": (inference, VALUES),
        "inference, transposed": (channels_last_inference, VALUES),
        "plain subclass": (lambda: values().as_subclass(Plain), VALUES),  # type: ignore[arg-type]
        "transposed": (lambda: values().t().contiguous().t(), VALUES),
        "slice": (lambda: torch.cat([values(), values()], 1)[:, :8], VALUES),
        "misaligned": (lambda: misaligned("torch"), VALUES),
        "bfloat16": (lambda: values().bfloat16(), VALUES),
        "negative strides": (lambda: VALUES[::-1, ::-1].copy()[::-1, ::-1], VALUES),
        "misaligned numpy": (lambda: misaligned("numpy"), VALUES),
        "fortran": (lambda: np.asfortranarray(VALUES), VALUES),
        "memoryview": (lambda: memoryview(VALUES.copy()), VALUES),
        "zero size": (lambda: torch.empty(0, 8), np.empty((0, 8), np.float32)),
        "zero size numpy": (lambda: np.empty((3, 0), np.float32), np.empty((3, 0), np.float32)),
        "scalar": (lambda: torch.tensor(3.0), np.array(3.0, np.float32)),
    }
    refused: dict[str, Callable[[], Any]] = {
        "meta": lambda: torch.empty(SHAPE, device="meta"),
        "fake": fake,
        "freed": lambda: resized(0),
        "shrunk": lambda: resized(40),
        "shrunk to a byte": lambda: resized(1),
        "sparse": lambda: values().to_sparse(),
        "sparse csr": lambda: values().to_sparse_csr(),
        "quantised": lambda: torch.quantize_per_tensor(values(), 0.1, 0, torch.qint8),
        "elsewhere": lambda: Elsewhere(values()),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "expanded": lambda: torch.ones(8).expand(SHAPE),
        "overlapping": lambda: torch.ones(20).as_strided(SHAPE, (2, 1)),
        "mkldnn": lambda: values().to_mkldnn(),
        "zero tensor": lambda: torch._efficientzerotensor(SHAPE),
        "negated": lambda: torch.complex(values(), values()).conj().imag,
        "float64": lambda: values().double(),
        "complex": lambda: torch.complex(values(), values()),
        "int8": lambda: values().to(torch.int8),
        "float8": lambda: values().to(torch.float8_e4m3fn),
        "inside vmap": lambda: inside(torch.vmap),
        "inside grad": lambda: inside(torch.func.grad),
        "uninitialised": lambda: torch.nn.LazyLinear(3).weight,
        "byte-swapped": lambda: VALUES.astype(">f4"),
        "objects": lambda: VALUES.astype(object),
        "structured": lambda: np.zeros(SHAPE, [("x", "f4")]),
        "numpy expanded": lambda: np.broadcast_to(np.ones(8, np.float32), SHAPE),
        "list": lambda: [[1.0, 2.0]],
        "number": lambda: 3.0,
        "text": lambda: "weights",
        "nothing": lambda: None,
        "claims dlpack": lambda: Speaks("__dlpack_device__"),
        "claims an array": lambda: Speaks("__array__"),
    }
    return {**strided, **{name: (make, REFUSED) for name, make in refused.items()}}


def as_numpy(value: Any) -> Any:
    return value.detach().float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def like(value: Any, fill: float) -> Any:
    """A plain array of the shape and framework of another."""
    shape = tuple(getattr(value, "shape", SHAPE))
    return torch.full(shape, fill) if isinstance(value, torch.Tensor) else np.full(shape, fill, np.float32)


def check(right: bool, what: str) -> None:
    if not right:
        raise AssertionError(what)


def kept_of(expected: Any) -> Any:
    """What half of the budget leaves, by float64 and a stable sort."""
    flat = np.abs(expected.astype(np.float64)).reshape(-1)
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[: int(0.5 * flat.size + 0.5)]] = False
    return kept.reshape(expected.shape)


# Each use takes the array and the values it must be taken for, and checks the answer.


def use_score(x: Any, expected: Any) -> None:
    check(np.array_equal(as_numpy(bs.score(x, "magnitude")), np.abs(expected)), "scores")


def use_make_masks(x: Any, expected: Any) -> None:
    masks = bs.make_masks(bs.ScoreInputs(x), sparsity=0.5, scorer="magnitude")
    check(np.array_equal(as_numpy(masks.bool()), kept_of(expected)), "masks")


def use_threshold(x: Any, expected: Any) -> None:
    found = bs.threshold(bs.ScoreInputs(x), sparsity=0.5, scorer="magnitude")
    k = int(0.5 * expected.size + 0.5)
    ordered = np.sort(np.abs(expected).reshape(-1))
    check(found.value == (ordered[k - 1] if k else -np.inf), f"threshold {found.value}")


def use_kth_value(x: Any, expected: Any) -> None:
    if expected is not None and not expected.size:
        return
    check(float(bs.kth_value(x, 1)) == expected.min(), "kth value")


def use_prune(x: Any, expected: Any) -> None:
    if isinstance(x, memoryview) and x.readonly:
        return
    bs.prune_(bs.ScoreInputs(x), sparsity=0.5, scorer="magnitude")
    check(np.array_equal(as_numpy(x), np.where(kept_of(expected), expected, 0.0)), "pruned weights")


def use_apply(x: Any, expected: Any) -> None:
    keep = kept_of(expected) if expected is not None else np.ones(SHAPE, bool)
    bs.apply_masks_(bs.ScoreInputs(x), torch.from_numpy(keep) if isinstance(x, torch.Tensor) else keep)
    check(np.array_equal(as_numpy(x), np.where(keep, expected, 0.0)), "masked weights")


def use_violations(x: Any, expected: Any) -> None:
    keep = np.zeros(expected.shape if expected is not None else SHAPE, bool)
    mask = torch.from_numpy(keep) if isinstance(x, torch.Tensor) else keep
    found = bs.count_violations(bs.ScoreInputs(x), mask)
    check(found == {"tensor0": np.count_nonzero(expected)}, f"violations {found}")


def use_moments(x: Any, expected: Any) -> None:
    ones = like(x, 1.0)
    found = bs.score(ones, "bitter3", exp_avg=x, eps=0.0)
    check(np.allclose(as_numpy(found), np.sqrt(np.abs(expected))), "scores of moments")


def use_grad(x: Any, expected: Any) -> None:
    check(np.array_equal(as_numpy(bs.score(like(x, 1.0), "gradient", grad=x)), np.abs(expected)), "gradients")


def use_out(x: Any, expected: Any) -> None:
    if x is None or (expected is not None and as_numpy(x).dtype != np.float32):
        raise bs.ArgumentError("there is nothing to check")
    if isinstance(x, torch.Tensor) and x.dtype is torch.bfloat16:
        raise bs.DTypeError("only float32 is written")
    source = like(x, 2.0)
    bs.score(source, "magnitude", out=x)
    check(np.array_equal(as_numpy(x), np.full_like(expected, 2.0)), "out")


def use_rounding(x: Any, expected: Any) -> None:
    """Small integers are bfloat16 already, so nothing is left to chance."""
    dst: Any = torch.zeros(SHAPE if expected is None else expected.shape, dtype=torch.bfloat16)
    if not isinstance(x, torch.Tensor):
        dst = np.zeros(dst.shape, ml_dtypes.bfloat16)
    bs.stochastic_round_(dst, x, seed=1, step=2)
    check(np.array_equal(as_numpy(dst).astype(np.float32), expected), "rounded values")


def use_norms(x: Any, expected: Any) -> None:
    shape = tuple(getattr(x, "shape", ()))
    weight = torch.ones(2, *shape) if isinstance(x, torch.Tensor) else np.ones((2, *shape), np.float32)
    bs.score(weight, "wanda", input_norm=x)


def use_mask(x: Any, expected: Any) -> None:
    mask = bs.Mask.from_bool(x if expected is None else as_numpy(x) > 24.0)
    check(np.array_equal(as_numpy(mask.bool()), expected > 24.0), "mask")


def use_words(x: Any, expected: Any) -> None:
    """None of them is 64-bit words."""
    try:
        bs.Mask(x, SHAPE)
    except bs.Error:
        return
    raise AssertionError("words")


def use_current_mask(x: Any, expected: Any) -> None:
    if x is None:
        return
    try:
        bs.make_masks(bs.ScoreInputs(values(), mask=x), sparsity=0.5, scorer="magnitude")
    except bs.Error:
        return
    raise AssertionError("a mask of floats")


def use_pruner(x: Any, expected: Any) -> None:
    model = torch.nn.Linear(8, 6)
    if not isinstance(x, torch.Tensor):
        return
    model.weight.data = x
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    pruner.step()
    check(np.array_equal(as_numpy(model.weight), np.where(kept_of(expected), expected, 0.0)), "pruner")
    pruner.finalize()


def use_state(x: Any, expected: Any) -> None:
    """As a moment of the optimizer, in which every scorer with a memory would read it."""
    for scorer in ("bitter7", "bitter10", "bitter10s", "bitter10c"):
        model = torch.nn.Linear(8, 6)
        optimizer = torch.optim.AdamW(model.parameters())
        pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=bs.OneShot(0.5, 4))
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        pruner.step()
        optimizer.state[model.weight]["exp_avg"] = x
        optimizer.state[model.weight]["exp_avg_sq"] = x
        for _ in range(4):
            pruner.step()


def use_tracked_gradient(x: Any, expected: Any) -> None:
    model = torch.nn.Linear(8, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    tracker = bs.MovementTracker(model, optimizer, hook=False)
    model(torch.ones(2, 8)).sum().backward()
    tracker.update()
    try:
        model.weight.grad = x
    except (RuntimeError, TypeError):  # torch itself refuses it
        return
    tracker.update()


def use_loaded_masks(x: Any, expected: Any) -> None:
    pruner = bs.Pruner(torch.nn.Linear(8, 6), scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    try:
        pruner.load_masks({"weight": x})
    except bs.Error:
        return
    raise AssertionError("loaded")


def use_input_norms(x: Any, expected: Any) -> None:
    try:
        bs.Pruner(
            torch.nn.Linear(8, 6), scorer="wanda", schedule=bs.OneShot(0.5, 1), input_norms={"weight": x}
        )
    except bs.Error:
        return
    raise AssertionError("norms of the wrong shape")


def use_saved_state(x: Any, expected: Any) -> None:
    model = torch.nn.Linear(8, 6)
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = bs.Pruner(model, optimizer, scorer="bitter10", schedule=bs.OneShot(0.5, 9))
    state = pruner.state_dict()
    for broken in (
        {**state, "masks": {"weight": x}},
        {**state, "history": x},
        {**state, "step": x},
        {**state, "version": x},
        {**state, "shapes": x},
        {**state, "shapes": {"weight": x}},
        {**state, "masks": x},
        {**state, "config": x},
        {
            **state,
            "tracker": {**state["tracker"], "seen": {"weight": True}, "tensors": {"weight": {"previous": x}}},
        },
        {
            **state,
            "tracker": {
                **state["tracker"],
                "seen": {"weight": True},
                "tensors": {"weight": {**state["tracker"]["tensors"]["weight"], "average": x}},
            },
        },
    ):
        try:
            pruner.load_state_dict(broken)
        except bs.Error:
            continue
        raise AssertionError("loaded")


USES: list[Callable[[Any, Any], None]] = [
    use_score, use_make_masks, use_threshold, use_kth_value, use_prune, use_apply, use_violations,
    use_moments, use_grad, use_out, use_rounding, use_norms, use_mask, use_words, use_current_mask,
    use_pruner, use_state, use_tracked_gradient, use_loaded_masks, use_input_norms, use_saved_state,
]  # fmt: skip

# These refuse or pass over whatever they are given, or ask for a shape that not all have.
PACKAGE = os.path.dirname(bs.__file__)
ANYTHING = {use_words, use_current_mask, use_loaded_masks, use_input_norms, use_saved_state}
SHAPED = {use_out, use_rounding, use_pruner, use_norms, use_state, use_tracked_gradient}


def complaints() -> Iterator[str]:
    for name, (make, expected) in arrays().items():
        for use in USES:
            try:
                use(make(), expected)
            except bs.Error as error:
                if expected is not None and use not in SHAPED:
                    yield f"{use.__name__} refused '{name}': {type(error).__name__}: {error}"
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)
                inside = any(frame.filename.startswith(PACKAGE) for frame in where)
                if expected is None and not inside and not isinstance(error, AssertionError):
                    continue  # the check tripped over what had to be refused, or torch refused to hold it
                yield f"{use.__name__} of '{name}': {type(error).__name__}: {error} at {where[-1]}"
            else:
                if expected is None and use not in ANYTHING | SHAPED:
                    yield f"{use.__name__} took '{name}'"


if __name__ == "__main__":
    import faulthandler

    faulthandler.enable()
    warnings.simplefilter("ignore")
    found = list(complaints())
    print("\n".join(found))
    print(f"{len(found)} complaints, {len(arrays()) * len(USES)} calls")
    sys.exit(bool(found))
