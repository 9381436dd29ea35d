"""Optimizers around optimizers: where hooks go, which copies of the weights are masked, what is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.optimizers.optimizers import Optimizers
from optimizer_support import TARGETS, held_run, net, step
from torch.optim import Optimizer

ONCE = bs.OneShot(0.5, 3)


def adamw(parameters: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=1e-2)


class Lookahead(Optimizer):
    """Slow weights by parameter in an attribute; itself an optimizer with hooks."""

    def __init__(self, inner: Optimizer) -> None:
        self.optimizer, self.count = inner, 0
        self.slow = {one: one.detach().clone() for group in inner.param_groups for one in group["params"]}
        super().__init__(inner.param_groups, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for fast, slow in self.slow.items():
                fast.copy_(slow.lerp_(fast, 0.5))
        return loss


class LookaheadInRows(Lookahead):
    """Slow weights in one list a group."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner)
        self.slow_weights = [[self.slow[one] for one in group["params"]] for group in inner.param_groups]
        self.slow = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.optimizer.step(closure)
        self.count += 1
        for group, row in zip(self.param_groups, self.slow_weights, strict=True):
            for fast, slow in zip(group["params"], row, strict=True):
                if self.count % 2 == 0:
                    fast.copy_(slow.lerp_(fast, 0.5))


class LookaheadInState(Optimizer):
    """Slow weights in the state of the inner optimizer; hooks are there and never run."""

    def __init__(self, inner: Optimizer) -> None:
        self._optimizer_step_pre_hooks: Any = OrderedDict()
        self._optimizer_step_post_hooks: Any = OrderedDict()
        self._base_optimizer, self.count = inner, 0
        self.param_groups, self.state = inner.param_groups, {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._base_optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self._base_optimizer.step(closure)
        self.count += 1
        for group in self.param_groups:
            for fast in group["params"]:
                state = self._base_optimizer.state[fast]
                slow = state.setdefault("lookahead_slow_buff", fast.detach().clone())
                if self.count % 2 == 0:
                    fast.copy_(slow.lerp_(fast, 0.5))


class Masters(torch.optim.AdamW):
    """float32 copies in lists beside the groups, as fused optimizers for 16-bit weights keep them."""

    master_weights = True

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr)
        self.param_groups_master = [
            {"params": [one.detach().float().clone() for one in group["params"]]}
            for group in self.param_groups
        ]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group, copies in zip(self.param_groups, self.param_groups_master, strict=True):
            for one, copy in zip(group["params"], copies["params"], strict=True):
                state = self.state[one]
                mean = state.setdefault("exp_avg", torch.zeros_like(copy)).lerp_(one.grad.float(), 0.1)
                square = state.setdefault("exp_avg_sq", torch.zeros_like(copy))
                square.lerp_(one.grad.float().square(), 0.1)
                one.copy_(copy.sub_(mean / (square.sqrt() + 1e-8), alpha=group["lr"]))


class Outer(Optimizer):
    """Passes everything on, without hooks of its own, as accelerate's and Lightning's wrappers do."""

    def __init__(self, inner: Optimizer) -> None:
        self.optimizer = inner

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


