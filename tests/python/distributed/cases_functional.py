"""The functions over real ranks: equal to those of the gathered model, bit for bit."""

from __future__ import annotations

import copy
import pickle
import tempfile
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks_events import require_equal_events
from ranks_support import (
    BUILDS,
    full,
    gathered,
    inputs,
    net,
    require_equal_masks,
    train,
    weights,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial, distribute_tensor
from torch.distributed.tensor import Shard as Split


def _compare(build: str, dtype: torch.dtype, **options: Any) -> None:
    model = BUILDS[build](net(dtype))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 3)
    masks = None
    for sparsity in (0.3, 0.6):
        items = inputs(model, optimizer, masks)
        whole = gathered(items)
        expected = bs.make_masks(whole, sparsity=sparsity, **options)
        found = bs.make_masks(items, sparsity=sparsity, **options)
        assert found.event is not None and expected.event is not None
        require_equal_events(found.event, expected.event)
        require_equal_masks(found, expected, items)
        if not options.keys() & {"scope", "max_tensor_sparsity"}:
            one, other = (bs.threshold(each, sparsity=sparsity, **options) for each in (items, whole))
            for field in ("value", "k", "count_below", "count_equal", "pruned", "total", "dead"):
                assert getattr(one, field) == getattr(other, field), field
        event = bs.prune_(items, sparsity=sparsity, mask_optimizer_state=True, **options)
        require_equal_events(event, expected.event)
        bs.prune_(whole, sparsity=sparsity, mask_optimizer_state=True, **options)
        for item, alone in zip(items, whole, strict=True):
            for role in ("weight", "exp_avg", "exp_avg_sq", "grad"):
                assert torch.equal(full(getattr(item, role)), getattr(alone, role)), (item.name, role)
        masks = {mask.name: mask if sparsity < 0.5 else mask.dtensor() for mask in found}


def fsdp(rank: int, size: int) -> None:
    _compare("fsdp", torch.float32)


def fsdp_in_half_precision(rank: int, size: int) -> None:
    _compare("fsdp", torch.bfloat16)
    _compare("fsdp", torch.bfloat16, scorer="magnitude")


def fsdp_over_tensor_parallel(rank: int, size: int) -> None:
    _compare("fsdp_tp", torch.float32)
    _compare("fsdp_tp", torch.bfloat16, scorer="magnitude")


def hsdp(rank: int, size: int) -> None:
    _compare("hsdp", torch.float32)
    _compare("hsdp", torch.bfloat16, scorer="magnitude", ties="below")


def other_scorers_and_ties(rank: int, size: int) -> None:
    _compare("fsdp", torch.float32, scorer="gradient")
    _compare("fsdp", torch.float32, scorer="bitter8_bias_corrected", ties="at_or_below")
    _compare("fsdp", torch.float32, scorer=bs.Random(), seed=3)
    _compare("fsdp", torch.float32, scorer="bitter3", regrow=True)


def scopes(rank: int, size: int) -> None:
    _compare("fsdp", torch.float32, scope="tensor")
    _compare("fsdp", torch.float32, scope="tensor", distribution="erk")
    _compare("fsdp", torch.float32, scope="row", scorer="magnitude")
    _compare("fsdp", torch.float32, max_tensor_sparsity=0.7)
    _compare("fsdp", torch.float32, tensor_sparsity={"a*": (0.1, 0.62), "b*": (0.25, 1)})
    _compare_masks("fsdp", scope="2:4", remainder="keep", scorer="magnitude")


def _compare_masks(build: str, **options: Any) -> None:
    model = BUILDS[build](net())
    items = [bs.ScoreInputs(weight, name=name) for name, weight in weights(model)]
    expected, found = bs.make_masks(gathered(items), **options), bs.make_masks(items, **options)
    assert found.event is not None and expected.event is not None
    require_equal_events(found.event, expected.event)
    require_equal_masks(found, expected, items)


