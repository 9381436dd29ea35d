"""GradientProbe leaves everything but pruned weights as it was: on success, on errors and on Ctrl-C."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
import torch.distributed as dist
from bittersweet.model.preserve import _random_states, preserved
from probe_support import (
    ORDERS,
    Noisy,
    cross_entropy,
    integer_batches,
    integer_net,
    noisy,
    noisy_batches,
    noting,
    raw,
    square_loss,
    surroundings,
    values,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset


class Interrupted:
    """A loss that fails on its n-th call, after leaving a mess behind."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.calls += 1
        loss = cross_entropy(model, batch)
        model.train(self.calls % 2 == 0)
        random.random()
        np.random.rand()
        if self.calls == self.at:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
                parameter.requires_grad_(True)
            raise self.error
        return loss


@pytest.mark.parametrize("order", ORDERS)
def test_success_changes_nothing_but_pruned_weights(order: str) -> None:
    model = noisy()
    around, before = surroundings(model), {n: p.detach().clone() for n, p in model.named_parameters()}
    probe = bs.GradientProbe(model, cross_entropy, noisy_batches(), order=order, gradient_threshold=0.2)
    result = probe.prune(0.5)
    assert surroundings(model) == around
    assert result.pruned and result.kept
    for name, parameter in model.named_parameters():
        mask = probe.masks.get(name)
        expected = before[name] if mask is None else torch.where(mask.bool(), before[name], 0.0)
        assert raw(parameter) == raw(expected), name
    assert list(probe.masks) == ["conv.weight", "first.weight", "second.weight"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize(("order", "calls"), [("global", 4), ("forward", 12)])
def test_an_error_at_any_call_changes_nothing_at_all(order: str, calls: int, error: BaseException) -> None:
    for at in range(1, calls + 1):
        model = noisy()
        around, before = surroundings(model), values(model)
        loss_fn = Interrupted(at, error)
        probe = bs.GradientProbe(model, loss_fn, noisy_batches(), order=order, gradient_threshold=9.0)
        masks = probe.masks
        with pytest.raises(type(error)):
            probe.prune(0.5)
        assert loss_fn.calls == at
        assert surroundings(model) == around
        assert values(model) == before
        assert probe.masks == masks and not probe.history
        assert probe.sparsity().masked == 0.0
    model = noisy()
    loss_fn = Interrupted(calls + 1, error)
    bs.GradientProbe(model, loss_fn, noisy_batches(), order=order, gradient_threshold=9.0).prune(0.5)
    assert loss_fn.calls == calls


def test_both_passes_meet_the_same_state() -> None:
    def note(model: nn.Module) -> Any:
        assert isinstance(model, Noisy)
        return (
            raw(torch.get_rng_state()), random.getstate(), np.random.get_state()[1].tobytes(), model.training,
            raw(model.norm.num_batches_tracked), raw(model.seen), raw(model.norm.running_mean),
        )  # fmt: skip

    for order, groups in (("global", 1), ("forward", 3)):
        seen: list[Any] = []
        bs.GradientProbe(noisy(), noting(cross_entropy, seen, note), noisy_batches(), order=order).prune(0.5)
        assert len(seen) == 4 * groups
        for one in range(1, 2 * groups):
            assert seen[2 * one] == seen[0]
            assert seen[2 * one + 1][:-1] == seen[1][:-1]  # the running mean follows the weights
        assert all(first != second for first, second in zip(seen[0][:3], seen[1][:3], strict=True))
        assert seen[0][4:] != seen[1][4:]  # within a pass, random numbers and statistics move on


def test_dropout_draws_the_same_mask_before_and_after() -> None:
    """With reduction 0.1 on one weight alone, only equal dropout keeps a linear loss's gradients equal."""

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 1, bias=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.linear(nn.functional.dropout(inputs, 0.5, self.training)).sum()

    torch.manual_seed(0)
    model = Dropped()
    result = bs.GradientProbe(model, lambda inner, batch: inner(batch), [torch.ones(1, 64)]).prune(1.0)
    assert 0 < result.zero_gradients < 64  # what was dropped
    assert result.pruned == 64 - result.zero_gradients


def test_a_loader_with_a_generator_of_its_own_shuffles_alike_in_both_passes() -> None:
    seen: list[list[float]] = []

    def loss_fn(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        seen.append(batch[0][:, 0].tolist())
        return model(batch[0]).square().mean()

    for generator in (None, torch.Generator().manual_seed(4)):
        seen.clear()
        data = TensorDataset(torch.arange(12.0).reshape(-1, 1).expand(-1, 3))
        loader = DataLoader(data, batch_size=5, shuffle=True, generator=generator)
        before = None if generator is None else raw(generator.get_state())
        bs.GradientProbe(nn.Linear(3, 2), loss_fn, loader).prune(0.5)
        assert len(seen) == 6 and seen[:3] == seen[3:]
        assert sorted(itertools.chain(*seen[:3])) == list(range(12))
        assert generator is None or raw(generator.get_state()) == before


def test_works_inside_no_grad_and_inference_mode() -> None:
    expected = bs.GradientProbe(integer_net(), square_loss, integer_batches())
    expected.prune(0.5)
    for mode in (torch.no_grad, torch.inference_mode):
        probe = bs.GradientProbe(integer_net(), square_loss, integer_batches())
        with mode():
            probe.prune(0.5)
            assert not torch.is_grad_enabled()
        assert probe.masks == expected.masks


def test_preserved_copies_are_real_and_slots_come_back() -> None:
    model = noisy()
    around = surroundings(model)
    with pytest.raises(ZeroDivisionError), preserved(model) as rewind:
        for name, buffer in list(model.named_buffers()):
            if name != "wide":
                buffer.copy_(torch.full_like(buffer, 7))
        model.seen = torch.ones(5)
        rewind()
        assert surroundings(model)["buffers"] == around["buffers"]
        model.norm.running_var.data.fill_(3)
        model.eval()
        torch.manual_seed(99)
        raise ZeroDivisionError
    assert surroundings(model) == around


def test_the_random_states_of_the_model_s_devices_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices of a kind, and one kind whose functions take no index, played by stand-ins."""
    states = {"cuda:0": 1, "cuda:1": 2, "mps": 3}
    for kind in ("cuda", "mps"):
        monkeypatch.setattr(
            getattr(torch, kind), "get_rng_state", lambda device="mps": states[str(device)], raising=False
        )
        monkeypatch.setattr(
            getattr(torch, kind),
            "set_rng_state",
            lambda state, device="mps": states.__setitem__(str(device), state),
            raising=False,
        )
    devices = [torch.device(name) for name in ("cpu", "cuda:0", "cuda:1", "mps", "meta")]
    found = list(_random_states(devices))
    assert len(found) == 6
    states.update({"cuda:0": 7, "cuda:1": 8, "mps": 9})
    for put, state in found:
        put(state)
    assert states == {"cuda:0": 1, "cuda:1": 2, "mps": 3}


@pytest.mark.parametrize("order", ["global", "forward"])
def test_channels_last_weights_keep_their_layout(order: str) -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 2)).to(memory_format=layout)
        strides = [parameter.stride() for parameter in model.parameters()]
        data = torch.randn(2, 3, 6, 6)
        loss_fn = noting(lambda inner, batch: inner(batch).square().sum(), [], lambda _: None)
        probe = bs.GradientProbe(model, loss_fn, [data], order=order, gradient_threshold=math.inf)
        probe.prune(0.5)
        assert [parameter.stride() for parameter in model.parameters()] == strides
        found.append((probe.masks, [parameter.detach().contiguous() for parameter in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, two) for one, two in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_checkpointed_activations_and_a_data_parallel_wrapper(tmp_path: Path) -> None:
    def checkpointed(model: Any, batch: Any) -> torch.Tensor:
        assert type(model) is nn.Sequential
        outputs = checkpoint(model, batch[0], use_reentrant=False)
        assert isinstance(outputs, torch.Tensor)
        return (outputs - batch[1]).square().sum()

    expected = bs.GradientProbe(integer_net(), square_loss, integer_batches())
    expected.prune(0.5)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(integer_net())
        probe = bs.GradientProbe(model, checkpointed, integer_batches())
        probe.prune(0.5)
    finally:
        dist.destroy_process_group()
    assert probe.masks == expected.masks


def generator() -> Iterator[Any]:
    yield from integer_batches()


@pytest.mark.parametrize(
    ("batches", "found"),
    [(generator(), "generator"), (iter([1]), "list_iterator"), (map(str, [1]), "map"), (zip([1]), "zip")],
)
def test_batches_that_can_be_gone_through_once_are_refused(batches: Any, found: str) -> None:
    with pytest.raises(bs.ArgumentError, match=f"batches: found a {found}, which can be gone through once"):
        bs.GradientProbe(integer_net(), square_loss, batches)


def test_a_callable_gives_fresh_batches() -> None:
    probe = bs.GradientProbe(integer_net(), square_loss, generator)
    plain = bs.GradientProbe(integer_net(), square_loss, integer_batches())
    assert probe.prune(0.5).layers == plain.prune(0.5).layers


def dies(
    model: nn.Module, loss_fn: Any, batches: Any, error: type[Exception], match: str, **options: Any
) -> None:
    around, before = surroundings(model), values(model)
    probe = bs.GradientProbe(model, loss_fn, batches, progress=False, **options)
    with pytest.raises(error, match=match):
        probe.prune(0.5)
    assert surroundings(model) == around
    assert values(model) == before
    assert probe.sparsity().masked == 0


@pytest.mark.parametrize("order", ["global", "reverse"])
def test_bad_losses_and_batches_are_named_and_change_nothing(order: str) -> None:
    batches = integer_batches(3)
    spoilt = [*batches[:2], (batches[2][0] * math.nan, batches[2][1])]

    def steep(model: Any, batch: Any) -> torch.Tensor:
        return (model[2].weight.abs().sum() - model[2].weight.detach().abs().sum()).sqrt() + square_loss(
            model, batch
        )

    once = iter(integer_batches())
    counts = iter((3, 2))
    cases: list[tuple[Callable[..., Any], Any, type[Exception], str]] = [
        (square_loss, spoilt, bs.Error, r"the loss of batch 2 \(counted from 0\) is nan"),
        (steep, batches, bs.Error, r"the gradient of '2\.weight' in batch 0 .* is not finite"),
        (lambda m, b: 1.0, batches, bs.ArgumentError, "loss_fn: it returned a float for batch 0"),
        (lambda m, b: m(b[0]), batches, bs.ArgumentError, r"tensor of shape \(4, 3\) for batch 0"),
        (lambda m, b: square_loss(m, b).long(), batches, bs.ArgumentError, "torch.int64"),
        (
            lambda m, b: square_loss(m, b).detach(),
            batches,
            bs.ArgumentError,
            "depends on none of the weights",
        ),
        (square_loss, [], bs.ArgumentError, "batches: they are empty"),
        (square_loss, lambda: once, bs.ArgumentError, "batches: 3 in one pass and 0|they are empty"),
        (
            square_loss,
            lambda: integer_batches(next(counts)),
            bs.ArgumentError,
            "3 in one pass and 2 in the next",
        ),
    ]
    for loss_fn, given, error, match in cases:
        dies(integer_net(), loss_fn, given, error, match, order=order)


def test_overflow_in_float16_is_named() -> None:
    model = integer_net(0, torch.float16)

    def loss_fn(inner: nn.Module, batch: Any) -> torch.Tensor:
        return square_loss(inner, batch) * 1e5

    dies(model, loss_fn, integer_batches(), bs.Error, "gradient of '.*' in batch 0 .* not finite.*float16")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"reduction": 1.0}, "reduction: 1 changes nothing"),
        ({"reduction": -0.1}, "reduction: -0.1; accepted: a number from 0 to 1"),
        ({"reduction": "x"}, "reduction: 'x'"),
        ({"gradient_threshold": -1.5}, "gradient_threshold: -1.5; accepted: a number from -1 to inf"),
        ({"gradient_threshold": math.nan}, "gradient_threshold: nan"),
        ({"order": "backwards"}, "order: 'backwards'; accepted: 'global', 'reverse', 'size', 'forward'"),
        ({"prune_zero_gradients": "no"}, "prune_zero_gradients: 'no'"),
        ({"progress": 3}, "progress: 3"),
        ({"scorer": "wandering"}, "no scorer is called 'wandering'"),
        ({"scorer": "wanda"}, "reads input_norm"),
        ({"scorer": "wanda", "input_norms": [1]}, "input_norms: found list"),
        ({"scorer": "identity"}, "reads scores"),
        ({"scorer": "bitter7"}, "optimizer: None, and scorer 'bitter7' reads exp_avg_sq"),
        ({"scope": "layer"}, "scope: 'layer'"),
        ({"selector": "best"}, "selector"),
        ({"targets": "9.*"}, "targets"),
        ({"masks": {"1.weight": torch.ones(7, 6, dtype=torch.bool)}}, r"masks: '1\.weight' is not among"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], match: str) -> None:
    with pytest.raises(bs.ArgumentError, match=match):
        bs.GradientProbe(integer_net(), square_loss, integer_batches(), **options)


def test_other_bad_arguments() -> None:
    for loss_fn, batches, match in ((None, [], "loss_fn: None"), (square_loss, 3, "batches: found int")):
        with pytest.raises(bs.ArgumentError, match=match):
            bs.GradientProbe(integer_net(), loss_fn, batches)  # type: ignore[arg-type]
    with pytest.raises(bs.ShapeError, match=r"0\.weight"):
        bs.GradientProbe(integer_net(), square_loss, [1], masks={"0.weight": torch.ones(2, dtype=torch.bool)})
    for sparsity in (1.5, -0.1, math.nan):
        probe = bs.GradientProbe(integer_net(), square_loss, integer_batches())
        with pytest.raises(bs.ArgumentError, match="sparsity"):
            probe.prune(sparsity)
    probe = bs.GradientProbe(integer_net(), square_loss, integer_batches(), scorer="gradient")
    with pytest.raises(bs.MissingStateError, match=r"'0\.weight' has no gradient"):
        probe.prune(0.5)


def test_a_nan_weight_is_named_before_anything_runs() -> None:
    model = integer_net()
    with torch.no_grad():
        model[2].weight[1, 1] = math.nan
    dies(model, square_loss, integer_batches(), bs.NonFiniteScoreError, r"2\.weight")
