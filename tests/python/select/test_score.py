"""Scores: every formula bit for bit against NumPy float32, whatever the dtypes, layouts and frameworks."""

from __future__ import annotations

import itertools
from typing import Any

import bittersweet as bs
import numpy as np
import oracle
import pytest
import torch
from oracle import BF16, FORMULAS, SIZES, Array, Inputs, bits, scores, spread

DTYPES = (np.dtype(np.float32), np.dtype(np.float16), BF16)
TORCH = {np.dtype(np.float32): torch.float32, np.dtype(np.float16): torch.float16, BF16: torch.bfloat16}
FORMULA_NAMES = sorted(FORMULAS)


def to_torch(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32)).to(TORCH[x.dtype])


def arguments(name: str, w: Array, m: Array, v: Array, g: Array, norm: Array) -> dict[str, Any]:
    """What the scorer reads, as keyword arguments of bs.score."""
    reads = FORMULAS[name][1]
    given = {"m": ("exp_avg", m), "v": ("exp_avg_sq", v), "g": ("grad", g), "n": ("input_norm", norm),
             "k": ("modifier", oracle.MODIFIER), "S": ("scores", w)}  # fmt: skip
    chosen = dict(given[letter] for letter in reads if letter in given)
    return {**chosen, "step": 7} if "t" in reads else chosen


def inputs(name: str, w: Array, m: Array, v: Array, g: Array, norm: Array) -> Inputs:
    return Inputs(w, m, v, g, norm, step=7 if "t" in FORMULAS[name][1] else None)


def data(n: int, seed: int = 0) -> tuple[Array, Array, Array, Array, Array]:
    w, m, g = spread(n, seed, -6, 1), spread(n, seed + 1, -9, 0), spread(n, seed + 2, -9, 1)
    v = np.abs(spread(n, seed + 3, -14, -1))
    w[::7], m[::11], v[::13] = 0.0, 0.0, 0.0
    w[3::17] = -0.0
    return w, m, v, g, np.abs(spread(n, seed + 4, -3, 2))


def test_every_scorer_has_an_oracle() -> None:
    assert set(bs.scorers()) == {*FORMULAS, "random"}


