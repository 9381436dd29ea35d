"""A Pruner over ranks: by strategy, each event against the gathered model in one process."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from bittersweet.select.regrowing import regrow_masks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
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
    shared_folder,
    train,
)


def fsdp2(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    events = train(model, optimizer, pruner, number=rank)
    assert [event.ranks for event in events] == [size] * 3
    assert all(event.rounds and event.bytes_sent for event in events)
    require_replicas(model)
    shapes = [tuple(here(model.get_parameter(f"{name}.weight")).shape) for name in ("b", "c", "one")]
    assert ("of it on this rank" in str(pruner.plan())) and "b.weight" in str(pruner.plan())
    rows = {2: [(13, 2, 1), (13, 1, 0)], 4: [(7, 1, 1), (7, 1, 0), (7, 1, 0), (5, 0, 0)]}[size][rank]
    assert [shape[0] for shape in shapes] == list(rows)


def fsdp2_with_the_masks_in_the_step(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer: Any = masked_adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    train(model, optimizer, pruner, number=rank)
    empty = sum(not here(model.get_parameter(name)).numel() for name in pruner.masks)
    assert (optimizer.held.in_step, optimizer.held.after_step) == (4 - empty, empty)
    assert set(optimizer.held.reasons) <= {"it is empty"}
    with torch.no_grad():
        model.b.weight.add_(1.0)  # a DTensor's own version is raised, and not that of the part
    pruner.step()
    require_held(model, optimizer, pruner)


def fsdp2_gives_the_weights_of_torchs_own_step(rank: int, size: int) -> None:
    found = []
    for make in (lambda model: adamw(model, fused=True), masked_adamw):
        model = sharded(net())
        optimizer = make(model)
        train(model, optimizer, bs.Pruner(model, optimizer, schedule=RAMP), number=rank)
        found.append([full(parameter.detach()) for parameter in model.parameters()])
    equal = bs.optim.equals_torch()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other) if equal else torch.allclose(one, other)


def fsdp2_with_every_form_of_the_step(rank: int, size: int) -> None:
    for options in ({"foreach": True}, {"foreach": False}, {"fused": True}, {"amsgrad": True}):
        model = sharded(net())
        optimizer = adamw(model, **options)
        train(model, optimizer, bs.Pruner(model, optimizer, schedule=RAMP), number=rank)


def fsdp2_with_other_scorers(rank: int, size: int) -> None:
    for scorer in ("magnitude", "gradient", "bitter3"):
        model = sharded(net())
        optimizer = adamw(model)
        pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=RAMP)
        train(model, optimizer, pruner, number=rank, scorer=scorer)


def fsdp2_in_bfloat16_with_many_ties(rank: int, size: int) -> None:
    model = sharded(net(dtype=torch.bfloat16))
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=RAMP)
    events = train(model, optimizer, pruner, number=rank, scorer="magnitude")
    assert any((event.count_equal or 0) > 1 for event in events)


def fsdp2_in_another_order(rank: int, size: int) -> None:
    """Among equal scores what comes first in `order` goes first."""
    order = ["one.weight", "c.weight", "b.weight", "a.weight"]
    found = []
    for given in (None, order):
        model = sharded(net())
        with torch.no_grad():
            for name in order:
                here(model.get_parameter(name)).fill_(0.5)
        pruner = bs.Pruner(model, adamw(model), scorer="magnitude", schedule=bs.OneShot(0.25, 1), order=given)
        items = [bs.ScoreInputs(full(model.get_parameter(n).detach()), name=n) for n in given or order[::-1]]
        expected = bs.make_masks(items, sparsity=0.25, scorer="magnitude")
        event = pruner.step()
        assert event is not None
        for mask in expected:
            assert torch.equal(full(pruner.masks[mask.name]), mask.bool()), mask.name
        found.append(event.per_tensor)
    assert found[0]["one.weight"] == 0.0
    assert found[1]["one.weight"] == 1.0


def fsdp2_with_mixed_precision(rank: int, size: int) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(net(), mp_policy=policy)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    train(model, optimizer, pruner, number=rank)
    assert here(model.b.weight).dtype == torch.float32


def fsdp2_by_other_scopes(rank: int, size: int) -> None:
    options: list[dict[str, Any]] = [
        {"scope": "tensor"},
        {"scope": "tensor", "distribution": "erk"},
        {"scope": "row"},
        {"max_tensor_sparsity": 0.85},
        {"tensor_sparsity": {"a": (0, 0.7), "*": (0, 0.95)}},
    ]
    for given in options:
        model = sharded(net())
        optimizer = adamw(model)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP, **given)
        events, schedule = [], RAMP
        for now in range(1, STEPS + 1):
            backward(model, 1000 * rank + now)
            optimizer.step()
            due, sparsity = schedule(now)
            if due:
                expected = bs.make_masks(inputs_of(model, optimizer, pruner), sparsity=sparsity, **given)
            event = pruner.step()
            if due:
                assert event is not None
                assert (event.pruned, event.per_tensor) == (expected.event.pruned, expected.event.per_tensor)
                for mask in expected:
                    assert torch.equal(full(pruner.masks[mask.name]), mask.bool()), (given, mask.name)
                events.append(event)
            optimizer.zero_grad()
        require_held(model, optimizer, pruner)
        assert len(events) == 3


def fsdp2_rewound(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    early = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = {name: full(value).clone() for name, value in early.items()}
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    train(model, optimizer, pruner, number=rank)
    whole = {name: torch.zeros_like(value) for name, value in wanted.items()}
    before = {name: full(value).clone() for name, value in model.state_dict().items()}
    try:
        pruner.rewind_to(whole)
        raise AssertionError("whole tensors were taken for parts")
    except bs.LayoutError as error:
        assert "DTensors laid out like the model's" in str(error)
    assert all(torch.equal(full(value), before[name]) for name, value in model.state_dict().items())
    pruner.rewind_to(early)
    for name, value in model.state_dict().items():
        keep = full(pruner.masks[name]) if name in pruner.masks else True
        expected = wanted[name] * keep if keep is not True else wanted[name]
        assert torch.equal(full(value), expected), name
    backward(model, rank)
    optimizer.step()
    pruner.step()
    require_held(model, optimizer, pruner)


def fsdp2_by_globs(rank: int, size: int) -> None:
    model = sharded(net())
    optimizer = adamw(model)
    schedules = {"a.*": bs.OneShot(0.8, 2), "[bc].*": bs.OneShot(0.5, 2)}
    pruner = bs.Pruner(model, optimizer, schedule=schedules)
    for now in (1, 2):
        backward(model, 1000 * rank + now)
        optimizer.step()
        if now == 2:
            items = {item.name: item for item in inputs_of(model, optimizer, pruner)}
            first = bs.make_masks([items["a.weight"]], sparsity=0.8)
            second = bs.make_masks([items["b.weight"], items["c.weight"]], sparsity=0.5)
        event = pruner.step()
        optimizer.zero_grad()
    assert event is not None
    assert event.dense == ("one.weight",)
    for mask in (*first, *second):
        assert torch.equal(full(pruner.masks[mask.name]), mask.bool()), mask.name
    assert event.groups["a.*"]["threshold"] == first.event.threshold
    assert event.groups["[bc].*"]["pruned"] == second.event.pruned
    pruned = first.event.pruned + second.event.pruned
    assert event.achieved_sparsity_all == pruned / sum(item.weight.numel() for item in items.values())


def fsdp2_says_nothing_to_other_ranks_between_events(rank: int, size: int) -> None:
    for make in (adamw, masked_adamw):
        for hold in ("auto", "weights", "grads"):
            if hold == "grads" and make is masked_adamw:
                continue
            model = sharded(net())
            optimizer = make(model)
            pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold)
            for now in range(1, STEPS + 1):
                backward(model, 1000 * rank + now)
                with no_collectives():
                    pruner.mask_grads_()
                    optimizer.step()
                    if not RAMP(now)[0]:
                        assert pruner.step() is None
                if RAMP(now)[0]:
                    assert pruner.step() is not None
                optimizer.zero_grad()
                require_held(model, optimizer, pruner)
            with no_collectives():
                pruner.sparsity()
                pruner.report()
                pruner.state_dict()
                pruner.finalize()


def without_a_group_nobody_is_asked(rank: int, size: int) -> None:
    """Not even at events, although the processes could talk: as before there were groups."""
    for scorer in ("bitter7", "bitter10s", "movement"):
        inner = net()
        model = DistributedDataParallel(inner)
        optimizer = adamw(model)
        with no_collectives():
            schedule = bs.Linear(0.2, 0.8, begin_step=4, end_step=8, frequency=2)
            pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=schedule)
        for now in range(1, STEPS + 1):
            backward(model, 1000 * rank + now)
            with no_collectives():
                optimizer.step()
                pruner.step()
            optimizer.zero_grad()
        with no_collectives():
            pruner.full_state_dict()
            pruner.finalize()
        assert [event.ranks for event in pruner.history] == [None] * 3
        require_replicas(inner)


def data_parallel(rank: int, size: int) -> None:
    runs = []
    for group in (None, dist.group.WORLD):
        inner = net(seed=rank)  # DistributedDataParallel broadcasts the first one's
        model = DistributedDataParallel(inner)
        optimizer = adamw(model)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP, process_group=group)

        def step(_: nn.Module, number: int, model: nn.Module = model) -> None:
            backward(model, number)

        events = train(inner, optimizer, pruner, number=rank, step=step)
        assert {event.ranks for event in events} == ({None} if group is None else {size})
        require_replicas(inner)
        runs.append([parameter.detach().clone() for parameter in inner.parameters()])
    assert all(map(torch.equal, *runs))


def data_parallel_with_spread_state(rank: int, size: int) -> None:
    for scorer, group in (
        ("bitter7", dist.group.WORLD),
        ("magnitude", None),
        ("magnitude", dist.group.WORLD),
    ):
        inner = net(seed=rank)
        model = DistributedDataParallel(inner)
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-2, weight_decay=0.1
        )
        plain = net(seed=0)
        pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=RAMP, process_group=group)
        alone = adamw(plain)
        reference = bs.Pruner(plain, alone, scorer=scorer, schedule=RAMP)
        for now in range(1, STEPS + 1):
            for number in range(size):  # what the ranks see together
                (plain(batch(1000 * number + now)).square().mean() / size).backward()
            backward(model, 1000 * rank + now)
            for parameter, other in zip(plain.parameters(), inner.parameters(), strict=True):
                assert parameter.grad is not None and other.grad is not None
                parameter.grad.copy_(other.grad)  # summed in another order
            optimizer.step()
            alone.step()
            event, expected = pruner.step(), reference.step()
            if expected is not None:
                assert event is not None
                for key in ("threshold", "pruned", "count_below", "per_tensor", "churn"):
                    assert getattr(event, key) == getattr(expected, key), key
            for name in reference.masks:
                assert torch.equal(pruner.masks[name], reference.masks[name]), name
            if pruner.history:
                require_held(inner, optimizer, pruner)
            for parameter, other in zip(plain.parameters(), inner.parameters(), strict=True):
                assert torch.equal(parameter, other)
            optimizer.zero_grad()
            alone.zero_grad()
        assert len(pruner.history) == 3
        require_replicas(inner)


class Stage(nn.Module):
    """One half of a model; both halves know the names of the whole."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        whole = net()
        self.first = first
        if first:
            self.a, self.b = whole.a, whole.b
        else:
            self.c, self.one = whole.c, whole.one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            return torch.tanh(self.b(torch.tanh(self.a(x))))
        return self.one(torch.tanh(self.c(x)))


