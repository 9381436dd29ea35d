"""`stochastic_round_` against an independent Philox in NumPy, its shares, and what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from rounding_oracle import BF16, MOST, expected, philox


def rounded(src: torch.Tensor, seed: int = 1, step: int = 2, stream: int = 0) -> torch.Tensor:
    dst = torch.full_like(src, 7.0, dtype=BF16)
    bs.stochastic_round_(dst, src, seed=seed, step=step, stream=stream)
    return dst


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int16), other.contiguous().view(torch.int16))


def test_the_oracle_has_random123s_known_answers() -> None:
    pi = np.array([[0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]], dtype=np.uint64)
    ones = np.full((1, 4), 2**32 - 1, dtype=np.uint64)
    assert philox(pi, 0x299F31D0A4093822).tolist() == [[0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]]
    assert philox(ones, 2**64 - 1).tolist() == [[0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]]
    assert philox(0 * ones, 0).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65, 127, 200, 2049, 65_537, 200_003])
def test_bits_of_any_floats(size: int) -> None:
    src = torch.from_numpy(np.random.default_rng(size).integers(0, 2**32, size, np.uint32).view(np.float32))
    assert same(rounded(src, 2**63 - 1, 2**32 - 1, 2**24 - 1), expected(src, 2**63 - 1, 2**32 - 1, 2**24 - 1))


NASTY = (
    0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 0xFF80FFFF,
    0x00000001, 0x80000001, 0x0000FFFF, 0x00010000, 0x00018000, 0x007FFFFF, 0x80800000, 0x00800001,
    0x7F7EFFFF, 0x7F7F0000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0xFF7F0001, 0xFF7EFFFF, 0xFF7FFFFF,
    0x3F800000, 0x3F800001, 0x3F80FFFF, 0x3FFFFFFF, 0xBF808000, 0xC0000001,
)  # fmt: skip


def test_bits_of_nasty_inputs() -> None:
    src = torch.from_numpy(np.array(NASTY * 41, dtype=np.uint32).view(np.float32))
    for step in range(20):
        assert same(rounded(src, step=step), expected(src, 1, step))


def test_zeros_infinities_and_the_largest() -> None:
    src = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.3895e38, -3.4e38, 3.39e38])
    for step in range(50):
        found = rounded(src, step=step)
        assert found.view(torch.int16)[:2].tolist() == [0, -(2**15)]
        assert found[2:4].tolist() == [torch.inf, -torch.inf]
        assert bool(found[4].isnan())
        assert found[5:].tolist() == [MOST, -torch.inf, MOST]  # as nearest


def test_what_bfloat16_holds_stays() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(BF16)
    for step in range(4):
        found = rounded(every.float(), step=step)
        assert same(found[~every.isnan()], every[~every.isnan()])
        assert found[every.isnan()].isnan().all()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_every_number_of_threads(threads: int) -> None:
    src = torch.randn(300_007)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert same(rounded(src), expected(src, 1, 2))
    finally:
        torch.set_num_threads(before)


def test_a_list_draws_from_streams_of_its_own() -> None:
    src = [torch.randn(shape) for shape in ((70_001,), (3, 5), (), (0, 4), (128, 65))]
    dst = [torch.empty(one.shape, dtype=BF16) for one in src]
    bs.stochastic_round_(dst, src, seed=3, step=4, stream=10)
    for i, (to, of) in enumerate(zip(dst, src, strict=True)):
        assert same(to, expected(of, 3, 4, 10 + i))
    bs.stochastic_round_(dst[2:], src[2:], seed=3, step=4, stream=12)  # the same in other calls
    assert same(dst[4], expected(src[4], 3, 4, 14))


@pytest.mark.parametrize(
    "lay",
    [
        lambda x: x,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    ],
    ids=["row-major", "channels_last", "transposed", "strided"],
)
def test_every_layout_draws_by_the_row_major_index(lay: Callable[[torch.Tensor], torch.Tensor]) -> None:
    src = torch.randn(5, 6, 7, 9)
    dst = torch.empty_like(src, dtype=BF16)
    for of, to in ((lay(src), dst.clone()), (src, lay(dst)), (lay(src), lay(dst))):
        version = to._version
        bs.stochastic_round_(to, of, seed=1, step=2)
        assert same(to, expected(src, 1, 2))
        assert to._version > version


def test_parameters_and_numpy() -> None:
    parameter = torch.nn.Parameter(torch.zeros(100, dtype=BF16))
    src = torch.randn(100)
    bs.stochastic_round_(parameter, src, seed=1, step=2)
    assert same(parameter.detach(), expected(src, 1, 2))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array: Any = np.zeros(100, ml_dtypes.bfloat16)
    bs.stochastic_round_(array, src.numpy(), seed=1, step=2)
    assert np.array_equal(array.view(np.int16), expected(src, 1, 2).view(torch.int16).numpy())


N = 1 << 18


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.5, 0.9])
def test_shares_and_independence(fraction: float) -> None:
    """At the fraction f between two neighbours the share f goes up, whatever neighbours and steps drew."""
    src = torch.full((N,), 1.0 + fraction / 128)
    exact = (float(src[0]) - 1.0) * 128
    up = [(rounded(src, step=step).float() > 1.0).double() for step in range(3)]
    other = (rounded(src, step=0, stream=1).float() > 1.0).double()
    for one in up:
        assert abs(float(one.mean()) - exact) < 5 * (exact * (1 - exact) / N) ** 0.5
    pairs = [(up[0][lag:], up[0][:-lag]) for lag in (1, 2, 7, 8, 9, 64, 128, 1024)]
    pairs += [(up[0], up[1]), (up[1], up[2]), (up[0], other), (up[0][8:], up[1][:-8])]
    for one, another in pairs:
        correlation = torch.corrcoef(torch.stack((one, another)))[0, 1]
        assert abs(float(correlation)) < 5 * N**-0.5


def test_bias_and_variance_over_all_fractions() -> None:
    """Mean error 0 and variance 1/6 of a squared ulp, where nearest has 1/12."""
    src = torch.from_numpy(np.random.default_rng(0).uniform(1.0, 2.0, N).astype(np.float32))
    error = torch.cat([(rounded(src, step=step).double() - src.double()) * 128 for step in range(8)])
    nearest = (src.to(BF16).double() - src.double()) * 128
    assert abs(float(error.mean())) < 5 * (1 / 6 / error.numel()) ** 0.5
    assert float(error.var()) == pytest.approx(1 / 6, rel=0.01)
    assert float(nearest.var()) == pytest.approx(1 / 12, rel=0.01)


def test_a_sum_of_small_updates() -> None:
    """1 + 1000 x 0.001: nearest stays at 1."""
    drawn, nearest = (torch.ones(4096, dtype=BF16) for _ in range(2))
    for step in range(1000):
        bs.stochastic_round_(drawn, drawn.float() + 0.001, seed=1, step=step)
        nearest = (nearest.float() + 0.001).to(BF16)
    assert torch.equal(nearest, torch.ones(4096, dtype=BF16))
    assert float(drawn.double().mean()) == pytest.approx(2.0, abs=5 * 0.085 / 64)
    assert float(drawn.double().std()) < 0.12


@pytest.mark.parametrize(("start", "towards"), [(0.0, 1.0), (1.0, 0.0)])
def test_an_average_with_a_long_memory(start: float, towards: float) -> None:
    """beta2 = 0.999 in bfloat16: to nearest it never arrives, or never decays."""
    drawn = torch.full((4096,), start, dtype=BF16)
    nearest, exact = drawn.clone(), drawn.double()
    for step in range(3000):
        bs.stochastic_round_(drawn, drawn.float() * 0.999 + 0.001 * towards, seed=2, step=step)
        nearest = (nearest.float() * 0.999 + 0.001 * towards).to(BF16)
        exact = exact * 0.999 + 0.001 * towards
    assert abs(float(drawn.double().mean() - exact.mean())) < 0.005
    assert abs(float(nearest.double().mean() - exact.mean())) > 0.6


def test_refused_before_anything_is_written() -> None:
    src, dst = torch.randn(8), torch.full((8,), 3.0, dtype=BF16)
    within, tail = src.view(BF16), [dst, dst[4:]]
    wrong: list[tuple[type[bs.Error], str, Any, Any, dict[str, Any]]] = [
        (bs.DTypeError, "dst of 'tensor0'.*float16", dst.half(), src, {}),
        (bs.DTypeError, "src of 'tensor0'.*float64", dst, src.double(), {}),
        (bs.ShapeError, "shape", dst, src[:4], {}),
        (bs.ShapeError, "2 arrays for 1", [dst], [src, src], {}),
        (bs.DeviceError, "framework", dst, np.zeros(8, np.float32), {}),
        (bs.ArgumentError, "seed", dst, src, {"seed": -1}),
        (bs.ArgumentError, "seed", dst, src, {"seed": 2**63}),
        (bs.ArgumentError, "step", dst, src, {"step": 2**32}),
        (bs.ArgumentError, "step", dst, src, {"step": 1.0}),
        (bs.ArgumentError, "stream", dst, src, {"stream": 2**24}),
        (bs.ArgumentError, "stream", [dst, dst.clone()], [src, src], {"stream": 2**24 - 1}),
        (bs.LayoutError, "overlap", tail, [src, src[4:]], {}),
        (bs.LayoutError, "overlap", within[:8], src, {}),
        (
            bs.LayoutError,
            "src of 'tensor0' and dst of 'tensor1' overlap",
            [dst, within[4:12]],
            [src, -src],
            {},
        ),
    ]
    before = src.clone()
    for error, message, to, of, options in wrong:
        with pytest.raises(error, match=message):
            bs.stochastic_round_(to, of, **{"seed": 0, "step": 0, **options})
        assert torch.equal(dst, torch.full((8,), 3.0, dtype=BF16))
        assert torch.equal(src, before)
    bs.stochastic_round_([dst, dst.clone()], [src, src], seed=0, step=0)  # what is read may be shared


def test_on_a_cuda_device_with_the_same_bits(cuda: Any) -> None:
    generator = np.random.default_rng(3)
    sources = [
        torch.from_numpy(generator.integers(0, 2**32, size, np.uint32).view(np.float32))
        for size in (0, 1, 300, 2049)
    ]
    matrix = torch.randn(40, 30).t()  # re-laid, there as here
    there = [cuda.put(src) for src in (*sources, matrix)]
    found = [torch.full_like(src, 7.0, dtype=BF16) for src in there]
    versions = [dst._version for dst in found]
    bs.stochastic_round_(found, there, seed=9, step=2**32 - 1, stream=5)
    for i, (dst, src) in enumerate(zip(found, (*sources, matrix), strict=True)):
        assert same(dst.cpu(), expected(src, 9, 2**32 - 1, 5 + i))
        assert dst._version > versions[i] or not dst.numel()


def test_arrays_on_two_devices_are_refused(host_cuda: Any) -> None:
    src, dst = torch.randn(8), torch.full((8,), 3.0, dtype=BF16)
    host_cuda.devices[src.data_ptr()] = 1
    with pytest.raises(bs.DeviceError, match=r"src of 'tensor0' is on cuda:1 and dst of 'tensor0' on cuda:0"):
        bs.stochastic_round_(dst, src, seed=0, step=0)
    with pytest.raises(bs.DeviceError, match=r"dst of 'tensor1' is on cuda:0 and dst of 'tensor0' on cuda:1"):
        there = torch.zeros(8, dtype=BF16)
        host_cuda.devices[there.data_ptr()] = 1
        bs.stochastic_round_([there, dst], [src, src], seed=0, step=0)
    assert torch.equal(dst, torch.full((8,), 3.0, dtype=BF16))
