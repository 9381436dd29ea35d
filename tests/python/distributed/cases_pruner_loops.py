"""A Pruner over ranks in training loops of all kinds: what holds, what is noticed, what moves."""

from __future__ import annotations

import functools
from typing import Any

import bittersweet as bs
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training_support import (
    RAMP,
    STEPS,
    adamw,
    backward,
    batch,
    full,
    here,
    inputs_of,
    masked_adamw,
    net,
    no_collectives,
    require_held,
    require_replicas,
    require_same,
    sharded,
    train,
)


def raises(kind: type[Exception], text: str, call: Any) -> None:
    try:
        call()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__}")


def clipped_gradients(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)

    def step(model: nn.Module, number: int) -> None:
        backward(model, number)
        pruner.mask_grads_()
        for name, mask in pruner.masks.items():
            grad = model.get_parameter(name).grad
            assert not here(grad)[~here(mask)].any()
        norm = full(nn.utils.clip_grad_norm_(model.parameters(), 1e-4))
        squares = [full(parameter.grad).square().sum() for parameter in model.parameters()]
        assert norm > 1e-4
        assert abs(sum(squares) ** 0.5 - 1e-4) < 1e-6

    train(model, optimizer, pruner, number=rank, step=step)


def gradients_that_are_added_up_without_exchange(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)

    def step(model: Any, number: int) -> None:
        model.set_requires_gradient_sync(False)
        backward(model, number + 500)
        pruner.mask_grads_()  # there are none yet
        model.set_requires_gradient_sync(True)
        backward(model, number)

    train(model, optimizer, pruner, number=rank, step=step)
    inner = net()
    replicas = DistributedDataParallel(inner)
    optimizer = adamw(replicas)
    pruner = bs.Pruner(replicas, optimizer, schedule=RAMP, process_group=dist.group.WORLD)

    def other(_: nn.Module, number: int) -> None:
        with replicas.no_sync():
            backward(replicas, number + 500)
        backward(replicas, number)

    train(inner, optimizer, pruner, number=rank, step=other)
    require_replicas(inner)


def gradients_that_are_still_to_be_added_up(rank: int, size: int) -> None:
    """As norms have them under sequence parallelism: the parts of every rank are a whole when added up."""
    mesh = init_device_mesh("cpu", (size,))
    found = []
    for make in (adamw, masked_adamw):
        torch.manual_seed(0)
        model = nn.Linear(13, 6, bias=False)
        model.weight = nn.Parameter(distribute_tensor(torch.randn(6, 13), mesh, [Replicate()]))
        optimizer = make(model)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP)

        def step(model: nn.Module, number: int, pruner: bs.Pruner = pruner) -> None:
            part = batch(number)[:6].clone()
            model.get_parameter("weight").grad = DTensor.from_local(part, mesh, [Partial()], run_check=False)
            pruner.mask_grads_()
            assert not here(model.get_parameter("weight").grad)[~here(pruner.masks["weight"])].any()

        train(model, optimizer, pruner, number=rank, step=step)
        found.append(here(model.weight).detach())
        by_gradient = bs.Pruner(model, optimizer, scorer="gradient", schedule=bs.OneShot(0.5, 1))
        step(model, 1)
        raises(bs.LayoutError, "Redistribute it", by_gradient.step)
    assert torch.allclose(*found)


def a_step_that_a_scaler_skips_for_one_rank(rank: int, size: int) -> None:
    """Infinities in the shard of one rank: every rank skips, and the event that was due waits."""
    for make in (adamw, masked_adamw):
        model = sharded(net())
        optimizer = make(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP)
        for now in range(1, STEPS + 1):
            scaler.scale(model(batch(1000 * rank + now)).square().mean()).backward()
            if now == 4 and rank == size - 1:
                here(model.a.weight.grad).fill_(float("inf"))
            before = [full(parameter.detach()).clone() for parameter in model.parameters()]
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped = scaler.get_scale() < scale
            assert skipped == (now == 4)
            if skipped:
                after = [full(parameter.detach()) for parameter in model.parameters()]
                assert all(map(torch.equal, before, after))
                assert pruner.step(skipped=True) is None
            else:
                event = pruner.step()
                assert (event is not None) == (now in (2, 5, 6))
            if pruner.history:
                require_held(model, optimizer, pruner)
            optimizer.zero_grad()
        assert [event.step for event in pruner.history] == [2, 5, 6]


def gradients_masked_before_every_step(rank: int, size: int) -> None:
    for make in (lambda: sharded(net()), net):
        inner = make()
        model = inner if inner.a.weight.numel() != here(inner.a.weight).numel() else None
        wrapped: Any = model or DistributedDataParallel(inner)
        optimizer = adamw(wrapped)
        group = None if model is not None else dist.group.WORLD
        pruner = bs.Pruner(wrapped, optimizer, schedule=RAMP, hold="grads", process_group=group)

        def step(_: nn.Module, number: int, wrapped: Any = wrapped) -> None:
            backward(wrapped, number)

        train(inner, optimizer, pruner, number=rank, step=step)
        require_replicas(inner)