def pipeline(rank: int, size: int) -> None:
    """Two stages; on four ranks each is spread over two by fully_shard."""
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("stages", "shards"))
    stage, within = mesh["stages"].get_local_rank(), mesh["shards"].get_local_rank()
    model: nn.Module = Stage(stage == 0)
    if size > 2:
        fully_shard(model, mesh=mesh["shards"])
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, process_group=dist.group.WORLD)
    other = mesh["stages"].get_group()
    peer = dist.get_global_rank(other, 1 - stage)
    for now in range(1, STEPS + 1):
        between = torch.zeros(8, 26)
        if stage == 0:
            out = model(batch(1000 * within + now))
            dist.send(out.detach(), peer)
            dist.recv(between, peer)
            out.backward(between)
        else:
            dist.recv(between, peer)
            between.requires_grad_()
            model(between).square().mean().backward()
            assert between.grad is not None
            dist.send(between.grad, peer)
        optimizer.step()
        due, sparsity = RAMP(now)
        if due:
            own = inputs_of(model, optimizer, pruner)
            plain = [(item.name, item.weight, item.exp_avg_sq, item.mask) for item in own]
            told: list[Any] = [None] * size
            dist.all_gather_object(told, plain)
            whole = [
                bs.ScoreInputs(weight, exp_avg_sq=v, mask=mask, name=name)
                for name, weight, v, mask in (*told[0], *told[-1])
            ]
            expected = bs.make_masks(whole, sparsity=sparsity)
        event = pruner.step()
        if due:
            assert event is not None
            mine = [mask for mask in expected if mask.name in pruner.masks]
            assert len(mine) == 2
            mine_only = type(expected)(mine, expected.event)
            require_same(event, pruner, mine_only)
            require_held(model, optimizer, pruner)
        optimizer.zero_grad()
    assert len(pruner.history) == 3
    state = pruner.full_state_dict()
    assert list(state["masks"] if rank == 0 else []) == (
        ["a.weight", "b.weight", "c.weight", "one.weight"] if rank == 0 else []
    )
    states: list[Any] = [state]
    dist.broadcast_object_list(states, src=0)
    with shared_folder() as folder:
        dcp.save({"pruner": pruner}, checkpoint_id=folder)
        for load in (
            lambda again: again.load_state_dict(states[0]),
            lambda again: dcp.load({"pruner": again}, checkpoint_id=folder),
        ):
            again = bs.Pruner(model, optimizer, schedule=RAMP, process_group=dist.group.WORLD)
            load(again)
            assert again.steps == STEPS and len(again.history) == 3
            for name, mask in pruner.masks.items():
                assert torch.equal(full(again.masks[name]), full(mask))


