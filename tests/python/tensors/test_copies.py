"""Copies and pickles of what holds masks, memory or settings: with memory of their own, found where it is."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.model.mask_view import MaskView
from bittersweet.tensors.lazy import is_unread, lazily
from bittersweet.training.settings import Settings

CopyFn = Callable[[Any], Any]


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def by_torch(value: Any) -> Any:
    """As ``torch.save`` of a whole object does."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = [copy.copy, copy.deepcopy, by_pickle, by_torch]
copies = pytest.mark.parametrize("copied", COPIES, ids=lambda f: f.__name__)


def bits(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).random(shape) < 0.5


@copies
@pytest.mark.parametrize("shape", [(0,), (1,), (63,), (64,), (65,), (3, 5, 7), ()])
def test_a_mask_knows_where_its_own_words_lie(copied: CopyFn, shape: tuple[int, ...]) -> None:
    keep = bits(shape)
    mask = bs.Mask.from_bool(torch.from_numpy(np.asarray(keep)), "w")
    made = copied(mask)
    assert made == mask and made.pointer == made.words.ctypes.data
    del mask
    gc.collect()
    noise = [np.full(64, 7, np.uint64) for _ in range(100)]  # what would take the place of freed words
    assert np.array_equal(made.bool().numpy(), keep) and len(noise) == 100
    assert made.kept() == np.count_nonzero(keep)


@pytest.mark.parametrize("copied", COPIES[1:], ids=lambda f: f.__name__)
def test_a_deep_copy_shares_no_words(copied: CopyFn) -> None:
    masks = bs.make_masks(
        [bs.ScoreInputs(np.arange(1.0, 100.0, dtype=np.float32), name=n) for n in "ab"],
        sparsity=0.5, scorer="magnitude",
    )  # fmt: skip
    made = copied(masks)
    assert made == masks and made.event == masks.event and made.names == masks.names
    before = made["a"].kept()
    masks["a"].words[:] = 0
    assert made["a"].kept() == before and masks["a"].kept() == 0


@copies
def test_lazy_events_are_read_when_they_are_copied(copied: CopyFn) -> None:
    plain = bs.make_masks(
        bs.ScoreInputs(np.arange(9.0, dtype=np.float32)), sparsity=0.5, scorer="magnitude"
    ).event
    assert plain is not None
    lazy = lazily(bs.MaskEvent, lambda: plain)
    made = copied(lazy)
    assert type(made) is bs.MaskEvent and not is_unread(made) and made == plain
    history = copied(bs.MaskHistory([plain, lazily(bs.MaskEvent, lambda: plain)]))
    assert list(history) == [plain, plain]


@copies
def test_score_inputs(copied: CopyFn) -> None:
    item = bs.ScoreInputs(
        torch.nn.Parameter(torch.arange(1.0, 9.0)), exp_avg_sq=torch.ones(8), name="w", step=torch.tensor(3),
        mask=bs.Mask.from_bool(torch.tensor([True] * 6 + [False] * 2), "w"), betas=(0.5, 0.9),
    )  # fmt: skip
    made = copied(item)
    assert bs.make_masks(made, sparsity=0.5) == bs.make_masks(item, sparsity=0.5)


SMALL = [
    bs.Bitter7(eps=1e-9), bs.Bitter10(a=0.5), bs.Bitter10c(path="somewhere"), bs.AdamVariance(q=0.5),
    bs.Sampling(0.5), bs.Exact(), bs.Row("floor"), bs.NofM(2, 4), bs.Global(), bs.OneShot(0.5, 3),
    bs.PolynomialDecay(0, 0.5, 1, 9), bs.Cosine(0, 0.5, 1, 9),
]  # fmt: skip


@copies
@pytest.mark.parametrize("value", SMALL, ids=lambda v: type(v).__name__)
def test_options(copied: CopyFn, value: Any) -> None:
    assert copied(value) == value


