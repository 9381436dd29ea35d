"""The functions on CUDA tensors: bits as on the CPU, one stream, numbers that are read when asked for.

Every test runs with the CPU engine in the place of the CUDA engine, with the CUDA engine's kernels on the
emulator, and on a GPU where there is one.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch

SIZES = (1, 31, 33, 64, 1023, 4097)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
APPROXIMATE = ("bitter8", "bitter9")  # on a real device; score/bitter8.hpp states the bound
SCORERS = sorted(set(bs.scorers()) - {"wanda"})
ARGUMENTS = ("weight", "exp_avg", "exp_avg_sq", "grad")


def model(seed: int = 0, dtype: torch.dtype = torch.float32, state: torch.dtype | None = None) -> list[Any]:
    """ScoreInputs of awkward sizes on the CPU: zeros, ties and denormals among them."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for index, size in enumerate(SIZES):
        w, m, v, g = (torch.randn(size, generator=generator) for _ in range(4))
        w[::7] = 0.0
        w[3::11] = w[0]
        v = 1e-9 * torch.exp(3 * v)
        if size > 40:
            v[5], w[9] = 1e-40, -0.0
        state = state or dtype
        items.append(
            bs.ScoreInputs(
                w.to(dtype),
                1e-3 * m.to(state),
                v.to(state),
                g.to(dtype),
                scores=g,
                modifier=1 + index / 8,
                step=3,
                name=f"layer{index}",
            )
        )
    return items


def moved(cuda: Any, items: list[Any]) -> list[Any]:
    """The same on the device."""
    found = []
    for item in items:
        new = copy.copy(item)
        for argument in (*ARGUMENTS, "scores", "input_norm", "max_exp_avg_sq"):
            value = getattr(item, argument)
            setattr(new, argument, None if value is None else cuda.put(value))
        found.append(new)
    return found


def words(masks: Any) -> list[list[int]]:
    return [mask.to_host().tolist() for mask in masks]


def facts(event: Any) -> dict[str, Any]:
    """What must not depend on the engine."""
    values = event.to_dict()
    for name in ("milliseconds", "passes", "extra_bytes"):
        del values[name]
    return values


@pytest.mark.parametrize("scorer", SCORERS)
def test_masks_and_numbers_are_those_of_the_cpu_for_every_scorer(cuda: Any, scorer: str) -> None:
    items = model()
    with cuda.on_cpu():
        expected = bs.make_masks(items, sparsity=0.4, scorer=scorer)
    found = bs.make_masks(moved(cuda, items), sparsity=0.4, scorer=scorer)
    if cuda.name == "gpu" and scorer in APPROXIMATE:
        assert found.event.pruned == expected.event.pruned
        return
    assert words(found) == words(expected)
    assert facts(found.event) == facts(expected.event)
    assert found.event.selector == "exact" and found.event.extra_bytes > 0