def attached(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    for now in range(1, STEPS + 1):
        backward(model, 1000 * rank + now)
        optimizer.step()
        optimizer.zero_grad()
    assert [event.step for event in pruner.history] == [2, 4, 6]
    require_held(model, optimizer, pruner)
    report = pruner.finalize()
    assert report.finalized and not report.violations
    assert f"rank {rank} of {size}" in str(report)


def pruned_weights_that_compete_again(rank: int, size: int) -> None:
    schedule = bs.ConstantSparsity(0.2, begin_step=2, end_step=8, frequency=2)
    for make in (adamw, masked_adamw):
        model = sharded(net())
        optimizer = make(model, lr=0.2)  # steps that bring pruned weights back
        pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=schedule, regrow=True)
        reopened = 0
        for now in range(1, STEPS + 1):
            backward(model, 1000 * rank + now)
            optimizer.step()
            due, sparsity = schedule(now)
            if due:
                items = inputs_of(model, optimizer, pruner)
                expected = bs.make_masks(items, sparsity=sparsity, scorer="magnitude", regrow=True)
                former = {name: full(mask) for name, mask in pruner.masks.items()}
            event = pruner.step()
            if due:
                assert event is not None
                require_same(event, pruner, expected)
                reopened += sum(int((~former[name] & full(pruner.masks[name])).sum()) for name in former)
                require_held(model, optimizer, pruner)
            optimizer.zero_grad()
        assert reopened


def a_gathered_root(rank: int, size: int) -> None:
    """After an evaluation what is written to the shards would be lost: it is noticed, and put right."""
    for make in (adamw, masked_adamw):
        model: Any = sharded(net())
        optimizer = make(model)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP)
        backward(model, rank)
        optimizer.step()
        pruner.step()
        for _ in range(2):
            with torch.no_grad():
                model(batch(1))
            assert not hasattr(model.c.weight, "placements")
            raises(bs.LayoutError, "is gathered now", pruner.step)  # an event is due
            assert pruner.steps == 1 and not pruner.history
            raises(bs.LayoutError, "model.reshard()", functools.partial(pruner.load_masks, {}))
            model.reshard()
        backward(model, rank)
        optimizer.step()
        assert pruner.step() is not None
        optimizer.zero_grad()
        with torch.no_grad():
            model(batch(1))
        raises(bs.LayoutError, "is gathered now", pruner.step)  # none is due
        with torch.no_grad():
            model(batch(1))
        with no_collectives():
            assert pruner.sparsity().per_tensor["c.weight"].elements == here(pruner.masks["c.weight"]).numel()
        with torch.no_grad():
            model(batch(1))
        state = pruner.state_dict()
        masks = {name: full(mask) for name, mask in pruner.masks.items()}
        model.reshard()
        with torch.no_grad():
            for name in masks:
                here(model.get_parameter(name)).fill_(1.0)
            model(batch(1))
        pruner.load_state_dict(state)  # reaches the next forward pass
        with torch.no_grad():
            model(batch(1))
            assert not model.c.weight[~masks["c.weight"]].any()
            assert model.c.weight[masks["c.weight"]].all()
        pruner.finalize()
        require_held(model, optimizer, pruner)
        with torch.no_grad():
            model(batch(1))
        assert bs.Pruner(model, optimizer, schedule=RAMP).plan().targets  # made with the root gathered


def a_root_without_targets_gives_the_position_away(rank: int, size: int) -> None:
    model: Any = sharded(net())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1), targets=["a.weight", "b.weight"])
    backward(model, rank)
    optimizer.step()
    with torch.no_grad():
        model(batch(1))
    raises(bs.LayoutError, "'c.weight' is gathered now", pruner.step)
    model.reshard()
    assert pruner.step() is not None