def trained(tracker_class: Any, **options: Any) -> tuple[Any, Any, Any, Callable[..., None]]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(33, 17), torch.nn.Tanh(), torch.nn.Linear(17, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tracker = tracker_class(model, optimizer, **options)
    return model, optimizer, tracker, train


def train(model: Any, optimizer: Any, tracker: Any, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        loss = model(torch.randn(8, 33, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if not tracker.follows_step:
            tracker.update()
        optimizer.step()
        if tracker.follows_step:
            tracker.update(masks={"0.weight": torch.arange(17 * 33).reshape(17, 33) % 3 > 0})


def memory(tracker: Any) -> Any:
    """What it answers and remembers, as plain values."""
    found = tracker.answers()
    said = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}
    kept = tracker.state_dict()["tensors"]
    return said, {name: {key: t.tolist() for key, t in of.items()} for name, of in kept.items()}


TRACKERS = [
    (bs.CoherenceTracker, {}), (bs.SketchTracker, {}), (bs.SnapshotTracker, {"every": 3}),
    (bs.SnapshotTracker, {"every": 3, "path": "file"}), (bs.MovementTracker, {"hook": False}),
    (bs.CoherenceTracker, {"storage": "bfloat16"}),
    (bs.MovementTracker, {"hook": False, "storage": "bfloat16"}),
    (bs.SnapshotTracker, {"every": 3, "storage": "bfloat16"}),
    (bs.SnapshotTracker, {"every": 3, "path": "file", "storage": "bfloat16"}),
]  # fmt: skip


@pytest.mark.parametrize("copied", COPIES[1:], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("kind", "options"), TRACKERS)
def test_a_tracker_goes_on_in_its_copy_and_the_original_does_not_notice(
    copied: CopyFn, kind: Any, options: dict[str, Any], tmp_path: Any
) -> None:
    """The copy trains with the copied model and optimizer, bit for bit like the original does afterwards."""
    if "path" in options:
        options = {**options, "path": tmp_path / "snapshot"}
    model, optimizer, tracker, train = trained(kind, **options)
    train(model, optimizer, tracker, 4)
    model2, optimizer2, tracker2 = copied((model, optimizer, tracker))
    assert memory(tracker2) == memory(tracker)
    before = memory(tracker)
    train(model2, optimizer2, tracker2, 4)
    assert memory(tracker) == before
    train(model, optimizer, tracker, 4)
    assert memory(tracker2) == memory(tracker) != before


@pytest.mark.parametrize(("kind", "options"), TRACKERS)
def test_a_shallow_copy_of_a_tracker_follows_the_same_training_with_its_own_memory(
    kind: Any, options: dict[str, Any], tmp_path: Any
) -> None:
    if "path" in options:
        options = {**options, "path": tmp_path / "snapshot"}
    model, optimizer, tracker, train = trained(kind, **options)
    train(model, optimizer, tracker, 4)
    other = copy.copy(tracker)
    before = memory(other)[1]
    train(model, optimizer, tracker, 3)
    assert memory(other)[1] == before != memory(tracker)[1]
    train(model, optimizer, other, 1)


@copies
def test_a_mask_view(copied: CopyFn) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    pruner.step()
    made = copied(pruner.masks)
    assert isinstance(made, MaskView) and list(made) == list(pruner.masks)
    assert torch.equal(made["weight"], pruner.masks["weight"])


@copies
def test_a_calibrator_goes_on_in_its_copy(copied: CopyFn) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 4))
    first, second = torch.randn(3, 2, 4, 4), torch.randn(5, 2, 4, 4)
    calibrator = bs.Calibrator(model).run([first])
    made = copied(calibrator)
    alone = {name: norm.clone() for name, norm in calibrator.norms.items()}
    with made:
        made._model(second)
    both = bs.Calibrator(model).run([first, second])
    for name, norm in both.norms.items():
        torch.testing.assert_close(made.norms[name], norm)
        assert torch.equal(calibrator.norms[name], alone[name])


def test_a_calibrator_is_not_copied_while_it_collects() -> None:
    calibrator = bs.Calibrator(torch.nn.Linear(4, 4))
    with calibrator:
        for copied in COPIES:
            with pytest.raises(bs.Error, match="leave its with block"):
                copied(calibrator)
        calibrator._model(torch.ones(1, 4))


@copies
def test_settings(copied: CopyFn) -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = bs.Pruner(model, optimizer, scorer=bs.Bitter7(eps=0), schedule=bs.OneShot(0.5, 3))
    made = copied(pruner._loop.settings)
    assert isinstance(made, Settings) and made.to_config() == pruner._loop.settings.to_config()


def test_a_capturable_step_refuses(cuda: Any) -> None:
    """It is made of addresses."""
    step = bs.CapturableStep(bs.ScoreInputs(cuda.put(torch.ones(8))), scorer="magnitude")
    for copied in COPIES:
        with pytest.raises(bs.Error, match="Make a new one"):
            copied(step)


@copies
def test_a_mask_of_a_device_stays_there(copied: CopyFn, cuda: Any) -> None:
    keep = torch.from_numpy(bits((70,)))
    mask = bs.Mask.from_bool(cuda.put(keep), "w")
    made = copied(mask)
    assert made == mask and made.device == mask.device != -1
    assert made.pointer == made.words.data_ptr() and torch.equal(made.bool().cpu(), keep)