SELECTORS = [
    "histogram", "kthvalue", "streaming", bs.Streaming(tolerance=0),
    "sampling", bs.Sampling(0.4, verify=True), bs.Sampling(0.9, by="element"),
]  # fmt: skip


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_every_selector_answers_as_on_the_cpu(cuda: Any, selector: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    items = [*model(), bs.ScoreInputs(torch.randn(9000, generator=generator), exp_avg_sq=torch.ones(9000))]
    with cuda.on_cpu():
        first = bs.make_masks(items, sparsity=0.3)
        for item, mask in zip(items, first, strict=True):
            item.mask = mask.bool()
        expected = bs.make_masks(items, sparsity=0.6, selector=selector, seed=3)
        threshold = bs.threshold(items, sparsity=0.6, selector=selector, seed=3)
    on_device = moved(cuda, items)
    found = bs.make_masks(on_device, sparsity=0.6, selector=selector, seed=3)
    assert words(found) == words(expected)
    assert facts(found.event) == facts(expected.event)
    alone = bs.threshold(on_device, sparsity=0.6, selector=selector, seed=3)
    for fact in ("value", "count_below", "count_equal", "pruned", "standard_error", "converged"):
        assert getattr(alone, fact) == getattr(threshold, fact), fact


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_a_capturable_step_by_every_selector(cuda: Any, selector: Any) -> None:
    item = bs.ScoreInputs(torch.randn(12_000, generator=torch.Generator().manual_seed(2)))
    there = moved(cuda, [item])
    step = bs.CapturableStep(there, scorer="magnitude", selector=selector)
    for sparsity in (0.3, 0.0, 0.7):
        with cuda.on_cpu():
            expected = bs.make_masks([item], sparsity=sparsity, scorer="magnitude", selector=selector)
            bs.apply_masks_([item], expected)
            item.mask = expected[0].bool()
        step.set_budget(sparsity=sparsity)
        step.run()
        assert words(step.masks) == words(expected)
        event = step.read()
        assert (event.pruned, event.threshold) == (expected.event.pruned, expected.event.threshold)
        assert event.selector == expected.event.selector
        assert torch.equal(there[0].weight.cpu(), item.weight)


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_every_selector_names_a_nan(cuda: Any, selector: Any) -> None:
    weight = torch.linspace(1, 2, 12_000)
    weight[7_777] = float("nan")
    item = bs.ScoreInputs(cuda.put(weight), name="spoiled")
    with pytest.raises(bs.NonFiniteScoreError, match="spoiled") as caught:
        bs.prune_(item, sparsity=0.5, scorer="magnitude", selector=selector)
    assert (caught.value.count, caught.value.first_index) == (1, 7_777)
    assert int(torch.count_nonzero(item.weight.cpu())) == 12_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("state", DTYPES)
def test_every_mixture_of_dtypes(cuda: Any, dtype: str, state: str) -> None:
    items = model(3, DTYPES[dtype], DTYPES[state])
    with cuda.on_cpu():
        expected = bs.make_masks(items, k=1234)
    assert words(bs.make_masks(moved(cuda, items), k=1234)) == words(expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("ties", ["exact", "at_or_below", "below"])
def test_ties_and_extremes(cuda: Any, sparsity: float, ties: str) -> None:
    items = [
        bs.ScoreInputs(torch.tensor([1.0, -1, 0, -0.0, 2, 1, 1e-45] * 30)),
        bs.ScoreInputs(torch.ones(3)),
    ]
    with cuda.on_cpu():
        expected = bs.make_masks(items, sparsity=sparsity, ties=ties, scorer="magnitude")
    found = bs.make_masks(moved(cuda, items), sparsity=sparsity, ties=ties, scorer="magnitude")
    assert words(found) == words(expected) and facts(found.event) == facts(expected.event)


def test_scores_and_where_they_are_written(cuda: Any) -> None:
    item = model()[-1]
    there = moved(cuda, [item])[0]
    arguments = ("exp_avg", "exp_avg_sq")
    with cuda.on_cpu():
        expected = bs.score(item.weight, "bitter0", **{name: getattr(item, name) for name in arguments})
    found = bs.score(there.weight, "bitter0", **{name: getattr(there, name) for name in arguments})
    assert found.device == there.weight.device and torch.equal(found.cpu(), expected)
    out = cuda.put(torch.full((4097,), 5.0))
    assert bs.score(there.weight, "magnitude", out=out) is out
    assert torch.equal(out.cpu(), item.weight.abs())
    norms = cuda.put(torch.rand(17).half())
    weight = cuda.put(torch.randn(3, 17))
    assert torch.equal(bs.score(weight, "wanda", input_norm=norms), weight.abs() * norms.float())


def test_threshold_and_kth_value(cuda: Any) -> None:
    items = model()
    with cuda.on_cpu():
        expected = bs.threshold(items, sparsity=0.3, scorer="bitter7")
    found = bs.threshold(moved(cuda, items), sparsity=0.3, scorer="bitter7")
    for name in ("value", "k", "count_below", "count_equal", "pruned", "total", "dead", "nonfinite"):
        assert getattr(found, name) == getattr(expected, name), name
    values = torch.randn(1001)
    kth = bs.kth_value(cuda.put(values), 77)
    assert kth.shape == () and kth.device == cuda.put(values).device
    assert kth.item() == values.kthvalue(77).values.item()
    denormals = torch.arange(1, 9).float() * 1e-45
    assert bs.kth_value(cuda.put(denormals), 3).view(torch.int32).item() == 3


def test_prune_writes_zeros_and_raises_versions(cuda: Any) -> None:
    items = model()
    there = moved(cuda, items)
    versions = [item.weight._version for item in there]
    with cuda.on_cpu():
        expected = bs.prune_(items, sparsity=0.5, mask_optimizer_state=True)
    event = bs.prune_(there, sparsity=0.5, mask_optimizer_state=True)
    assert facts(event) == facts(expected)
    for old, new, version in zip(items, there, versions, strict=True):
        for name in ("weight", "exp_avg", "exp_avg_sq"):
            assert torch.equal(getattr(old, name), getattr(new, name).cpu()), name
        assert new.weight._version > version


def test_other_layouts_are_written_back(cuda: Any) -> None:
    plain = torch.randn(8, 4, 3, 3)
    weight = cuda.put(plain).contiguous(memory_format=torch.channels_last)
    with cuda.on_cpu():
        bs.prune_(bs.ScoreInputs(plain), sparsity=0.5, scorer="magnitude")
    bs.prune_(bs.ScoreInputs(weight), sparsity=0.5, scorer="magnitude")
    assert torch.equal(weight.cpu(), plain)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    plain = torch.randn(8, 6, 5)
    reversed_axes = cuda.put(plain).permute(2, 1, 0).contiguous().permute(2, 1, 0)
    with cuda.on_cpu():
        bs.prune_(bs.ScoreInputs(plain), sparsity=0.5, scorer="magnitude")
    event = bs.prune_(bs.ScoreInputs(reversed_axes), sparsity=0.5, scorer="magnitude")
    assert torch.equal(reversed_axes.cpu(), plain)
    assert event.extra_bytes >= plain.nbytes  # no engine works in that order


def test_current_masks_and_regrow(cuda: Any) -> None:
    items = model()
    there = moved(cuda, items)
    with cuda.on_cpu():
        first = bs.make_masks(items, sparsity=0.5)
    masks = bs.make_masks(there, sparsity=0.5)
    for item, new, mask, on_device in zip(items, there, first, masks, strict=True):
        item.mask, new.mask = mask, on_device
        new.weight[::3] *= 2
        item.weight[::3] *= 2
    for options in ({"sparsity": 0.7}, {"sparsity": 0.6, "regrow": True}):
        with cuda.on_cpu():
            expected = bs.make_masks(items, **options)
        found = bs.make_masks(there, **options)
        assert words(found) == words(expected) and facts(found.event) == facts(expected.event)


@pytest.mark.parametrize("size", [0, 1, 8, 63, 64, 65, 200])
def test_masks_to_bool_and_back(cuda: Any, size: int) -> None:
    keep = torch.rand(size) < 0.5
    mask = bs.Mask.from_bool(cuda.put(keep), "x")
    with cuda.on_cpu():
        plain = bs.Mask.from_bool(keep, "x")
    assert mask.to_host().tolist() == plain.words.tolist() and mask == plain
    assert mask.device == 0 and mask.words.dtype == torch.int64
    back = mask.bool()
    assert back.device == mask.words.device and torch.equal(back.cpu(), keep)
    assert mask.kept() == int(keep.sum()) and mask.nbytes == plain.nbytes
    again = bs.Mask(mask.words.clone(), (size,), "x")
    assert again == mask and mask.to(-1).words.tolist() == plain.words.tolist()
    assert plain.to(0) == mask and plain.to(0).device == 0
    assert bs.Masks([mask]).sparsity() == pytest.approx(1 - keep.float().mean().item() if size else 0.0)
    full = bs.Mask.full((size,), "x", "torch", 0)
    assert full.kept() == size and bool(full.bool().all())


def test_bool_masks_of_two_dimensions_and_odd_layouts(cuda: Any) -> None:
    keep = (torch.rand(9, 5) < 0.5).t()
    mask = bs.Mask.from_bool(cuda.put(keep).t().contiguous().t(), "x")
    assert mask.shape == (5, 9) and torch.equal(mask.bool().cpu(), keep)
    weight = cuda.put(torch.randn(5, 9))
    bs.apply_masks_(bs.ScoreInputs(weight), cuda.put(keep))
    assert not weight.cpu()[~keep].any() and weight.cpu()[keep].all()
    weight[0, 0] = 1.0
    dead = int((~keep)[0, 0])
    assert bs.count_violations(bs.ScoreInputs(weight), mask) == {"tensor0": dead}


def test_words_of_a_mask_are_checked(cuda: Any) -> None:
    good = bs.Mask.from_bool(cuda.put(torch.ones(70, dtype=torch.bool)), "x").words
    with pytest.raises(bs.ShapeError, match="take 3 words"):
        bs.Mask(good, (130,), "x")
    with pytest.raises(bs.ArgumentError, match="bits are set after element 65"):
        bs.Mask(good, (65,), "x")
    with pytest.raises(bs.ArgumentError, match="int64 tensor on a CUDA device"):
        bs.Mask(good.int(), (70,), "x")
    with cuda.on_cpu(), pytest.raises(bs.ArgumentError, match="int64 tensor on a CUDA device"):
        bs.Mask(torch.zeros(2, dtype=torch.int64), (70,), "x")


# ---- reading ----


def test_a_call_waits_once_and_a_deferred_one_when_it_is_looked_at(cuda: Any) -> None:
    there = moved(cuda, model())
    bs.make_masks(there, sparsity=0.5)
    assert cuda.reads == 1
    masks = bs.make_masks(there, sparsity=0.5, sync=False)
    event = bs.prune_(there, sparsity=0.5, sync=False)
    found = bs.threshold(there, sparsity=0.5, sync=False)
    bs.apply_masks_(there, masks)
    assert cuda.reads == 1
    assert isinstance(event, bs.MaskEvent) and isinstance(found, bs.Threshold)
    assert event.pruned == event.k == 2625 and event.step is None
    assert cuda.reads == 2
    assert event.achieved_sparsity == pytest.approx(0.5, abs=1e-3) and type(event) is bs.MaskEvent
    assert cuda.reads == 2
    assert masks.event is not None and str(masks.event).startswith("mask event: sparsity 0.5")
    assert found.k == 2625 and cuda.reads == 4


def test_deferred_results_compare_copy_and_pickle(cuda: Any) -> None:
    there = moved(cuda, model())
    event = bs.make_masks(there, sparsity=0.5).event
    again = [bs.make_masks(there, sparsity=0.5, sync=False).event for _ in range(4)]
    assert facts(pickle.loads(pickle.dumps(again[0]))) == facts(event)
    assert facts(copy.deepcopy(again[1])) == facts(event)
    assert again[2] == again[2] and again[2] != event  # times differ
    assert "MaskEvent" in repr(again[3]) and vars(again[3])["pruned"] == event.pruned


def bad_model(cuda: Any) -> tuple[list[Any], list[torch.Tensor]]:
    items = moved(cuda, model())
    items[4].weight[17] = torch.nan
    items[5].weight[2] = torch.nan
    return items, [item.weight.cpu().clone() for item in items]


def untouched(items: list[Any], before: list[torch.Tensor]) -> bool:
    return all(
        torch.equal(item.weight.cpu().view(torch.int32), old.view(torch.int32))
        for item, old in zip(items, before, strict=True)
    )


@pytest.mark.parametrize("sync", [True, False])
def test_nan_names_its_place_and_nothing_is_written(cuda: Any, sync: bool) -> None:
    items, before = bad_model(cuda)
    with cuda.on_cpu(), pytest.raises(bs.NonFiniteScoreError) as expected:
        bs.make_masks([bs.ScoreInputs(x, name=i.name) for x, i in zip(before, items, strict=True)], k=9,
                      scorer="magnitude")  # fmt: skip
    for _ in range(2):
        with pytest.raises(bs.NonFiniteScoreError) as found:
            bs.prune_(items, k=9, scorer="magnitude", sync=sync).pruned  # noqa: B018
        assert str(found.value) == str(expected.value)
        assert (found.value.parameter, found.value.count, found.value.first_index) == ("layer4", 2, 17)
    assert untouched(items, before)
    with pytest.raises(bs.NonFiniteScoreError):
        bs.threshold(items, k=9, scorer="magnitude", sync=sync).value  # noqa: B018
    kept = bs.prune_(items, k=4000, scorer="magnitude", nonfinite="keep", sync=sync)
    assert kept.nonfinite == 2 and kept.pruned == 4000


def test_masks_of_a_void_step_are_the_current_ones(cuda: Any) -> None:
    items, before = bad_model(cuda)
    first = bs.make_masks(items, sparsity=0.5, scorer="magnitude", sync=False)
    assert [mask.kept() for mask in first] == list(SIZES)
    for item, weight in zip(items, before, strict=True):
        item.mask = cuda.put(weight != 0.0)
    masks = bs.make_masks(items, sparsity=0.5, scorer="magnitude", sync=False)
    assert [m.bool().cpu().tolist() for m in masks] == [(w != 0.0).tolist() for w in before]
    bs.apply_masks_(items, masks)
    assert untouched(items, before) or all(
        torch.equal(i.weight.cpu() != 0, w != 0) for i, w in zip(items, before, strict=True)
    )
    for _ in range(2):  # every look raises
        with pytest.raises(bs.NonFiniteScoreError):
            masks.event.k  # noqa: B018


# ---- refusals ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tensor_sparsity": 1.5}, r"max_tensor_sparsity: 1\.5"),
        ({"distribution": "erk"}, "distribution: given with scope 'global'"),
        ({"sparsity": 1.5}, r"sparsity: 1\.5"),
        ({"k": 3}, "sparsity, k: both"),
        ({"ties": "often"}, "ties: 'often'"),
        ({"nonfinite": "shrug"}, "nonfinite: 'shrug'"),
        ({"seed": -1}, "seed"),
        ({"eps": -1.0}, "eps"),
    ],
)
def test_what_is_refused_is_named_and_nothing_is_written(
    cuda: Any, options: dict[str, Any], message: str
) -> None:
    items = moved(cuda, model())
    before = [item.weight.cpu().clone() for item in items]
    with pytest.raises(bs.ArgumentError, match=message):
        bs.prune_(items, **{"sparsity": 0.5, "scorer": "bitter7", **options})
    assert untouched(items, before)


