"""What goes wrong on one rank, on each in turn: all raise alike, nothing is written, the group works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bittersweet as bs
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.nn.parallel import DistributedDataParallel
from training_support import (
    adamw,
    backward,
    batch,
    full,
    here,
    inputs_of,
    net,
    require_held,
    require_replicas,
    sharded,
)

EVERY = bs.ConstantSparsity(0.5, begin_step=2, end_step=100, frequency=1)


def prepared(model: nn.Module | None = None, **options: Any) -> tuple[Any, Any, bs.Pruner]:
    """A model over ranks one step before its first event, with gradients and states."""
    model = sharded(net()) if model is None else model
    optimizer = adamw(model, amsgrad=True)
    pruner = bs.Pruner(model, optimizer, schedule=EVERY, **options)
    for now in (1, 2):
        if now == 2:
            pruner.step()
        backward(model, now)
        optimizer.step()
    return model, optimizer, pruner


@contextmanager
def all_raise(
    kind: type[BaseException],
    text: str,
    culprit: int | None = None,
    elsewhere: type[BaseException] | None = None,
) -> Iterator[None]:
    """Every rank raises this class; those that are not the culprit say which it is."""
    rank = dist.get_rank()
    elsewhere = elsewhere or kind
    try:
        yield
    except BaseException as error:
        expected = kind if culprit in (None, rank) else elsewhere
        assert type(error) is expected, repr(error)
        assert text in str(error), error
        if culprit is not None and rank != culprit:
            assert f"on rank {culprit}:" in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__} on rank {rank}")


@contextmanager
def unchanged(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> Iterator[None]:
    def found() -> list[torch.Tensor]:
        tensors = [here(parameter.detach()) for parameter in model.parameters()]
        states = [getattr(optimizer, "optim", optimizer).state.get(p, {}) for p in model.parameters()]
        tensors += [here(value) for state in states for value in state.values()]
        return [tensor.clone() for tensor in (*tensors, *map(here, pruner.masks.values()))]

    before, steps, events = found(), pruner.steps, len(pruner.history)
    yield
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, found(), strict=True))
    assert (pruner.steps, len(pruner.history)) == (steps, events)


def then_all_is_well(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    """A good event follows."""
    dist.barrier()
    expected = bs.make_masks(inputs_of(model, optimizer, pruner), sparsity=0.5)
    event = pruner.step()
    assert event is not None
    assert (event.threshold, event.pruned) == (expected.event.threshold, expected.event.pruned)
    for mask in expected:
        assert torch.equal(full(pruner.masks[mask.name]), mask.bool())
    require_held(model, optimizer, pruner)


def state_that_one_rank_lacks(rank: int, size: int) -> None:
    for culprit in range(size):
        model, optimizer, pruner = prepared()
        state = optimizer.state[model.b.weight]
        kept = state["exp_avg_sq"]
        if rank == culprit:
            del state["exp_avg_sq"]
        text = "'b.weight' has no exp_avg_sq"
        with all_raise(bs.MissingStateError, text, culprit), unchanged(model, optimizer, pruner):
            pruner.step()
        state["exp_avg_sq"] = kept
        then_all_is_well(model, optimizer, pruner)


def state_of_which_one_rank_lacks_more(rank: int, size: int) -> None:
    """With missing="skip" it would leave out what the others do not."""
    for culprit in range(size):
        for everything in (True, False):
            model, optimizer, pruner = prepared(missing="skip")
            chosen = list(model.parameters()) if everything else [model.b.weight]
            kept = [optimizer.state[parameter]["exp_avg_sq"] for parameter in chosen]
            if rank == culprit:
                for parameter in chosen:
                    del optimizer.state[parameter]["exp_avg_sq"]
            kind, text = (bs.MissingStateError, "not one of the 4") if everything else (bs.RanksDisagree, "")
            with all_raise(kind, text, culprit if everything else None):
                pruner.step()
            for parameter, moment in zip(chosen, kept, strict=True):
                optimizer.state[parameter]["exp_avg_sq"] = moment
            then_all_is_well(model, optimizer, pruner)


def memory_that_one_rank_cannot_write(rank: int, size: int) -> None:
    """It would be noticed after the others have written, if writing were not rehearsed."""
    for culprit in range(size):
        model, optimizer, pruner = prepared()
        state = optimizer.state[model.a.weight]
        kept = state["max_exp_avg_sq"]
        if rank == culprit:
            state["max_exp_avg_sq"] = kept.double()
        text = "max_exp_avg_sq of 'a.weight' has dtype float64"
        with all_raise(bs.DTypeError, text, culprit), unchanged(model, optimizer, pruner):
            pruner.step()
        state["max_exp_avg_sq"] = kept
        then_all_is_well(model, optimizer, pruner)


def an_interrupt_on_one_rank(rank: int, size: int) -> None:
    for culprit in range(size):
        model, optimizer, pruner = prepared()
        competition = pruner._loop._competition
        if rank == culprit:

            def interrupted(together: bool) -> Any:
                raise KeyboardInterrupt("by hand")

            competition.gather = interrupted  # type: ignore[method-assign]
        with all_raise(KeyboardInterrupt, "by hand", culprit, elsewhere=bs.RankFailed):
            pruner.step()
        competition.__dict__.pop("gather", None)
        then_all_is_well(model, optimizer, pruner)


def ranks_that_count_other_steps(rank: int, size: int) -> None:
    for culprit in range(size):
        model, optimizer, pruner = prepared()
        if rank == culprit:
            pruner.step(skipped=True)
        with all_raise(bs.RanksDisagree, "ranks disagree about step"), unchanged(model, optimizer, pruner):
            pruner.step()
        if rank != culprit:
            pruner.step(skipped=True)
        then_all_is_well(model, optimizer, pruner)


def ranks_that_are_given_other_options(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    differing: list[tuple[str, dict[str, Any]]] = [
        ("schedule", {"schedule": bs.OneShot(0.25, 2)}),
        ("scorer", {"scorer": "magnitude"}),
        ("seed", {"seed": 7}),
        ("ties", {"ties": "below"}),
        ("scope", {"scope": "tensor"}),
    ]
    for culprit in range(size):
        for what, options in differing:
            given = {"schedule": bs.OneShot(0.5, 2), **(options if rank == culprit else {})}
            with all_raise(bs.RanksDisagree, f"ranks disagree about {what}"):
                bs.Pruner(model, optimizer, **given)
        targets = "no such layer" if rank == culprit else None
        with all_raise(bs.ArgumentError, "no such layer", culprit):
            bs.Pruner(model, optimizer, schedule=EVERY, targets=targets)
    order = ["a.weight", "b.weight", "c.weight", "one.weight"]
    with all_raise(bs.RanksDisagree, "order"):
        bs.Pruner(model, optimizer, schedule=EVERY, order=order if rank else order[::-1])
    with all_raise(bs.ArgumentError, "it lacks 'one.weight'"):
        bs.Pruner(model, optimizer, schedule=EVERY, order=order[:3])
    with all_raise(bs.ArgumentError, "'sampling' over ranks"):
        bs.Pruner(model, optimizer, schedule=EVERY, selector="sampling")
    bs.Pruner(model, optimizer, schedule=EVERY, order=order[::-1])


def scores_that_are_no_numbers(rank: int, size: int) -> None:
    for culprit in range(size):
        model, optimizer, pruner = prepared()
        weight = here(model.a.weight)
        kept = weight.detach().clone()
        if rank == culprit:
            with torch.no_grad():
                weight[-1, 3:5] = float("nan")
        items = inputs_of(model, optimizer, pruner)
        try:
            bs.make_masks(items, sparsity=0.5)
        except bs.NonFiniteScoreError as error:
            expected = error
        with all_raise(bs.NonFiniteScoreError, "a.weight"), unchanged(model, optimizer, pruner):
            try:
                pruner.step()
            except bs.NonFiniteScoreError as error:
                assert (error.parameter, error.count, error.first_index) == (
                    expected.parameter,
                    expected.count,
                    expected.first_index,
                )
                raise
        with torch.no_grad():
            weight.copy_(kept)
        then_all_is_well(model, optimizer, pruner)


def replicas_that_differ(rank: int, size: int) -> None:
    for culprit in range(size):
        model, optimizer, pruner = prepared(net(), process_group=dist.group.WORLD)
        kept = model.b.weight.detach().clone()
        if rank == culprit:
            with torch.no_grad():
                model.b.weight.mul_(torch.linspace(-3, 3, 34))
        with all_raise(bs.ReplicasDiffer, "b.weight"), unchanged(model, optimizer, pruner):
            pruner.step()
        with torch.no_grad():
            model.b.weight.copy_(kept)
        then_all_is_well(model, optimizer, pruner)
        require_replicas(model)


def parameters_that_one_rank_has_gathered(rank: int, size: int) -> None:
    for culprit in range(size):
        model, optimizer, pruner = prepared()
        with torch.no_grad():
            model(batch(1))
        if rank != culprit:
            model.reshard()
        with all_raise(bs.LayoutError, "is gathered now", culprit):
            pruner.step()
        model.reshard()
        then_all_is_well(model, optimizer, pruner)


def parts_that_do_not_make_a_whole(rank: int, size: int) -> None:
    model = nn.Linear(6, 4, bias=False)
    cases = [
        ("weight", {"shape": (4 * size + 1, 6), "offset": (4 * rank, 0)}),
        ("weight", {"shape": (4 * size, 6), "offset": (4 * max(rank - 1, 0), 0)}),
    ]
    for text, where in cases:
        with all_raise(bs.ShapeError, f"'{text}'"):
            bs.Pruner(
                model, scorer="magnitude", schedule=EVERY, process_group=dist.group.WORLD,
                shards={"weight": bs.Shard(**where)},
            )  # fmt: skip
    with all_raise(bs.ShapeError, "does not lie within"):
        bs.Pruner(
            model, scorer="magnitude", schedule=EVERY, process_group=dist.group.WORLD,
            shards={"weight": bs.Shard(shape=(4, 6), offset=(1, 0))},
        )  # fmt: skip
    grouped: dict[str, Any] = {"scorer": "magnitude", "schedule": EVERY, "process_group": dist.group.WORLD}
    shard = bs.Shard(shape=(4 * size + (rank == 1), 2, 3, 3), offset=(4 * rank, 0, 0, 0))
    with all_raise(bs.ArgumentError, "groups: 2 for 'weight'", 1):
        bs.Pruner(nn.Conv2d(4, 4, 3, groups=2), shards={"weight": shard}, **grouped)
    with all_raise(bs.ArgumentError, "process_group"):
        bs.Pruner(model, scorer="magnitude", schedule=EVERY, shards={"weight": bs.Shard((4, 6), (0, 0))})
    other = nn.Linear(6, 4 + rank, bias=False)
    with all_raise(bs.ShapeError, "'weight' has shape (4, 6) on rank 0 and (5, 6) on rank 1"):
        bs.Pruner(other, scorer="magnitude", schedule=EVERY, process_group=dist.group.WORLD)
    nothing = nn.BatchNorm1d(4)
    with all_raise(bs.ArgumentError, "no rank has anything to prune"):
        bs.Pruner(nothing, scorer="magnitude", schedule=EVERY, process_group=dist.group.WORLD)
    some = nn.Linear(6, 4) if rank == 0 else nn.BatchNorm1d(4)
    pruner = bs.Pruner(some, scorer="magnitude", schedule=bs.OneShot(0.5, 1), process_group=dist.group.WORLD)
    event = pruner.step()
    assert event is not None
    assert (event.pruned, event.total) == (12, 24)
    assert list(pruner.masks) == (["weight"] if rank == 0 else [])
    pruner.report()
    pruner.load_state_dict(pruner.state_dict())


def what_is_spread_in_another_way(rank: int, size: int) -> None:
    mesh = init_device_mesh("cpu", (size,))

    def with_weight(weight: torch.Tensor) -> nn.Module:
        model = nn.Linear(6, 4, bias=False)
        model.weight = nn.Parameter(weight)
        return model

    partial = DTensor.from_local(torch.ones(4, 6), mesh, [Partial()], run_check=False)
    with all_raise(bs.LayoutError, "Partial"):
        bs.Pruner(with_weight(partial), scorer="magnitude", schedule=EVERY)
    replicated = DTensor.from_local(torch.randn(4, 6), mesh, [Replicate()])
    assert bs.Pruner(with_weight(replicated), scorer="magnitude", schedule=EVERY).plan().targets
    flat = FullyShardedDataParallel(net(), device_id=torch.device("cpu"), use_orig_params=True)
    with all_raise(bs.LayoutError, "fully_shard"):
        bs.Pruner(flat, scorer="magnitude", schedule=EVERY)
    inner = net()
    model = DistributedDataParallel(inner)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-2)
    with all_raise(bs.ArgumentError, "process_group=torch.distributed.group.WORLD"):
        bs.Pruner(model, optimizer, schedule=EVERY)
    world = dist.group.WORLD
    with all_raise(bs.ArgumentError, "hold: 'grads' with ZeroRedundancyOptimizer"):
        bs.Pruner(model, optimizer, schedule=EVERY, process_group=world, hold="grads")
    late_schedule = bs.OneShot(0.5, 9)
    with all_raise(bs.ArgumentError, "'bitter10s' with ZeroRedundancyOptimizer"):
        bs.Pruner(model, optimizer, schedule=late_schedule, process_group=world, scorer="bitter10s")
    spread = bs.Pruner(model, optimizer, schedule=EVERY, process_group=world)
    with all_raise(bs.ArgumentError, "load_masks(old.masks)"):
        spread.replace_optimizer(adamw(model))
    late = net()
    pruner = bs.Pruner(late, scorer="magnitude", schedule=EVERY)
    sharded(late)
    with all_raise(bs.LayoutError, "before the Pruner is made"):
        pruner.step()
        pruner.step()


def copies_and_pickles(rank: int, size: int) -> None:
    import copy
    import pickle

    model, optimizer, pruner = prepared(net(), process_group=dist.group.WORLD)
    with all_raise(bs.Error, "Save its state_dict()"):
        pickle.dumps(pruner)
    again: Any
    again, other, copied = copy.deepcopy((model, optimizer, pruner))
    then_all_is_well(again, other, copied)


def stages_of_which_one_lacks_something(rank: int, size: int) -> None:
    """Each rank has a layer of its own, of which the others know the name alone."""

    def stage(**options: Any) -> tuple[Any, Any, bs.Pruner]:
        torch.manual_seed(rank)
        model = nn.ModuleDict({f"layer{rank}": nn.Linear(6, 4 + rank)})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        pruner = bs.Pruner(model, optimizer, schedule=EVERY, process_group=dist.group.WORLD, **options)
        for now in (1, 2):
            if now == 2:
                pruner.step()
            model[f"layer{rank}"](batch(10 * rank + now, 6)).square().mean().backward()
            optimizer.step()
        return model, optimizer, pruner

    sizes = {f"layer{each}.weight": 6 * (4 + each) for each in range(size)}
    for culprit in range(size):
        name = f"layer{culprit}.weight"
        model, optimizer, pruner = stage()
        weight = model[f"layer{rank}"].weight
        kept = optimizer.state[weight]["exp_avg_sq"]
        if rank == culprit:
            del optimizer.state[weight]["exp_avg_sq"]
        with all_raise(bs.MissingStateError, f"'{name}' has no exp_avg_sq", culprit):
            pruner.step()
        optimizer.state[weight]["exp_avg_sq"] = kept
        event = pruner.step()
        assert event is not None
        assert (event.skipped, event.total) == ((), sum(sizes.values()))
        assert set(event.per_tensor) == set(sizes)

        model, optimizer, pruner = stage(missing="skip")
        weight = model[f"layer{rank}"].weight
        if rank == culprit:
            del optimizer.state[weight]["exp_avg_sq"]
        event = pruner.step()
        assert event is not None
        rest = sum(sizes.values()) - sizes[name]
        assert (event.skipped, event.total, event.pruned) == ((name,), rest, round(rest / 2))
        assert event.achieved_sparsity_all == event.pruned / sum(sizes.values())
        assert bool(pruner.masks.packed) == (rank != culprit)

        model, optimizer, pruner = stage()
        first = pruner.step()
        weight = model[f"layer{rank}"].weight
        weight.requires_grad_(rank != culprit)  # what was pruned of it stays pruned
        second = pruner.step()
        assert first is not None and second is not None
        assert second.skipped == (name,)
        pruned = round(first.per_tensor[name] * sizes[name]) + second.pruned
        assert second.achieved_sparsity_all == pruned / sum(sizes.values())
        all_left = stage(missing="skip")
        for state in all_left[1].state.values():
            del state["exp_avg_sq"]
        with all_raise(bs.MissingStateError, f"not one of the {size} targets"):
            all_left[2].step()


def gradients_that_growth_cannot_read_on_one_rank(rank: int, size: int) -> None:
    """A missing one, and a NaN, which the second of the two decisions finds."""
    for culprit in range(size):
        for scope in ("global", "tensor"):
            model, optimizer, pruner = prepared(scorer="magnitude", scope=scope, regrow=bs.RigL(0.5, end=200))
            weight = model.b.weight
            grad = weight.grad
            if rank == culprit:
                weight.grad = None
            text = "'b.weight' has no gradient"
            with all_raise(bs.MissingStateError, text, culprit), unchanged(model, optimizer, pruner):
                pruner.step()
            weight.grad = grad
            kept = here(grad).clone()
            if rank == 0:
                here(grad).fill_(torch.nan)
            with all_raise(bs.NonFiniteScoreError, "b.weight"), unchanged(model, optimizer, pruner):
                pruner.step()
            here(grad).copy_(kept)
            event = pruner.step()
            assert event is not None and event.grown and event.pruned == event.k
            require_held(model, optimizer, pruner)