@pytest.mark.parametrize("name", FORMULA_NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_float32_bits(name: str, size: int) -> None:
    x = data(size, seed=size)
    result = bs.score(x[0], name, **arguments(name, *x))
    assert result.dtype == np.float32
    assert np.array_equal(bits(result), bits(scores(name, inputs(name, *x))))


@pytest.mark.parametrize("name", FORMULA_NAMES)
def test_every_mixture_of_dtypes(name: str) -> None:
    for dtypes in itertools.product(DTYPES, repeat=3):
        w, m, v, g, norm = data(1003, seed=5)
        w, m, g, v = w.astype(dtypes[0]), m.astype(dtypes[1]), g.astype(dtypes[1]), v.astype(dtypes[2])
        expected = bits(scores(name, inputs(name, w, m, v, g, norm)))
        given = arguments(name, w, m, v, g, norm)
        assert np.array_equal(bits(bs.score(w, name, **given)), expected), dtypes
        tensors = {key: to_torch(x) if isinstance(x, np.ndarray) else x for key, x in given.items()}
        result = bs.score(to_torch(w), name, **tensors)
        assert result.dtype == torch.float32
        assert np.array_equal(bits(result.numpy()), expected), dtypes


@pytest.mark.parametrize("name", [name for name in FORMULA_NAMES if name != "bitter8_published"])
def test_float64_within_a_bound(name: str) -> None:
    """Float32 rounding alone: a few units in the last place of the larger term of the formula."""
    w, m, v, g, norm = (x.astype(np.float64) for x in data(5000, seed=9))
    w = np.where(np.abs(w) < 1e-5, 0.1, w)
    eps = float(np.float32(FORMULAS[name][2] or 0.0))
    v = np.where(v == 0.0, 1e-20, v)
    movement = np.sign(w) * m / (np.sqrt(v) + eps)
    parts: dict[str, tuple[Array, ...]] = {
        "bitter5": (0.1 * np.abs(w), -movement),
        "bitter5_published": (0.1 * np.abs(w), movement),
        "bitter9_hybrid": (np.abs(w) * np.sqrt(np.abs(m) + eps), -0.1 * movement),
        "bitter9_hybrid_published": (np.abs(w) * np.sqrt(np.abs(m) + eps), 0.1 * movement),
        "bitter0": (w * w * np.abs(m) / (np.sqrt(v) + eps),),
        "bitter6": (np.abs(w) * np.sqrt(np.abs(m) + eps) * np.abs(m) / np.sqrt(v + eps),),
        "bitter10z": (np.abs(w) * np.sqrt(np.abs(m) + eps) * np.abs(m) / (np.sqrt(v) + eps),),
        "bitter3": (np.abs(w) * np.sqrt(np.abs(m) + eps),),
        "bitter4": (np.abs(w) * np.sqrt(np.abs(m) + eps),),
        "bitter8_bias_corrected": (np.abs(w) * np.sqrt(np.abs(m / (1 - 0.9**7)) + eps),),
        "bitter7": (np.abs(w) * (v + eps) ** 0.25,),
        "bitter8": (np.abs(w) * (v + eps) ** 0.25,),
        "bitter9": (np.abs(w) * (v + eps) ** 0.25,),
        "adam_variance": (np.abs(w) * v**0.25,),
        "wanda": (np.abs(w) * norm,),
        "gradient": (np.abs(g),),
        "taylor": (np.abs(w * g),),
        "identity": (w,),
        "movement": (w,),
    }
    for modified in ("bitter10", "bitter10s", "bitter10c"):
        parts[modified] = (oracle.MODIFIER * np.abs(w) * np.sqrt(np.abs(m) + eps),)
    terms = parts.get(name, (np.abs(w),))
    x = [a.astype(np.float32) for a in (w, m, v, g, norm)]
    result = bs.score(x[0], name, **arguments(name, *x)).astype(np.float64)
    scale = np.max(np.abs(terms), axis=0)
    error = np.abs(result - np.sum(terms, axis=0))
    assert np.all(error <= 1e-6 * scale + 1e-44)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("magnitude", {}, [2.0, 3.0]),
        ("bitter7", {"exp_avg_sq": [16.0, 81.0], "eps": 0.0}, [4.0, 9.0]),
        ("bitter8", {"exp_avg_sq": [16.0, 81.0], "eps": 0.0}, [4.0, 9.0]),
        ("bitter3", {"exp_avg": [-9.0, 16.0], "eps": 0.0}, [6.0, 12.0]),
        ("bitter0", {"exp_avg": [-1.0, 4.0], "exp_avg_sq": [4.0, 9.0], "eps": 0.0}, [2.0, 12.0]),
        ("taylor", {"grad": [0.5, -2.0]}, [1.0, 6.0]),
        ("gradient", {"grad": [0.5, -2.0]}, [0.5, 2.0]),
        ("wanda", {"input_norm": [4.0, 0.5]}, [8.0, 1.5]),
    ],
)
def test_worked_examples(name: str, given: dict[str, Any], expected: list[float]) -> None:
    arrays = {key: np.array(x, np.float32) if isinstance(x, list) else x for key, x in given.items()}
    assert bs.score(np.array([-2.0, 3.0], np.float32), name, **arrays).tolist() == expected


def test_movement_away_from_zero_scores_higher() -> None:
    """Adam moves along -m: with w > 0 and m > 0 a weight shrinks. The published sign prefers it."""
    w, v = np.array([1.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32)
    m = np.array([0.5, -0.5], np.float32)  # shrinking, growing
    for name in ("bitter5", "bitter9_hybrid"):
        shrinking, growing = bs.score(w, name, exp_avg=m, exp_avg_sq=v)
        assert growing > shrinking
        shrinking, growing = bs.score(w, f"{name}_published", exp_avg=m, exp_avg_sq=v)
        assert growing < shrinking


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16])
def test_all_halves(dtype: np.dtype[Any]) -> None:
    every = np.arange(65536, dtype=np.uint16).view(dtype)
    single = every.astype(np.float32)
    assert np.array_equal(bits(bs.score(every, "identity")), bits(single))
    assert np.array_equal(bits(bs.score(every, "magnitude")), bits(np.abs(single)))
    w = spread(65536, 1, -3, 1)
    result = bs.score(w, "bitter7", exp_avg_sq=every)
    assert np.array_equal(bits(result), bits(scores("bitter7", Inputs(w, v=every))))