def test_missing_inputs_and_other_memory(cuda: Any) -> None:
    weight = cuda.put(torch.ones(8))
    with pytest.raises(bs.MissingStateError, match="exp_avg_sq of 'tensor0' is missing"):
        bs.make_masks(bs.ScoreInputs(weight), sparsity=0.5)
    with pytest.raises(bs.DeviceError, match="numpy array"):
        bs.make_masks(bs.ScoreInputs(weight, exp_avg_sq=np.ones(8, np.float32)), sparsity=0.5)
    with pytest.raises(bs.DTypeError, match="float64"):
        bs.score(cuda.put(torch.ones(8, dtype=torch.float64)), "magnitude")
    with pytest.raises(bs.LayoutError, match="overlap"):
        bs.prune_([bs.ScoreInputs(weight), bs.ScoreInputs(weight)], sparsity=0.5, scorer="magnitude")


def test_mixed_devices_are_refused(host_cuda: Any) -> None:
    here, there, cpu = torch.ones(8), torch.ones(8), torch.ones(8)
    host_cuda.devices = {there.data_ptr(): 1, cpu.data_ptr(): -1}
    with pytest.raises(bs.DeviceError, match=r"exp_avg_sq of 'tensor0' is on cuda:1 and weight .* cuda:0"):
        bs.make_masks(bs.ScoreInputs(here, exp_avg_sq=there), sparsity=0.5)
    with pytest.raises(bs.DeviceError, match=r"weight of 'b' is on the CPU and weight of 'a' on cuda:0"):
        bs.prune_([bs.ScoreInputs(here, name="a"), bs.ScoreInputs(cpu, name="b")], k=1, scorer="magnitude")
    with pytest.raises(bs.DeviceError, match="out is on cuda:1 and weight on cuda:0"):
        bs.score(here, "magnitude", out=there)
    mask = bs.Mask.from_bool(torch.ones(8, dtype=torch.bool))
    with pytest.raises(bs.DeviceError, match=r"mask of 'x' is on cuda:0 and its weight on the CPU"):
        bs.apply_masks_(bs.ScoreInputs(cpu, name="x"), mask)
    with pytest.raises(bs.DeviceError, match=r"mask of .* is on cuda:0 and its weight on cuda:1"):
        bs.make_masks(bs.ScoreInputs(there, mask=mask), k=1, scorer="magnitude")
    assert bs.prune_(bs.ScoreInputs(there), k=8, scorer="magnitude").pruned == 8
    assert there.tolist() == [0.0] * 8
    both = bs.Masks([mask, mask.to(-1)])
    with pytest.raises(bs.DeviceError, match="mask of"):
        both.sparsity()