def norms_of_inputs(rank: int, size: int) -> None:
    """WANDA: each rank takes the norms of its part from those of the whole."""
    for build in ("fsdp", "fsdp_tp"):
        model = BUILDS[build](net())
        items = []
        for place, (name, weight) in enumerate(weights(model)):
            norm = torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(place))
            items.append(bs.ScoreInputs(weight, input_norm=norm, name=name))
        expected = bs.make_masks(gathered(items), sparsity=0.5, scorer="wanda")
        found = bs.make_masks(items, sparsity=0.5, scorer="wanda")
        assert found.event is not None and expected.event is not None
        require_equal_events(found.event, expected.event)
        require_equal_masks(found, expected, items)


def norms_of_models(rank: int, size: int) -> None:
    """The same of a module, in one sequence and by rows."""
    alone = net()
    norms = {
        name: torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(place))
        for place, (name, weight) in enumerate(weights(alone))
    }
    for build, options in (("fsdp", {}), ("fsdp", {"scope": "row"}), ("fsdp_tp", {})):
        model = BUILDS[build](net())
        expected = bs.make_masks(alone, sparsity=0.5, scorer="wanda", input_norms=norms, **options)
        found = bs.make_masks(model, sparsity=0.5, scorer="wanda", input_norms=norms, **options)
        assert found.event is not None and expected.event is not None
        require_equal_events(found.event, expected.event)
        assert all(torch.equal(full(found[name]), mask) for name, mask in expected.items())


def whole_models(rank: int, size: int) -> None:
    """The functions of a module, with and without an optimizer, in one budget and by glob; `sparsity`."""
    for build in BUILDS:
        for sparsity in (0.5, {"a": 0.25, "b": 0.75}):
            alone = net()
            model = BUILDS[build](net())
            optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-2) for one in (alone, model)]
            train(model, optimizers[1], 2)
            _copy(model, optimizers[1], alone, optimizers[0])
            expected = bs.make_masks(alone, sparsity=sparsity, optimizer=optimizers[0])
            found = bs.make_masks(model, sparsity=sparsity, optimizer=optimizers[1])
            assert list(found) == list(expected)
            for name, mask in expected.items():
                assert torch.equal(full(found[name]), mask), name
            assert found.event is not None and expected.event is not None
            require_equal_events(found.event, expected.event)
            assert found.event.dense == expected.event.dense
            assert found.event.achieved_sparsity_all == expected.event.achieved_sparsity_all
            if not isinstance(sparsity, dict):
                one = bs.threshold(model, sparsity=sparsity, optimizer=optimizers[1])
                assert one.value == expected.event.threshold
            events = [
                bs.prune_(one, sparsity=sparsity, optimizer=by, mask_optimizer_state=True)
                for one, by in zip((alone, model), optimizers, strict=True)
            ]
            require_equal_events(events[1], events[0])
            zeros, counted = bs.sparsity(alone), bs.sparsity(model)
            assert counted.to_dict() == zeros.to_dict()
            for (name, one), (_, other) in zip(weights(alone), weights(model), strict=True):
                assert torch.equal(full(other), one.detach()), name
                states = optimizers[0].state[one], optimizers[1].state[other]
                assert torch.equal(states[0]["exp_avg"], full(states[1]["exp_avg"])), name
            broken = bs.count_violations(model, found)
            assert set(broken) == set(expected) and not any(broken.values())
            bs.apply_masks_(model, {name: torch.zeros_like(mask) for name, mask in expected.items()})
            assert bs.sparsity(model).matrices.zero == 1.0


def _copy(model: Any, optimizer: Any, alone: Any, other: Any) -> None:
    """Makes a model and its optimizer what ranks hold together."""
    for one, whole in zip(model.parameters(), alone.parameters(), strict=True):
        with torch.no_grad():
            whole.copy_(full(one))
        other.state[whole] = {name: full(value) for name, value in optimizer.state[one].items()}


def evaluated_models(rank: int, size: int) -> None:
    """A forward pass leaves weights gathered: what is pruned then reaches the next forward pass."""
    model = BUILDS["fsdp"](net())
    x = torch.ones(2, 22)
    with torch.no_grad():
        before = model(x)
        assert bs.sparsity(model).matrices.zero == 0.0
        model(x)
        bs.prune_(model, sparsity=1.0)
        assert bs.sparsity(model).matrices.zero == 1.0
        assert torch.equal(model(x), torch.zeros(2, 1)) and not torch.equal(before, torch.zeros(2, 1))