class SAM(Optimizer):
    """Steps in two halves, or in one with a closure; the inner optimizer makes the step."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.base_optimizer = adamw(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                self.state[one]["old_p"] = one.detach().clone()
                one.add_(one.grad, alpha=0.05)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                one.copy_(self.state[one]["old_p"])
        self.base_optimizer.step()

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            closure()
        self.first_step()
        with torch.enable_grad():
            loss = closure()
        self.second_step()
        return loss


@pytest.mark.parametrize("kind", [Lookahead, LookaheadInRows, LookaheadInState])
@pytest.mark.parametrize("attached", [False, True])
def test_slow_weights_of_any_make_are_masked(kind: Any, attached: bool) -> None:
    model = net()
    inner = torch.optim.AdamW(
        [{"params": [model[0].weight]}, {"params": [model[2].weight, model[0].bias]}], lr=1e-2
    )
    optimizer = kind(inner)
    kept = Optimizers.of(optimizer)
    assert kept.inner == (inner,)
    assert kept.outer == ((inner,) if kind is LookaheadInState else (optimizer,))
    assert kept.held(True).endswith(f"the copies of the weights in {kind.__name__}")
    if not attached:
        held_run(model, optimizer)
    else:
        pruner = bs.Pruner(model, optimizer, schedule=ONCE, targets="*weight").attach()
        for now in range(12):
            step(model, optimizer, seed=now)
            assert pruner.sparsity().zero == (0.5 if now >= 2 else 0.0)
    for name in TARGETS:
        weight = model.get_parameter(name)
        copies = kept.companions(weight)
        assert len(copies) == 1
        for copy in copies.values():
            assert copy.shape == weight.shape
            assert not copy[weight == 0].any()
            assert copy[weight != 0].all()


def test_slow_weights_that_are_replaced_are_found_again() -> None:
    model = net()
    optimizer = LookaheadInRows(adamw(model.parameters()))
    kept = Optimizers.of(optimizer)
    weight = model[0].weight
    for _ in range(2):
        optimizer.slow_weights = [[torch.ones_like(one) for one in row] for row in optimizer.slow_weights]
        (copy,) = kept.companions(weight).values()
        assert copy is optimizer.slow_weights[0][0]
    optimizer.param_groups[0]["params"].reverse()
    optimizer.slow_weights[0].reverse()
    (copy,) = kept.companions(weight).values()
    assert copy is optimizer.slow_weights[0][-1]


def test_a_lookahead_is_not_known_to_be_element_wise() -> None:
    model = net()
    with pytest.raises(
        bs.ArgumentError, match="'grads' with Lookahead, which is not known to update element"
    ):
        bs.Pruner(model, Lookahead(adamw(model.parameters())), schedule=ONCE, hold="grads")
    with pytest.raises(bs.ArgumentError, match="'grads' with Outer"):
        Optimizers.of(Outer(adamw(model.parameters()))).require_elementwise()
    with pytest.raises(bs.ArgumentError, match="'grads' with Adafactor"):
        Optimizers.of(
            [adamw(model[0].parameters()), torch.optim.Adafactor(model[2].parameters())]
        ).require_elementwise()
    Optimizers.of(
        [adamw(model[0].parameters()), torch.optim.SGD(model[2].parameters())]
    ).require_elementwise()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_copies_of_16_bit_weights_are_masked(dtype: torch.dtype) -> None:
    model = net(dtype)
    optimizer = Masters(model.parameters(), lr=1e-2)
    pruner = held_run(model, optimizer)
    for i, name in ((0, "0.weight"), (2, "2.weight")):
        copy = optimizer.param_groups_master[0]["params"][i]
        assert copy.dtype == torch.float32
        assert not copy[~pruner.masks[name]].any()
        assert copy[pruner.masks[name]].any()
    assert "the copies of the weights in Masters" in Optimizers.of(optimizer).held(True)


def test_hooks_go_to_the_outermost_that_runs_them() -> None:
    model = net()
    inner = adamw(model.parameters())
    around = Lookahead(inner)
    for given, outer in ((inner, inner), (Outer(inner), inner), (around, around), (Outer(around), around)):
        kept = Optimizers.of(given)
        assert (kept.outer, kept.inner) == ((outer,), (inner,))


@pytest.mark.parametrize("halves", [False, True])
def test_sam_is_followed_by_the_step_of_its_inner_optimizer(halves: bool) -> None:
    model = net()
    optimizer = SAM(model.parameters())
    kept = Optimizers.of(optimizer)
    assert kept.outer == kept.inner == (optimizer.base_optimizer,)
    assert kept.evaluates_again() == "SAM"
    pruner = bs.Pruner(model, optimizer, schedule=ONCE, targets="*weight").attach()
    batch = torch.randn(8, 64)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    for now in range(10):
        if halves:
            closure()
            optimizer.first_step()
            closure()
            optimizer.second_step()
        else:
            optimizer.step(closure)
        assert pruner.sparsity().zero == (0.5 if now >= 2 else 0.0)
    assert len(pruner.history) == 1


@pytest.fixture
def one_process(tmp_path: Any) -> Iterator[None]:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_zero_redundancy_is_read_in_one_process_and_refused_in_several(one_process: None) -> None:
    del one_process
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = net()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-2)
    kept = Optimizers.of(optimizer)
    assert (kept.outer, kept.inner) == ((optimizer,), (optimizer.optim,))
    held_run(model, optimizer)
    weight = model[0].weight
    assert kept.read(weight).exp_avg_sq is optimizer.optim.state[weight]["exp_avg_sq"]
    kept.require_elementwise()
    optimizer.world_size = 2
    with pytest.raises(bs.ArgumentError, match=r"state of each parameter in one of 2 processes.*magnitude"):
        bs.Pruner(model, optimizer, schedule=ONCE)
    bs.Pruner(model, optimizer, scorer="magnitude", schedule=ONCE)