@pytest.mark.parametrize("name", FORMULA_NAMES)
def test_special_values(name: str) -> None:
    """Infinities, NaN, denormals, overflow and negative second moments follow IEEE, as written."""
    special = np.array(
        [0, -0.0, 1e-45, -1e-40, 1e-38, 1, -1, 3e38, -3e38, np.inf, -np.inf, np.nan], np.float32
    )
    grid = np.array(list(itertools.product(special, repeat=3)), np.float32)
    w, m, v = (np.ascontiguousarray(grid[:, column]) for column in range(3))
    x = (w, m, v, m, v)
    assert np.array_equal(
        bits(bs.score(w, name, **arguments(name, *x))), bits(scores(name, inputs(name, *x)))
    )


def test_parameters_of_scorers() -> None:
    w, _, v, _, _ = data(2000)
    for q in (0.5, 0.25, 0.125):
        expected = scores("adam_variance", Inputs(w, v=v), eps=1e-12, q=q)
        assert np.array_equal(
            bits(bs.score(w, bs.AdamVariance(q=q, eps=1e-12), exp_avg_sq=v)), bits(expected)
        )
    assert np.array_equal(
        bits(bs.score(w, "adam_variance", exp_avg_sq=v)), bits(scores("adam_variance", Inputs(w, v=v)))
    )
    expected = bits(scores("bitter7", Inputs(w, v=v), eps=0.0))
    assert np.array_equal(bits(bs.score(w, "bitter7", exp_avg_sq=v, eps=0)), expected)
    assert np.array_equal(bits(bs.score(w, bs.Bitter7(eps=0), exp_avg_sq=v)), expected)
    assert np.array_equal(bits(bs.score(w, bs.AdamVariance(q=0.25), exp_avg_sq=v)), expected)


def test_classes_match_the_compiled_list() -> None:
    """Every name has a class, and its defaults are the compiled library's own."""
    from bittersweet import _core
    from bittersweet.options import scorers

    classes = {
        cls.name: cls
        for cls in vars(scorers).values()
        if isinstance(cls, type) and issubclass(cls, scorers.Scorer) and hasattr(cls, "name")
    }
    rows = {row["name"]: row for row in _core.scorer_table()}
    assert classes.keys() == rows.keys()
    for name, cls in classes.items():
        assert getattr(bs, cls.__name__) is cls
        default = rows[name]["default_eps"]
        eps = getattr(cls(), "eps", None)
        assert (eps is None) == (default is None)
        assert eps is None or np.float32(eps) == np.float32(default)
        if name in FORMULAS:
            assert FORMULAS[name][2] == eps
    assert {row["name"]: row["alias_of"] for row in rows.values() if row["alias_of"]} == {
        "bitter1": "magnitude",
        "bitter2": "magnitude",
        "bitter4": "bitter3",
        "bitter9": "bitter8",
    }


def test_names_and_objects_agree() -> None:
    x = data(500)
    for name in FORMULA_NAMES:
        cls = next(c for c in (getattr(bs, n) for n in dir(bs)) if getattr(c, "name", None) == name)
        given = arguments(name, *x)
        assert np.array_equal(bits(bs.score(x[0], name, **given)), bits(bs.score(x[0], cls(), **given)))


def test_bias_correction() -> None:
    w, m, _, _, _ = data(1000)
    for step, beta1 in ((1, 0.9), (3, 0.5), (100000, 0.9), (2, 0.0)):
        expected = bits(scores("bitter8_bias_corrected", Inputs(w, m, step=step, beta1=beta1)))
        for given in (step, float(step), torch.tensor(float(step)), np.float32(step)):
            result = bs.score(w, "bitter8_bias_corrected", exp_avg=m, step=given, betas=(beta1, 0.99))
            assert np.array_equal(bits(result), expected)


def test_random_is_philox() -> None:
    w = np.zeros(1003, np.float32)
    for seed in (0, 1, 2**40 + 3):
        expected = oracle.uniforms(seed, 1, 1003)
        assert np.array_equal(bs.score(w, "random", seed=seed), expected)
        assert np.array_equal(bs.score(w, bs.Random(seed=seed), seed=99), expected)
    assert 0.45 < expected.mean() < 0.55
    assert expected.min() >= 0.0
    assert expected.max() < 1.0