def masks_in_files(rank: int, size: int) -> None:
    """A file has whole masks; a rank's own are refused by name, and gathered ones are taken back."""
    model = BUILDS["fsdp"](net())
    masks = bs.make_masks(model, sparsity=0.5)
    for given in (masks, dict(masks), masks.packed):
        with pytest.raises(bs.LayoutError, match=r"masks: of 'a\.weight'.*full_tensor"):
            bs.save_masks("nowhere", given)
    whole = {name: mask.full_tensor() for name, mask in masks.items()}
    with tempfile.TemporaryDirectory() as folder:
        bs.save_masks(f"{folder}/masks", whole)
        loaded = bs.load_masks(f"{folder}/masks")
    bs.apply_masks_(model, loaded)
    again = bs.make_masks(model, sparsity=0.5, masks=loaded)
    for name, mask in masks.items():
        assert torch.equal(full(again[name]), full(mask))


def shards_by_hand(rank: int, size: int) -> None:
    """Arrays of NumPy and tensors that torch knows nothing of, and replicas beside them."""
    rng = np.random.default_rng(5)
    whole = [rng.standard_normal(shape).astype(np.float32) for shape in ((7, 9), (3, 5, 4), (11,))]
    whole[1].flat[::3] = whole[0].flat[4]
    for make in (np.copy, lambda array: torch.from_numpy(array.copy())):
        items = []
        for place, array in enumerate(whole[:2]):
            low, high = (len(array) * at // size for at in (rank, rank + 1))
            shard = bs.Shard(array.shape, (low, *([0] * (array.ndim - 1))))
            items.append(bs.ScoreInputs(make(array[low:high]), name=f"w{place}", shard=shard))
        items.append(bs.ScoreInputs(make(whole[2]), name="w2"))
        alone = [bs.ScoreInputs(make(array), name=f"w{place}") for place, array in enumerate(whole)]
        expected = bs.make_masks(alone, sparsity=0.5, scorer="magnitude")
        found = bs.make_masks(items, sparsity=0.5, scorer="magnitude", process_group=dist.group.WORLD)
        assert found.event is not None and expected.event is not None
        assert found.event.ranks == size
        require_equal_events(found.event, expected.event)
        for mask, of_all, item in zip(found, expected, items, strict=True):
            bits = np.asarray(of_all.bool())
            if item.shard is not None:
                bits = bits[item.shard.offset[0] : item.shard.offset[0] + mask.shape[0]]
            assert np.array_equal(np.asarray(mask.bool()), bits)


def a_stage_of_each_rank(rank: int, size: int) -> None:
    """A pipeline: each rank has tensors of its own, and one has none; the order is that of positions."""
    rng = np.random.default_rng(9)
    whole = [np.round(rng.standard_normal((5, 4 + place)), 1).astype(np.float32) for place in range(2 * size)]
    alone = [bs.ScoreInputs(array.copy(), name=f"w{place}") for place, array in enumerate(whole)]
    expected = bs.make_masks(alone, sparsity=0.5, scorer="magnitude")
    items = [
        bs.ScoreInputs(
            whole[place].copy(), name=f"w{place}", shard=bs.Shard(whole[place].shape, (0, 0), position=place)
        )
        for place in range(2 * size)
        if place % (size - 1 or 1) == rank
    ]
    assert (rank < size - 1) == bool(items) or size == 2
    found = bs.make_masks(items, sparsity=0.5, scorer="magnitude", process_group=dist.group.WORLD)
    assert found.event is not None and expected.event is not None
    require_equal_events(found.event, expected.event)
    for mask in found:
        assert mask == expected[mask.name]


def without_a_group(rank: int, size: int) -> None:
    """No DTensor and no group: ranks do not talk, and what one does is its own."""
    calls: list[Any] = []
    kept = dist.all_reduce, dist.all_gather_object
    dist.all_reduce = dist.all_gather_object = lambda *rest, **named: calls.append(rest)
    try:
        weight = torch.randn(5, 4 + rank)
        event = bs.prune_(bs.ScoreInputs(weight), sparsity=0.5, scorer="magnitude")
        bs.make_masks(net(), sparsity=0.5)
        bs.sparsity(net())
    finally:
        dist.all_reduce, dist.all_gather_object = kept
    assert not calls and event.ranks is None and event.total == weight.numel()


def copies(rank: int, size: int) -> None:
    """Plain weights, of which every rank has a copy: a group proves that they are alike."""
    model, group = net(), dist.group.WORLD
    expected = bs.make_masks(model, sparsity=0.5)
    found = bs.make_masks(model, sparsity=0.5, process_group=group)
    assert found.event is not None and expected.event is not None and found.event.ranks == size
    require_equal_events(found.event, expected.event)
    assert all(torch.equal(found[name], mask) for name, mask in expected.items())
    assert bs.sparsity(model, process_group=group).to_dict() == bs.sparsity(model).to_dict()
    if rank == size - 1:
        with torch.no_grad():
            model.b.weight.copy_(model.b.weight.flip(0))
    before = model.b.weight.detach().clone()
    with pytest.raises(bs.ReplicasDiffer, match=r"'b\.weight'"):
        bs.prune_(model, sparsity=0.5, process_group=group)
    assert torch.equal(model.b.weight, before)


def what_one_rank_lacks(rank: int, size: int) -> None:
    """A model whose optimizer lacks something on one rank: raised on all, or left out by all."""
    model, group = net(), dist.group.WORLD
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 2)
    if rank == 1:
        del optimizer.state[model.b.weight]
    text = (
        r"parameter 'b\.weight' has no exp_avg_sq"
        if rank == 1
        else r"on rank 1: parameter 'b\.weight' has no"
    )
    with pytest.raises(bs.MissingStateError, match=text):
        bs.prune_(model, sparsity=0.5, optimizer=optimizer, process_group=group)
    with pytest.raises(bs.RanksDisagree, match="ranks disagree about skipped tensors: none on rank"):
        bs.prune_(model, sparsity=0.5, optimizer=optimizer, process_group=group, missing="skip")
    optimizer.state.pop(model.b.weight, None)
    event = bs.prune_(model, sparsity=0.5, optimizer=optimizer, process_group=group, missing="skip")
    assert event.skipped == ("b.weight",) and event.total == sum(
        one.numel() for name, one in weights(model) if name != "b.weight"
    )
    total = sum(one.numel() for _, one in weights(model))
    assert event.achieved_sparsity_all == event.pruned / total
    assert bool((model.b.weight != 0).all())