def test_a_build_without_cuda_says_how_to_get_one(host_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        CUDA_BUILT = False

    host_cuda.native = Absent
    with pytest.raises(bs.DeviceError, match=r"weight of 'tensor' is on .*no CUDA engine.*model\.cpu\(\)"):
        bs.score(torch.ones(3), "magnitude")
    model = torch.nn.Linear(3, 3)
    with pytest.raises(bs.DeviceError, match=r"weight of 'weight' is on .*BITTERSWEET_CUDA=on"):
        bs.Pruner(model, schedule=bs.OneShot(0.5, 1), scorer="magnitude")
    monkeypatch.setattr(torch.version, "hip", "6.0")
    host_cuda.native = type("Built", (), {"CUDA_BUILT": True})
    with pytest.raises(bs.DeviceError, match="ROCm"):
        bs.score(torch.ones(3), "magnitude")


def test_the_compiled_stub_throws_the_same_kind_of_error() -> None:
    from array import array

    from bittersweet import _core

    if _core.CUDA_BUILT:
        pytest.skip("this build has the CUDA engine")
    assert _core.cuda_devices() == []
    with pytest.raises(bs.DeviceError, match=r"no CUDA engine \(.+\).*-DBITTERSWEET_CUDA=on"):
        _core.cuda_self_test(0)
    with pytest.raises(bs.DeviceError, match="no CUDA engine"):
        _core.cuda_count_live((0, 0), array("Q"), 14, 0)


# ---- streams ----


def test_masks_that_another_stream_uses_are_kept_for_it(host_cuda: Any) -> None:
    items = model()
    masks = bs.make_masks(items, sparsity=0.5)
    bs.apply_masks_(items, masks)
    assert host_cuda.shared == []
    host_cuda.stream = 8
    bs.apply_masks_(items, masks)
    assert host_cuda.shared == [(mask.words.data_ptr(), 8) for mask in masks]
