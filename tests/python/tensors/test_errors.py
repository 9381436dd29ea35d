"""Errors: each names the argument and the tensor, and nothing has changed when it is raised."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch

CLASSES = [
    bs.ArgumentError, bs.ShapeError, bs.DTypeError, bs.DeviceError, bs.LayoutError, bs.MissingStateError,
    bs.NonFiniteScoreError, bs.CheckpointError,
]  # fmt: skip


def test_the_family() -> None:
    for cls in CLASSES:
        assert issubclass(cls, bs.Error)
        assert issubclass(cls, TypeError if cls is bs.DTypeError else ValueError)
        assert getattr(bs.errors, cls.__name__) is cls
    error = bs.NonFiniteScoreError("text", "layer", 3, 17)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.parameter, again.count, again.first_index) == ("text", "layer", 3, 17)


def dtensor() -> Any:
    from torch import distributed
    from torch.distributed.tensor import DeviceMesh, Replicate, distribute_tensor

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        return distribute_tensor(torch.ones(4, 4), DeviceMesh("cpu", [0]), [Replicate()])
    finally:
        distributed.destroy_process_group()


def fake() -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(4, 4)


def freed() -> torch.Tensor:
    tensor = torch.randn(4, 4)
    tensor.untyped_storage().resize_(0)
    return tensor


def lazy() -> torch.Tensor:
    return torch.nn.LazyLinear(4).weight


BAD: dict[str, tuple[Callable[[], Any], type[bs.Error], str]] = {
    "float64": (lambda: torch.randn(4, 4, dtype=torch.float64), bs.DTypeError, "float64"),
    "complex": (lambda: torch.randn(4, 4, dtype=torch.complex64), bs.DTypeError, "complex64"),
    "integer": (lambda: torch.ones(4, 4, dtype=torch.int32), bs.DTypeError, "int32"),
    "bool": (lambda: torch.ones(4, 4, dtype=torch.bool), bs.DTypeError, "bool"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8),
        bs.DTypeError,
        "qint8",
    ),
    "meta": (lambda: torch.empty(4, 4, device="meta"), bs.DeviceError, "meta"),
    "fake": (fake, bs.DeviceError, "fake"),
    "sparse": (lambda: torch.eye(4).to_sparse(), bs.LayoutError, "sparse_coo"),
    "csr": (lambda: torch.eye(4).to_sparse_csr(), bs.LayoutError, "sparse_csr"),
    "expanded": (lambda: torch.randn(4, 1).expand(4, 4), bs.LayoutError, "expanded"),
    "overlapping": (lambda: torch.randn(20).as_strided((4, 4), (2, 1)), bs.LayoutError, "overlaps"),
    "negated": (lambda: torch.randn(4, 4, dtype=torch.complex64).conj().imag, bs.LayoutError, "negated"),
    "freed": (freed, bs.LayoutError, "no memory"),
    "lazy": (lazy, bs.LayoutError, "lazy"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), bs.LayoutError, "nested"),
    "numpy float64": (lambda: np.zeros((4, 4)), bs.DTypeError, "float64"),
    "swapped bytes": (lambda: np.zeros((4, 4), ">f4"), bs.DTypeError, ">f4"),
    "numpy expanded": (lambda: np.broadcast_to(np.float32(1), (4, 4)), bs.LayoutError, "expanded"),
    "list": (lambda: [[1.0] * 4] * 4, bs.DTypeError, "list"),
}
WITH_WARNINGS = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def companion(bad: Any) -> Any:
    return torch.ones(4, 4) if isinstance(bad, torch.Tensor) else np.ones((4, 4), np.float32)


@WITH_WARNINGS
@pytest.mark.parametrize("case", BAD)
def test_unusable_arrays(case: str) -> None:
    make, error, words = BAD[case]
    bad = make()
    good = companion(bad)
    with pytest.raises(error, match=words) as caught:
        bs.make_masks(bs.ScoreInputs(bad, name="layer.7"), sparsity=0.5, scorer="magnitude")
    assert "weight of 'layer.7'" in str(caught.value)
    with pytest.raises(error, match=r"exp_avg_sq of 'layer\.7'"):
        bs.prune_(bs.ScoreInputs(good, exp_avg_sq=bad, name="layer.7"), sparsity=0.5)
    assert (good == 1).all()
    with pytest.raises(error, match=words):
        bs.score(bad, "magnitude")
    with pytest.raises(error, match=words):
        bs.kth_value([good, bad], 1)


def test_dtensors_are_for_ranks_to_decide_about() -> None:
    bad = dtensor()
    with pytest.raises(bs.ArgumentError, match=r"torch\.distributed is not initialised.*init_process_group"):
        bs.make_masks(bs.ScoreInputs(bad, name="layer.7"), sparsity=0.5, scorer="magnitude")
    for call in (
        lambda: bs.prune_(bs.ScoreInputs(torch.ones(4, 4), exp_avg_sq=bad), sparsity=0.5),
        lambda: bs.score(bad, "magnitude"),
        lambda: bs.kth_value([torch.ones(4, 4), bad], 1),
        lambda: bs.Mask.from_bool(bad > 0),
    ):
        with pytest.raises(
            bs.LayoutError, match="is a DTensor, of which this process holds a part"
        ) as caught:
            call()
        assert "make_masks, prune_, threshold, Pruner" in str(caught.value)


def test_cuda_tensors_say_what_to_do() -> None:
    class Fake:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self) -> None:
            raise AssertionError("must not be called")

    with pytest.raises(bs.DeviceError, match="weight of 'tensor' is a Fake on a CUDA device, "):
        bs.score(Fake(), "magnitude")  # type: ignore[type-var]


def test_one_framework_a_call() -> None:
    w, v = torch.ones(4), np.ones(4, np.float32)
    with pytest.raises(bs.DeviceError, match="numpy array and weight of 'tensor0' a torch"):
        bs.make_masks(bs.ScoreInputs(w, exp_avg_sq=v), sparsity=0.5)
    with pytest.raises(bs.DeviceError, match="tensor1"):
        bs.threshold([bs.ScoreInputs(w), bs.ScoreInputs(v)], sparsity=0.5, scorer="magnitude")
    with pytest.raises(bs.DeviceError, match="out"):
        bs.score(w, "magnitude", out=v)  # type: ignore[type-var]


@pytest.mark.parametrize("argument", ["exp_avg", "exp_avg_sq", "grad", "scores", "max_exp_avg_sq", "mask"])
def test_shapes(argument: str) -> None:
    wrong = np.ones((5, 4), bool if argument == "mask" else np.float32)
    inputs = bs.ScoreInputs(np.ones((4, 5), np.float32), name="x", **{argument: wrong})
    with pytest.raises(bs.ShapeError, match=rf"{argument} of 'x' has shape \(5, 4\).*\(4, 5\)"):
        bs.make_masks(inputs, sparsity=0.5, scorer="magnitude")


def test_shape_of_input_norm_and_out() -> None:
    w = np.ones((4, 5), np.float32)
    with pytest.raises(bs.ShapeError, match=r"input_norm of 'x' has shape \(4,\); accepted: \(5,\)"):
        bs.make_masks(
            bs.ScoreInputs(w, input_norm=np.ones(4, np.float32), name="x"), sparsity=0.5, scorer="wanda"
        )
    bs.make_masks(
        bs.ScoreInputs(w, input_norm=np.ones(4, np.float32), in_dim=0), sparsity=0.5, scorer="wanda"
    )
    with pytest.raises(bs.ShapeError, match="out has shape"):
        bs.score(w, "magnitude", out=np.ones((5, 4), np.float32))


@pytest.mark.parametrize(
    ("scorer", "argument"),
    [
        ("bitter7", "exp_avg_sq"), ("bitter3", "exp_avg"), ("bitter0", "exp_avg"), ("taylor", "grad"),
        ("gradient", "grad"), ("wanda", "input_norm"), ("identity", "scores"),
        ("bitter8_bias_corrected", "exp_avg"),
    ],
)  # fmt: skip
def test_missing_state(scorer: str, argument: str) -> None:
    w = np.ones(6, np.float32)
    inputs = [bs.ScoreInputs(w, w, w, w, w, w), bs.ScoreInputs(w, name="late")]
    with pytest.raises(bs.MissingStateError, match=rf"{argument} of 'late'.*'{scorer}'"):
        bs.prune_([bs.ScoreInputs(w.copy(), w, w, w, w, w, step=1), inputs[1]], sparsity=0.5, scorer=scorer)
    if scorer != "identity":
        with pytest.raises(bs.MissingStateError, match=argument):
            bs.score(w, scorer)


def test_missing_step() -> None:
    w = np.ones(6, np.float32)
    with pytest.raises(bs.MissingStateError, match="step of 'tensor'"):
        bs.score(w, "bitter8_bias_corrected", exp_avg=w)
    with pytest.raises(bs.ArgumentError, match="step"):
        bs.score(w, "bitter8_bias_corrected", exp_avg=w, step=0)
    with pytest.raises(bs.ArgumentError, match="beta1"):
        bs.score(w, "bitter8_bias_corrected", exp_avg=w, step=1, betas=(1.0, 0.9))


def test_unknown_names_list_the_known_ones() -> None:
    w = np.ones(6, np.float32)
    for name in ("bitter11", "", "Magnitude"):
        with pytest.raises(bs.ArgumentError) as caught:
            bs.score(w, name)
        assert all(known in str(caught.value) for known in bs.scorers())
    with pytest.raises(bs.ArgumentError, match="exact, histogram, kthvalue, sampling, streaming"):
        bs.kth_value(w, 1, selector="topk")
    for thing in (3, None, bs.Exact(), bs.Magnitude):
        with pytest.raises(bs.ArgumentError, match="one of the names"):
            bs.score(w, thing)  # type: ignore[arg-type]
    with pytest.raises(bs.ArgumentError, match="one of the names"):
        bs.kth_value(w, 1, selector=bs.Magnitude())  # type: ignore[arg-type]


def test_parameters_of_scorers_and_selectors() -> None:
    w = np.ones(6, np.float32)
    for name in ("magnitude", "wanda", "random", "identity"):
        with pytest.raises(bs.ArgumentError, match=f"eps: scorer '{name}'"):
            bs.score(w, name, eps=1e-8, input_norm=w)
    with pytest.raises(bs.ArgumentError, match="put it into the object"):
        bs.score(w, bs.Bitter7(), exp_avg_sq=w, eps=0)
    for eps in (-1.0, float("nan"), float("inf"), "small"):
        with pytest.raises(bs.ArgumentError, match="eps"):
            bs.score(w, "bitter7", exp_avg_sq=w, eps=eps)  # type: ignore[arg-type]
        with pytest.raises(bs.ArgumentError, match="eps"):
            bs.Bitter7(eps=eps)  # type: ignore[arg-type]
    with pytest.raises(bs.ArgumentError, match="q"):
        bs.AdamVariance(q=0.3)
    for fraction in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(bs.ArgumentError, match="fraction"):
            bs.Sampling(fraction=fraction)
    for tolerance in (-1e-3, 1.0, float("nan")):
        with pytest.raises(bs.ArgumentError, match="tolerance"):
            bs.Streaming(tolerance=tolerance)
    for seed in (-1, 2**63, 1.5, None):
        with pytest.raises(bs.ArgumentError, match="seed"):
            bs.make_masks(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude", seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"sparsity": 0.5, "k": 3}, {"sparsity": -0.1}, {"sparsity": 1.1}, {"sparsity": float("nan")},
        {"sparsity": "half"}, {"k": -1}, {"k": 7}, {"k": 2.5}, {"sparsity": 0.5, "ties": "random"},
        {"sparsity": 0.5, "nonfinite": "ignore"}, {"sparsity": 0.5, "max_tensor_sparsity": 1.5},
        {"sparsity": 0.5, "max_tensor_sparsity": 0.5, "scope": "tensor"},
        {"sparsity": 0.5, "scope": "row", "ties": "below"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments_write_nothing(options: dict[str, Any]) -> None:
    w = np.arange(1, 7, dtype=np.float32)
    with pytest.raises(bs.ArgumentError) as caught:
        bs.prune_(bs.ScoreInputs(w), scorer="magnitude", **options)
    assert any(word in str(caught.value) for word in options) or not options
    assert w.tolist() == [1, 2, 3, 4, 5, 6]


def test_inputs_must_be_wrapped_and_named_apart() -> None:
    w = torch.ones(4)
    with pytest.raises(bs.ArgumentError, match="ScoreInputs"):
        bs.make_masks(w, sparsity=0.5)  # type: ignore[arg-type]
    with pytest.raises(bs.ArgumentError, match="ScoreInputs"):
        bs.make_masks([w], sparsity=0.5)  # type: ignore[list-item]
    twins = [bs.ScoreInputs(torch.ones(4), name="x"), bs.ScoreInputs(torch.ones(4), name="x")]
    with pytest.raises(bs.ArgumentError, match="'x'"):
        bs.make_masks(twins, sparsity=0.5, scorer="magnitude")


def test_in_dim_modifier_and_roles() -> None:
    w = np.ones((4, 5), np.float32)
    for in_dim in (2, -1):
        with pytest.raises(bs.ArgumentError, match="in_dim"):
            bs.make_masks(bs.ScoreInputs(w, in_dim=in_dim), sparsity=0.5, scorer="magnitude")
    for modifier in (-1.0, float("nan"), float("inf")):
        with pytest.raises(bs.ArgumentError, match="modifier"):
            bs.make_masks(bs.ScoreInputs(w, modifier=modifier), sparsity=0.5, scorer="magnitude")
    for roles in ("weight", ("weights",), ("mask",)):
        with pytest.raises(bs.ArgumentError, match="roles"):
            bs.apply_masks_(bs.ScoreInputs(w), w > 2, roles=roles)
    with pytest.raises(bs.ShapeError, match="masks: 2 for 1"):
        bs.apply_masks_(bs.ScoreInputs(w), [w > 0, w > 0])
    with pytest.raises(bs.DTypeError, match="mask"):
        bs.apply_masks_(bs.ScoreInputs(w), w)
    assert (w == 1).all()


def test_what_is_written_must_be_writable_and_disjoint() -> None:
    frozen = np.ones(8, np.float32)
    frozen.flags.writeable = False
    bs.make_masks(bs.ScoreInputs(frozen), sparsity=0.5, scorer="magnitude")
    with pytest.raises(bs.LayoutError, match="weight of 'tensor0' is read-only"):
        bs.prune_(bs.ScoreInputs(frozen), sparsity=0.5, scorer="magnitude")
    buffer = torch.ones(100)
    with pytest.raises(bs.LayoutError, match=r"'a'.*'b'.*overlap"):
        bs.prune_(
            [bs.ScoreInputs(buffer[:60], name="a"), bs.ScoreInputs(buffer[50:], name="b")],
            sparsity=0.5,
            scorer="magnitude",
        )
    with pytest.raises(bs.LayoutError, match="overlap"):
        bs.prune_(bs.ScoreInputs(buffer, buffer, buffer), sparsity=0.5, mask_optimizer_state=True)
    with pytest.raises(bs.LayoutError, match="out"):
        bs.score(buffer, "magnitude", out=buffer)
    assert (buffer == 1).all()
    bs.prune_([bs.ScoreInputs(buffer[:50]), bs.ScoreInputs(buffer[50:])], sparsity=0.5, scorer="magnitude")
    assert int((buffer == 0).sum()) == 50


def test_threads() -> None:
    for n in (0, -1, 1.5, None):
        with pytest.raises(bs.ArgumentError, match="n: "):
            bs.set_num_threads(n)  # type: ignore[arg-type]


def test_every_error_class_is_ours_and_an_ordinary_one() -> None:
    for name in bs.errors.__all__:
        cls = getattr(bs.errors, name)
        assert issubclass(cls, bs.Error) and getattr(bs, name) is cls
        ordinary = (ValueError, TypeError, KeyError, ImportError, RuntimeError)
        assert cls is bs.Error or issubclass(cls, ordinary)


def test_a_name_without_a_mask_is_told_the_names_there_are() -> None:
    masks = bs.make_masks(bs.ScoreInputs(np.ones(4, np.float32), name="w"), k=1, scorer="magnitude")
    pruner = bs.Pruner(torch.nn.Linear(4, 4), scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    for mapping, known in ((masks, "w"), (pruner.masks, "weight")):
        with pytest.raises(bs.UnknownNameError, match=rf"^no mask is called 'x'; known names: {known}$"):
            mapping["x"]
    assert "x" not in pruner.masks and pruner.masks.get("x") is None


def test_a_scope_that_is_none_is_refused_as_one() -> None:
    from bittersweet.options.scopes import Scope

    with pytest.raises(bs.ArgumentError, match="use Global, Tensor, Row or NofM"):
        bs.make_masks(bs.ScoreInputs(np.ones(4, np.float32)), k=1, scorer="magnitude", scope=Scope())


@pytest.mark.parametrize("roles", [None, 3, "weight", ["weights"], [["weight"]], {"weight": 1, 2: 3}])
def test_roles_that_are_none(roles: object) -> None:
    weight = np.ones(4, np.float32)
    with pytest.raises(bs.ArgumentError, match="roles: "):
        bs.apply_masks_(bs.ScoreInputs(weight), np.zeros(4, bool), roles=roles)
    assert weight.all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modifier": 1e39}, "modifier of 'w': 1e\\+39"),
        ({"modifier": "2"}, "modifier of 'w': '2'"),
        ({"modifier": True}, "modifier of 'w': True"),
        ({"step": "7"}, "step of 'w': '7'"),
        ({"step": np.ones(2)}, "step of 'w'"),
        ({"step": torch.ones((), device="meta")}, "step of 'w'"),
        ({"betas": 0.9}, "betas of 'w': 0.9"),
        ({"betas": ()}, r"betas of 'w': \(\)"),
        ({"betas": (True, 0.9)}, "betas of 'w': beta1"),
        ({"in_dim": 1.0}, "in_dim: 1.0"),
        ({"in_dim": True}, "in_dim: True"),
        ({"weight": None}, "weight of 'w': found None"),
    ],
)
def test_scalars_of_inputs(wrong: dict[str, object], message: str) -> None:
    ones = np.ones((2, 4), np.float32)
    given = {"weight": ones, "exp_avg": ones, "step": 3, "name": "w", **wrong}
    with pytest.raises(bs.Error, match=message):
        bs.make_masks(bs.ScoreInputs(**given), k=1, scorer="bitter8_bias_corrected")


@pytest.mark.parametrize("step", [3, 3.0, np.int64(3), np.array([3]), torch.tensor(3.0), torch.tensor([[3]])])
def test_a_step_may_be_a_number_or_a_tensor_of_one_element(step: object) -> None:
    ones = np.ones((2, 4), np.float32)
    found = bs.score(ones, "bitter8_bias_corrected", exp_avg=ones, step=step)
    assert np.array_equal(found, bs.score(ones, "bitter8_bias_corrected", exp_avg=ones, step=3))