def experts_by_shard(rank: int, size: int) -> None:
    """Each rank has some of the experts as a plain tensor, and a copy of the rest of the model."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(5)
            whole = torch.randn(size * 2, 13, 6)
            self.up = nn.Parameter(whole[2 * rank : 2 * rank + 2].clone())
            self.out = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.einsum("bi,eio->bo", x, self.up))

    model = Experts()
    optimizer = adamw(model)
    shard = bs.Shard(shape=(2 * size, 13, 6), offset=(2 * rank, 0, 0))
    pruner = bs.Pruner(
        model, optimizer, schedule=RAMP, targets=["up", "out.weight"], in_dim={"up": 1},
        process_group=dist.group.WORLD, shards={"up": shard},
    )  # fmt: skip
    for now in range(1, STEPS + 1):
        model(batch(1000 * rank + now)).square().mean().backward()
        for parameter in model.out.parameters():
            dist.all_reduce(parameter.grad)
        optimizer.step()
        due, sparsity = RAMP(now)
        if due:
            state, masks = optimizer.state[model.up], pruner.masks["up"]
            told: list[Any] = [None] * size
            dist.all_gather_object(told, (model.up.detach(), state["exp_avg_sq"], masks))
            weight, v, mask = (torch.cat(parts) for parts in zip(*told, strict=True))
            second = inputs_of(model, optimizer, pruner)[1]
            first = bs.ScoreInputs(weight, exp_avg_sq=v, mask=mask, name="up")
            expected = bs.make_masks([first, second], sparsity=sparsity)
        event = pruner.step()
        if due:
            assert event is not None
            assert event.threshold == expected.event.threshold
            assert event.per_tensor == expected.event.per_tensor
            assert torch.equal(pruner.masks["up"], expected["up"].bool()[2 * rank : 2 * rank + 2])
            assert torch.equal(pruner.masks["out.weight"], expected["out.weight"].bool())
            require_held(model, optimizer, pruner)
        optimizer.zero_grad()
    assert len(pruner.history) == 3
    saved = pruner.state_dict()
    assert f"up[{2 * rank}:{2 * rank + 2}, 0:13, 0:6]" in saved["masks"]
    again = bs.Pruner(
        model, optimizer, schedule=RAMP, targets=["up", "out.weight"], in_dim={"up": 1},
        process_group=dist.group.WORLD, shards={"up": shard},
    )  # fmt: skip
    again.load_state_dict(saved)
    assert torch.equal(again.masks["up"], pruner.masks["up"])
    states: list[Any] = [pruner.full_state_dict()]
    dist.broadcast_object_list(states, src=0)
    again.load_state_dict(states[0])
    assert torch.equal(again.masks["up"], pruner.masks["up"])
    with shared_folder() as folder:
        dcp.save({"pruner": pruner}, checkpoint_id=folder)
        pruner.load_masks({"up": torch.zeros(2 * size, 13, 6, dtype=torch.bool)})
        assert not pruner.masks["up"].any()
        dcp.load({"pruner": pruner}, checkpoint_id=folder)
    assert torch.equal(again.masks["up"], pruner.masks["up"])


def fsdp2_grows_by_another_score(rank: int, size: int) -> None:
    """RigL and SET: as one process that holds the gathered model, in every scope; opened weights from 0."""
    ways: list[tuple[Any, dict[str, Any]]] = [
        (bs.RigL(0.5), {}),
        (bs.RigL(0.5), {"scope": "tensor"}),
        (bs.RigL(0.5), {"scope": "tensor", "distribution": "erk"}),
        (bs.SET(0.5, seed=3), {}),
        (bs.SET(0.5), {"scope": "tensor", "distribution": "erk"}),
    ]
    schedule = bs.ConstantSparsity(0.6, begin_step=2, end_step=6, frequency=2)
    for make, some in ((adamw, ways), (masked_adamw, ways[:1])):
        for regrow, options in some:
            model = sharded(net())
            optimizer = make(model)
            given: dict[str, Any] = {"scorer": "magnitude", "schedule": schedule, "regrow": regrow, **options}
            pruner = bs.Pruner(model, optimizer, **given)
            fresh = inputs_of(model, optimizer, pruner)
            expected = bs.make_masks(fresh, sparsity=0.6, **{**options, "scorer": "random"})
            require_same(pruner.start(), pruner, expected)
            for now in range(1, 8):
                backward(model, 1000 * rank + now)
                optimizer.step()
                items = inputs_of(model, optimizer, pruner)
                event = pruner.step()
                if event is not None:
                    settings = pruner._loop.settings
                    growth = settings._growth(now, "")
                    assert growth is not None
                    masks, wanted = regrow_masks(items, settings.options(0.6), growth)
                    for key in ("k", "pruned", "churn", "per_tensor", "dropped", "grown", "drop_fraction"):
                        assert getattr(event, key) == getattr(wanted, key), key
                    assert now == 6 or event.grown
                    for mask in masks:
                        assert torch.equal(full(pruner.masks[mask.name]), mask.bool()), mask.name
                require_held(model, optimizer, pruner)
                optimizer.zero_grad()
            assert [one.step for one in pruner.history] == [0, 2, 4, 6]