def test_random_depends_on_the_place_in_the_sequence_only() -> None:
    whole, parts = np.zeros(1000, np.float32), [np.zeros(n, np.float32) for n in (1, 3, 500, 0, 496)]
    one = bs.make_masks(bs.ScoreInputs(whole), scorer="random", sparsity=0.4, seed=3)
    many = bs.make_masks([bs.ScoreInputs(p) for p in parts], scorer="random", sparsity=0.4, seed=3)
    assert np.array_equal(one.bool(), np.concatenate(many.bool()))
    other = bs.make_masks(bs.ScoreInputs(whole), scorer="random", sparsity=0.4, seed=4)
    assert not np.array_equal(one.bool(), other.bool())


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2), (2, 7, 3), (9,)])
def test_wanda_norms_follow_the_input_axis(shape: tuple[int, ...]) -> None:
    w = spread(int(np.prod(shape)), 3).reshape(shape)
    inputs = shape[1] if len(shape) > 1 else shape[0]
    norm = np.abs(spread(inputs, 4))
    along = norm.reshape(1, inputs, *[1] * (len(shape) - 2)) if len(shape) > 1 else norm
    expected = np.abs(w) * along
    assert np.array_equal(bits(bs.score(w, "wanda", input_norm=norm)), bits(expected))
    halves = norm.astype(np.float16)
    widened = np.abs(w) * along.astype(np.float16).astype(np.float32)
    assert np.array_equal(bits(bs.score(w, "wanda", input_norm=halves)), bits(widened))


def test_layouts() -> None:
    """Elements are paired by logical index, whatever the strides."""
    w = torch.from_numpy(spread(2 * 6 * 4 * 5, 1).reshape(2, 6, 4, 5))
    v = torch.from_numpy(np.abs(spread(240, 2)).reshape(2, 6, 4, 5))
    expected = bits(scores("bitter7", Inputs(w.numpy(), v=v.numpy())))
    last = torch.channels_last
    for a, b in ((w.to(memory_format=last), v), (w, v.to(memory_format=last)), (w.mT.contiguous().mT, v)):
        result = bs.score(a, exp_avg_sq=b)
        assert result.is_contiguous()
        assert np.array_equal(bits(result.numpy()), expected)
    strided = np.zeros((480,), np.float32)[::2].reshape(2, 6, 4, 5)
    strided[...] = w.numpy()
    reverse = np.ascontiguousarray(w.numpy()[::-1])[::-1]
    fortran = np.asfortranarray(w.numpy())
    for a in (strided, reverse, fortran):
        assert np.array_equal(bits(bs.score(a, exp_avg_sq=v.numpy())), expected)
    shifted = np.frombuffer(b"\0" + w.numpy().tobytes(), np.uint8)[1:].view(np.float32).reshape(w.shape)
    assert not shifted.flags.aligned
    assert np.array_equal(bits(bs.score(shifted, exp_avg_sq=v.numpy())), expected)


def test_out() -> None:
    w = spread(120, 1).reshape(10, 12)
    expected = np.abs(w)
    out = np.full((10, 12), 7, np.float32)
    assert bs.score(w, "magnitude", out=out) is out
    assert np.array_equal(out, expected)
    fortran = np.full((10, 12), 7, np.float32, order="F")
    assert bs.score(w, "magnitude", out=fortran) is fortran
    assert np.array_equal(fortran, expected)
    tensor = torch.full((12, 10), 7.0).t()
    before = tensor._version
    assert bs.score(torch.from_numpy(w), "magnitude", out=tensor) is tensor
    assert np.array_equal(tensor.numpy(), expected)
    assert tensor._version > before


def test_small_and_empty_shapes() -> None:
    assert bs.score(np.array(-3.0, np.float32), "magnitude").shape == ()
    assert bs.score(torch.tensor(-3.0), "magnitude").item() == 3.0
    for shape in ((0,), (0, 5), (5, 0), (3, 0, 2)):
        assert bs.score(np.zeros(shape, np.float32), "magnitude").shape == shape
        assert bs.score(torch.zeros(shape), "magnitude").shape == torch.Size(shape)