def what_is_wrong_on_one_rank(rank: int, size: int) -> None:
    """Options, and states that cannot be written: raised on all, and nothing is written anywhere."""
    model, group = net(), dist.group.WORLD
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 2)
    before = copy.deepcopy(model.state_dict())
    by_glob = {"a.*": 0.5}
    wrong: list[tuple[Any, str, dict[str, Any]]] = [
        (bs.prune_, "sparsity", {"sparsity": 1.5}),
        (bs.make_masks, "k", {"sparsity": None, "k": -1}),
        (bs.threshold, "nonfinite", {"nonfinite": "no"}),
        (bs.prune_, "mask_optimizer_state", {"mask_optimizer_state": 3}),
        (bs.prune_, "k", {"sparsity": by_glob, "k": 3}),
        (bs.make_masks, "sparsity", {"sparsity": {"nothing.*": 0.5}}),
    ]
    for function, text, options in wrong:
        given = {"sparsity": 0.5} | (options if rank == 1 else {})
        with pytest.raises(bs.ArgumentError, match=text if rank == 1 else f"on rank 1: {text}"):
            function(model, process_group=group, **given)
    if rank == 1:
        state = optimizer.state[model.b.weight]
        state["exp_avg"] = state["exp_avg"].to(torch.float64)
    with pytest.raises(bs.DTypeError, match="exp_avg"):
        bs.prune_(
            model,
            sparsity=0.5,
            optimizer=optimizer,
            scorer="magnitude",
            mask_optimizer_state=True,
            process_group=group,
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    bs.prune_(model, sparsity=0.5, process_group=group)


def unfit_layouts(rank: int, size: int) -> None:
    """States and masks that do not lie as their weight does, on one rank's word for all."""
    mesh = init_device_mesh("cpu", (size,))
    weight = distribute_tensor(torch.randn(8, 12), mesh, [Split(0)])
    beside = distribute_tensor(torch.rand(8, 12), mesh, [Split(1)])
    with pytest.raises(bs.LayoutError, match=r"exp_avg_sq of 'w' is a DTensor.*both must be laid out alike"):
        bs.make_masks(bs.ScoreInputs(weight, exp_avg_sq=beside, name="w"), sparsity=0.5)
    with pytest.raises(bs.LayoutError, match="mask of 'w' is a DTensor"):
        bs.apply_masks_(bs.ScoreInputs(weight, name="w"), beside > 0.5)
    partial = DTensor.from_local(torch.randn(8, 12), mesh, [Partial()])
    with pytest.raises(bs.LayoutError, match=r"'w' is a DTensor placed as \(Partial.*still to be"):
        bs.make_masks(bs.ScoreInputs(partial, name="w"), sparsity=0.5, scorer="magnitude")
    with pytest.raises(bs.LayoutError, match="is a DTensor, of which this process holds a part"):
        bs.score(weight, "magnitude")
    with pytest.raises(bs.ShapeError, match=r"'row' needs whole output rows.*'w'"):
        bs.make_masks(bs.ScoreInputs(beside, name="w"), sparsity=0.5, scorer="magnitude", scope="row")
    with pytest.raises(bs.ShapeError, match=r"'random' numbers elements by their position.*'w'"):
        bs.make_masks(bs.ScoreInputs(beside, name="w"), sparsity=0.5, scorer="random")
    with pytest.raises(bs.ArgumentError, match="shard: given, and no process_group"):
        bs.make_masks(
            bs.ScoreInputs(torch.ones(2), shard=bs.Shard((4,), (2,))), sparsity=0.5, scorer="magnitude"
        )
    with pytest.raises(bs.ArgumentError, match=r"process_group: .*accepted.*mesh\.get_group"):
        bs.make_masks(bs.ScoreInputs(weight), sparsity=0.5, scorer="magnitude", process_group=mesh)
    mask = bs.make_masks(bs.ScoreInputs(weight, name="w"), sparsity=0.5, scorer="magnitude")[0]
    for copied in (pickle.loads(pickle.dumps(mask)), copy.copy(mask)):
        assert copied == mask and copied.shard is None
        with pytest.raises(bs.ArgumentError, match="mask of 'w': its weight was no DTensor"):
            copied.dtensor()


def fsdp1(rank: int, size: int) -> None:
    """What takes weights apart without saying where is refused by name."""
    model = FullyShardedDataParallel(net(), use_orig_params=True, device_id=torch.device("cpu"))
    for call in (
        lambda: bs.prune_(model, sparsity=0.5),
        lambda: bs.make_masks(model, sparsity=0.5, process_group=dist.group.WORLD),
        lambda: bs.sparsity(model),
        lambda: bs.apply_masks_(model, {"a.weight": torch.ones(46, 22, dtype=torch.bool)}),
    ):
        with pytest.raises(bs.LayoutError, match=r"FullyShardedDataParallel.*fully_shard"):
            call()


def a_group_of_some(rank: int, size: int) -> None:
    """A group that is not the default one decides for itself; others cannot use it."""
    pairs = [dist.new_group([low, low + 1]) for low in range(0, size, 2)]
    own = pairs[rank // 2]
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(rank // 2))
    low = 3 * (rank % 2)
    item = bs.ScoreInputs(weight[low:][:3].clone(), name="w", shard=bs.Shard((6, 4), (low, 0)))
    found = bs.make_masks(item, sparsity=0.5, scorer="magnitude", process_group=own)
    expected = bs.make_masks(bs.ScoreInputs(weight, name="w"), sparsity=0.5, scorer="magnitude")
    assert torch.equal(found[0].bool(), expected[0].bool()[low:][:3])
    if size > 2:
        with pytest.raises(bs.ArgumentError, match=f"process_group: rank {rank} is not in it"):
            bs.make_masks(item, sparsity=0.5, scorer="magnitude", process_group=pairs[1 - rank // 2])
        item.exp_avg_sq = None
        text = "is missing" if rank % 2 else f"on rank {rank + 1}: .* is missing"
        if not rank % 2:
            item.exp_avg_sq = item.weight.abs()
        with pytest.raises(bs.MissingStateError, match=text):
            bs.make_masks(item, sparsity=0.5, process_group=own)