def masks_from_elsewhere(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    plain = net()
    whole = {mask.name: mask for mask in bs.make_masks(plain, sparsity=0.5, scorer="magnitude").packed}
    given: list[dict[str, Any]] = [whole, {name: mask.bool() for name, mask in whole.items()}]
    pruner = bs.Pruner(model, optimizer)
    for masks in given:
        pruner.load_masks(masks)
        for name, mask in whole.items():
            assert torch.equal(full(pruner.masks[name]), mask.bool())
        require_held(model, optimizer, pruner)
    again = bs.Pruner(model, optimizer)
    again.load_masks(pruner.masks)
    kept = bs.Pruner.from_zeros(model, optimizer)
    for name, mask in whole.items():
        assert torch.equal(full(again.masks[name]), mask.bool())
        assert torch.equal(full(kept.masks[name]), mask.bool())
    told: list[Any] = [None] * size
    dist.all_gather_object(told, kept.plan().settings["zeros"])
    assert len(set(told)) == 1
    wrong = {"b.weight": full(pruner.masks["b.weight"])[1:]}
    raises(bs.ShapeError, "b.weight", lambda: pruner.load_masks(wrong))
    if here(pruner.masks["b.weight"]).shape != (26, 34):
        raises(bs.LayoutError, "full_state_dict", lambda: bs.save_masks("unused", pruner.masks))


def an_average_of_the_weights(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    train(model, optimizer, pruner, number=rank)
    average = sharded(net(seed=3))
    with torch.no_grad():
        average(batch(1))  # the zeros go to the shards, not to what this has gathered
    found = pruner.apply_to(average)
    for name, mask in pruner.masks.items():
        weight = here(average.get_parameter(name))
        assert not weight[~here(mask)].any()
        assert found.per_tensor[name].zeros >= found.per_tensor[name].pruned
    whole = net(seed=3)
    raises(bs.ShapeError, "spread over the ranks", lambda: pruner.apply_to(whole))
    inner = net()
    replicas = DistributedDataParallel(inner)
    averaged = AveragedModel(inner, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = adamw(replicas)
    pruner = bs.Pruner(replicas, optimizer, schedule=RAMP, process_group=dist.group.WORLD)
    for now in range(1, STEPS + 1):
        backward(replicas, 1000 * rank + now)
        optimizer.step()
        pruner.step()
        averaged.update_parameters(inner)
        optimizer.zero_grad()
    assert pruner.apply_to(averaged).masked == pruner.history[-1].achieved_sparsity


def a_scorer_with_a_memory_per_weight(rank: int, size: int) -> None:
    model, plain = sharded(net()), net()
    optimizer, alone = adamw(model), adamw(plain)
    pruner = bs.Pruner(model, optimizer, scorer="movement", schedule=RAMP)
    reference = bs.MovementTracker(plain, alone, hook=False)
    for now in range(1, STEPS + 1):
        backward(model, 1000 * rank + now)
        for name, parameter in plain.named_parameters():
            own = model.get_parameter(name)
            assert own.grad is not None
            parameter.data.copy_(full(own.detach()))
            parameter.grad = full(own.grad).clone()
        reference.update()
        optimizer.step()
        due, sparsity = RAMP(now)
        if due:
            scores = reference.scores()
            items = [
                bs.ScoreInputs(
                    plain.get_parameter(name).detach(), scores=scores[name], mask=full(mask), name=name
                )
                for name, mask in pruner.masks.items()
            ]
            expected = bs.make_masks(items, sparsity=sparsity, scorer="movement")
        event = pruner.step()
        if due:
            assert event is not None
            require_same(event, pruner, expected)
        optimizer.zero_grad()
    raises(
        bs.ArgumentError,
        "would be rounded by the same random bits",
        lambda: bs.Pruner(model, optimizer, scorer=bs.Movement(storage="bfloat16"), schedule=RAMP),
    )
    for scorer in ("bitter10", "bitter10s", "bitter10c"):
        schedule = bs.OneShot(0.5, 6)
        raises(
            bs.ArgumentError,
            "ranks exchange nothing between events",
            lambda scorer=scorer, schedule=schedule: bs.Pruner(
                model, optimizer, scorer=scorer, schedule=schedule
            ),
        )


def a_scorer_with_a_memory_per_tensor_over_replicas(rank: int, size: int) -> None:
    events = []
    for group in (None, dist.group.WORLD):
        inner = net()
        model = DistributedDataParallel(inner)
        optimizer = adamw(model)
        pruner = bs.Pruner(
            model, optimizer, scorer="bitter10s", schedule=bs.OneShot(0.5, 6), process_group=group
        )
        for now in range(1, STEPS + 1):
            backward(model, 1000 * rank + now)
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        events.append(pruner.history[-1])
        require_replicas(inner)
    assert events[0].threshold == events[1].threshold
    assert events[0].per_tensor == events[1].per_tensor


def a_compiled_model(rank: int, size: int) -> str:
    try:
        inner: Any = net()
        compiled = torch.compile(sharded(inner), backend="aot_eager")
        with torch.no_grad():
            compiled(batch(1))
        inner.reshard()
    except Exception as error:  # torch.compile of fully_shard is not everywhere
        return f"{type(error).__name__}: {error}"
    optimizer = adamw(compiled)
    pruner = bs.Pruner(compiled, optimizer, schedule=RAMP)
    assert list(pruner.masks) == ["a.weight", "b.weight", "c.weight", "one.weight"]

    def step(_: nn.Module, number: int) -> None:
        backward(compiled, number)

    train(inner, optimizer, pruner, number=rank, step=step)
    return ""
