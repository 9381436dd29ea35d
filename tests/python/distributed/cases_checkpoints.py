"""Saved states of a Pruner over ranks: through torch.distributed.checkpoint, and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from training_support import (
    RAMP,
    STEPS,
    adamw,
    backward,
    batch,
    full,
    here,
    masked_adamw,
    net,
    require_held,
    sharded,
    tensor_parallel,
)

MAKERS = {"torch": adamw, "masked": masked_adamw}


class Training:
    """A model and its optimizer as torch.distributed.checkpoint takes them, whatever the number of ranks."""

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )


def made(kind: str = "torch", **options: Any) -> tuple[Any, Any, bs.Pruner]:
    model = sharded(net())
    optimizer = MAKERS[kind](model)
    return model, optimizer, bs.Pruner(model, optimizer, schedule=RAMP, **options)


def go_on(model: Any, optimizer: Any, pruner: bs.Pruner, first: int, last: int) -> None:
    """Every rank sees the same batches, so that the number of ranks does not matter."""
    for now in range(first, last + 1):
        backward(model, now)
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()


def outcome(model: Any, optimizer: Any, pruner: bs.Pruner) -> dict[str, Any]:
    model.reshard()
    weights = {name: full(parameter.detach()).clone() for name, parameter in model.named_parameters()}
    masks = {name: full(mask).clone() for name, mask in pruner.masks.items()}
    events = [(event.step, event.threshold, event.pruned, event.total) for event in pruner.history]
    return {"weights": weights, "masks": masks, "events": events, "step": pruner.steps}


def require_equal(one: dict[str, Any], other: dict[str, Any], exactly: bool = True) -> None:
    if not exactly:
        assert one["step"] == other["step"]
        for name, tensor in one["weights"].items():
            assert torch.allclose(tensor, other["weights"][name], atol=1e-4), name
        return
    assert (one["events"], one["step"]) == (other["events"], other["step"])
    for kind in ("masks", "weights"):
        assert one[kind].keys() == other[kind].keys()
        for name, tensor in one[kind].items():
            assert torch.equal(tensor, other[kind][name]), f"{kind} {name}"


def saved_in_the_middle(rank: int, size: int, folder: str, kind: str) -> None:
    """Saves before the first event and after the second, then trains to the end."""
    model, optimizer, pruner = made(kind)
    go_on(model, optimizer, pruner, 1, 1)
    dcp.save({"training": Training(model, optimizer), "pruner": pruner}, checkpoint_id=f"{folder}/early")
    go_on(model, optimizer, pruner, 2, 5)
    dcp.save({"training": Training(model, optimizer), "pruner": pruner}, checkpoint_id=f"{folder}/late")
    whole = pruner.full_state_dict()
    assert bool(whole) == (rank == 0)
    middle = outcome(model, optimizer, pruner)
    go_on(model, optimizer, pruner, 6, STEPS)
    end = outcome(model, optimizer, pruner)
    if rank == 0:
        torch.save({"middle": middle, "end": end, "whole": whole}, f"{folder}/outcomes.pt")


def resumed(rank: int, size: int, folder: str, kind: str) -> None:
    """On any number of ranks: equal to the run that was not interrupted, bit for bit. (A fused step rounds
    the elements at the end of a part otherwise, so that it depends on the parts.)"""
    exactly = kind == "torch" or size == 2
    outcomes = torch.load(f"{folder}/outcomes.pt", weights_only=True)
    for name, next_step in (("early", 2), ("late", 6)):
        torch.manual_seed(99)
        model, optimizer, pruner = made(kind)
        with torch.no_grad():
            for parameter in model.parameters():
                here(parameter).add_(1.0)
        dcp.load({"training": Training(model, optimizer), "pruner": pruner}, checkpoint_id=f"{folder}/{name}")
        if name == "late":
            require_equal(outcome(model, optimizer, pruner), outcomes["middle"])
            require_held(model, optimizer, pruner)
            assert all(isinstance(mask, DTensor) for mask in pruner.masks.values())
        go_on(model, optimizer, pruner, next_step, STEPS)
        require_equal(outcome(model, optimizer, pruner), outcomes["end"], exactly)
    model, optimizer, pruner = made(kind)
    pruner.load_state_dict(outcomes["whole"])  # the words of whole masks, on every rank
    for name, mask in outcomes["middle"]["masks"].items():
        assert torch.equal(full(pruner.masks[name]), mask)
    require_held(model, optimizer, pruner)


def whole_states_fit_single_processes(rank: int, size: int) -> None:
    plain, alone = net(), None
    alone = adamw(plain)
    single = bs.Pruner(plain, alone, schedule=RAMP)
    go_on(plain, alone, single, 1, 5)
    state = single.state_dict()
    older = {
        **state,
        "version": 1,
        "history": [event.to_dict() for event in single.history],
        "masks": {name: words for name, words in state["masks"].items() if name != "one.weight"},
    }
    for given in (state, older):
        model, optimizer, pruner = made()
        pruner.load_state_dict(given)
        for name, mask in single.masks.items():
            if given is older and name == "one.weight":
                continue
            assert torch.equal(full(pruner.masks[name]), mask)
        assert pruner.steps == 5
        assert [event.threshold for event in pruner.history] == [event.threshold for event in single.history]
        require_held(model, optimizer, pruner)
    model, optimizer, pruner = made()
    go_on(model, optimizer, pruner, 1, 5)
    states: list[Any] = [pruner.full_state_dict()]
    dist.broadcast_object_list(states, src=0)
    again = bs.Pruner(plain, alone, schedule=RAMP)
    again.load_state_dict(states[0])
    for name, mask in pruner.masks.items():
        assert torch.equal(again.masks[name], full(mask))
    assert set(states[0]) == set(state)
    for name, words in states[0]["masks"].items():
        assert words.dtype == torch.int64 and words.shape == state["masks"][name].shape


def bool_tensors_of_whole_masks_are_read(rank: int, size: int) -> None:
    """As `dcp_to_torch_save` makes them of a sharded checkpoint."""
    model, optimizer, pruner = made()
    go_on(model, optimizer, pruner, 1, 3)
    state = pruner.state_dict()
    gathered = {**state, "masks": {name: full(mask) for name, mask in state["masks"].items()}}
    _, _, again = made()
    again.load_state_dict(gathered)
    alone = bs.Pruner(net(), scorer="magnitude", schedule=None)
    for name, mask in pruner.masks.items():
        assert torch.equal(full(again.masks[name]), full(mask))
    alone.load_state_dict(gathered, strict=False)
    for name, mask in pruner.masks.items():
        assert torch.equal(alone.masks[name], full(mask))


def states_that_do_not_fit(rank: int, size: int) -> None:
    model, optimizer, pruner = made()
    go_on(model, optimizer, pruner, 1, 3)
    state = pruner.state_dict()
    mask = state["masks"]["b.weight"]
    wrong = {
        "does not fit": {"b.weight": mask.redistribute(placements=[torch.distributed.tensor.Replicate()])},
        "expected": {"b.weight": here(mask)[:1]},
        "no mask": {},
    }
    for text, masks in wrong.items():
        kept = {key: value for key, value in state["masks"].items() if key != "b.weight"}
        before = {name: full(one) for name, one in pruner.masks.items()}
        try:
            pruner.load_state_dict({**state, "masks": {**kept, **masks}})
        except bs.CheckpointError as error:
            assert text in str(error) and "b.weight" in str(error), error
        else:
            raise AssertionError(text)
        for name, one in pruner.masks.items():
            assert torch.equal(full(one), before[name])


def replicas_keep_words(rank: int, size: int, folder: str) -> None:
    inner = net()
    model = DistributedDataParallel(inner)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, process_group=dist.group.WORLD)
    for now in range(1, 4):
        backward(model, 1000 * rank + now)
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    assert {mask.dtype for mask in pruner.state_dict()["masks"].values()} == {torch.int64}
    dcp.save({"pruner": pruner}, checkpoint_id=f"{folder}/replicas")
    again = bs.Pruner(model, optimizer, schedule=RAMP, process_group=dist.group.WORLD)
    dcp.load({"pruner": again}, checkpoint_id=f"{folder}/replicas")
    for name, mask in pruner.masks.items():
        assert torch.equal(again.masks[name], mask)
    assert Path(f"{folder}/replicas/.metadata").exists()


def boxes_and_copies(rank: int, size: int, folder: str) -> None:
    """Tensor parallelism within fully_shard, on four ranks."""
    models = []
    for _ in range(2):
        model = tensor_parallel(net())
        optimizer = adamw(model)
        models.append((model, optimizer, bs.Pruner(model, optimizer, schedule=RAMP)))
    model, optimizer, pruner = models[0]
    go_on(model, optimizer, pruner, 1, 5)
    dcp.save({"training": Training(model, optimizer), "pruner": pruner}, checkpoint_id=f"{folder}/boxes")
    other, another, again = models[1]
    dcp.load({"training": Training(other, another), "pruner": again}, checkpoint_id=f"{folder}/boxes")
    require_equal(outcome(model, optimizer, pruner), outcome(other, another, again))
    go_on(model, optimizer, pruner, 6, STEPS)
    go_on(other, another, again, 6, STEPS)
    require_equal(outcome(model, optimizer, pruner), outcome(other, another, again))
    state = pruner.full_state_dict()
    if rank == 0:
        alone = bs.Pruner(net(), None, scorer="magnitude", schedule=None)
        alone.load_state_dict(state, strict=False)
    masks = {name: full(mask) for name, mask in pruner.masks.items()}
    if rank == 0:
        for name, mask in masks.items():
            assert torch.equal(alone.masks[name], mask)


def memories_of_parts(rank: int, size: int, folder: str) -> None:
    runs = []
    for _ in range(2):
        model = sharded(net())
        optimizer = adamw(model)
        runs.append((model, optimizer, bs.Pruner(model, optimizer, scorer="movement", schedule=RAMP)))
    model, optimizer, pruner = runs[0]
    go_on(model, optimizer, pruner, 1, 3)
    dcp.save(
        {"training": Training(model, optimizer), "pruner": pruner}, checkpoint_id=f"{folder}/memory{size}"
    )
    other, another, again = runs[1]
    dcp.load({"training": Training(other, another), "pruner": again}, checkpoint_id=f"{folder}/memory{size}")
    go_on(model, optimizer, pruner, 4, STEPS)
    go_on(other, another, again, 4, STEPS)
    require_equal(outcome(model, optimizer, pruner), outcome(other, another, again))
    try:
        pruner.full_state_dict()
    except bs.Error as error:
        assert "'movement' remembers" in str(error)
    else:
        raise AssertionError("no error")
    with torch.no_grad():
        model(batch(1))