def test_parameters_and_graphs_are_left_alone() -> None:
    parameter = torch.nn.Parameter(torch.randn(5, 5))
    result = bs.score(parameter, "magnitude")
    assert not result.requires_grad
    assert parameter._version == 0
    assert torch.equal(result, parameter.detach().abs())
    offset = torch.randn(101)[1:]
    assert torch.equal(bs.score(offset, "magnitude"), offset.abs())


def test_objects_with_other_protocols() -> None:
    from array import array

    values = array("f", [1.0, -2.0, 3.0])
    result: Any = bs.score(values, "magnitude")  # type: ignore[type-var]
    assert result.tolist() == [1.0, 2.0, 3.0]

    class Exporter:
        def __init__(self, base: Array) -> None:
            self.base = base

        def __dlpack__(self, **options: Any) -> Any:
            return self.base.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.base.__dlpack_device__()

    result = bs.score(Exporter(np.array([-4.0], np.float32)), "magnitude")  # type: ignore[type-var]
    assert result.tolist() == [4.0]


def test_flush_to_zero_changes_nothing() -> None:
    w = (spread(5000, 1, -44, -36)).astype(np.float32)
    m, v = spread(5000, 2, -44, -30), np.abs(spread(5000, 3, -45, -30))
    x = (w, m, v, m, v)
    names = [name for name in FORMULA_NAMES if name != "bitter8_bias_corrected"]
    expected = {
        name: bits(scores(name, inputs(name, *x), eps=0.0 if FORMULAS[name][2] is not None else None))
        for name in names
    }
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        results = {}
        for name in names:
            given = arguments(name, *x)
            eps = 0.0 if FORMULAS[name][2] is not None else None
            results[name] = bs.score(w, name, eps=eps, **given).view(np.uint32).copy()
        flushed = (torch.tensor([1e-40]) * 1.0).item() == 0.0
        kth = bs.kth_value(np.abs(w), 2500).view(np.uint32).copy()
    finally:
        torch.set_flush_denormal(False)
    assert flushed, "the caller's own mode was not restored"
    for name in names:
        assert np.array_equal(bits(results[name].view(np.float32)), expected[name]), name
    assert kth == np.sort(np.abs(w))[2499].view(np.uint32)


def test_published_bitter8_in_half_arithmetic() -> None:
    """eps 1e-8 is 0 in float16 and so is every v below 3e-8: those weights score exactly 0."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(100_000).astype(np.float32)
    v = (2e-9 * np.exp(1.5 * rng.standard_normal(100_000))).astype(np.float32)
    result = bs.score(w, "bitter8_published", exp_avg_sq=v)
    underflowed = v <= 2.0**-25
    assert underflowed.mean() > 0.9
    assert np.array_equal(result == 0, underflowed | (w.astype(np.float16) == 0))
    half = result.astype(np.float16).astype(np.float32)
    assert np.array_equal(half, result)
    masks = bs.make_masks(
        bs.ScoreInputs(w, exp_avg_sq=v), sparsity=0.3, scorer="bitter8_published", ties="at_or_below"
    )
    assert masks.sparsity() > 0.9  # asked for 0.3
    swamped = bs.score(w, bs.Bitter8Published(eps=1e-5), exp_avg_sq=v)
    by_magnitude = np.argsort(np.abs(w), kind="stable")[:50_000]
    by_score = np.argsort(swamped, kind="stable")[:50_000]
    assert np.intersect1d(by_magnitude, by_score).size > 49_000


@pytest.mark.filterwarnings("ignore:.*float16 rounds everything")
def test_bfloat16_storage_keeps_the_ranking_and_float16_does_not() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal(100_000).astype(np.float32)
    v = (2e-9 * np.exp(1.5 * rng.standard_normal(100_000))).astype(np.float32)

    def kept(dtype: np.dtype[Any]) -> Array:
        inputs = bs.ScoreInputs(w, exp_avg_sq=v.astype(dtype))
        return bs.make_masks(inputs, sparsity=0.5, scorer=bs.Bitter7(eps=0)).bool()  # type: ignore[no-any-return]

    full = kept(np.dtype(np.float32))
    jaccard = {d: float((full & kept(d)).sum() / (full | kept(d)).sum()) for d in DTYPES[1:]}
    assert jaccard[BF16] > 0.995
    assert jaccard[np.dtype(np.float16)] < 0.7
