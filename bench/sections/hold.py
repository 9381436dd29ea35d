"""Keeping masks between events, which a training loop pays on every step, beside the optimizer's own step;
and what events cost that grow by another score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import bittersweet as bs
import models
import torch
from measure import Bench, Rounds, in_words
from tables import Table
from torch import nn

ONE_ARRAY = 1.3
THREE_ARRAYS = {1: 2.1}  # by threads; others: 1.7


class Net(nn.Module):
    """A model whose parameters are given tensors, each with a gradient: a given one, or numbers around 0."""

    def __init__(
        self, weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None] | None = None
    ) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        for index, weight in enumerate(weights):
            parameter = nn.Parameter(weight)
            if gradients is None:
                parameter.grad = torch.empty_like(weight).normal_(0.0, 1e-3, generator=random)
            else:
                parameter.grad = gradients[index]
            self.register_parameter(f"tensor{index}", parameter)


def run(bench: Bench) -> list[Table]:
    bench.say("making a model with gradients, a fused AdamW with its state, pruners and torch masks")
    w = [torch.empty(shape) for shape in models.gpt_shapes(bench.weights)]
    random = torch.Generator().manual_seed(0)
    for tensor in w:
        tensor.normal_(0.0, 0.02, generator=random)
    net = Net(w)
    names = [name for name, _ in net.named_parameters()]
    adamw = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)
    adamw.step()
    once = bs.OneShot(0.5, 1)
    common = {"scorer": "magnitude", "schedule": once, "targets": names}
    of_w = bs.Pruner(net, adamw, mask_optimizer_state=False, **common)
    of_all = bs.Pruner(net, adamw, **common)
    # Its hook sits on an optimizer of its own, so that the AdamW step beside it is a bare one.
    of_grads = bs.Pruner(net, torch.optim.SGD(net.parameters(), lr=0.0), hold="grads", **common)
    for pruner in (of_w, of_all, of_grads):
        pruner.step()

    tiny_net = Net([torch.ones(1) for _ in w])
    tiny = bs.Pruner(tiny_net, scorer="magnitude", schedule=once, targets=names)
    tiny.step()

    parameters = [p.detach() for p in net.parameters()]
    grads = [p.grad for p in net.parameters()]
    m, v = ([adamw.state[p][key] for p in net.parameters()] for key in ("exp_avg", "exp_avg_sq"))
    keep = [of_w.masks[name] for name in names]
    dead = [~mask for mask in keep]
    factors = [mask.float() for mask in keep]

    def multiply(masks: list[torch.Tensor], *columns: list[torch.Tensor]) -> None:
        for column in columns:
            for tensor, mask in zip(column, masks, strict=True):
                tensor.mul_(mask)

    def fill() -> None:
        for tensor, mask in zip(parameters, dead, strict=True):
            tensor.masked_fill_(mask, 0.0)

    rows, notes = [], []
    for threads in bench.threads:
        bench.say(in_words(threads))
        rounds = Rounds(bench, threads, bench.floor.over(parameters, m, v, grads))
        rounds.add_write_floor("w", parameters)
        rounds.add_write_floor("w, m, v", parameters, m, v)
        rounds.add_write_floor("gradients", grads)
        rounds.add("AdamW", adamw.step)
        rounds.add("hold w", of_w.step)
        rounds.add("hold w, m, v", of_all.step)
        rounds.add("hold gradients", of_grads.mask_grads_)
        rounds.add("torch w", lambda: multiply(keep, parameters))
        rounds.add("torch w, f32 masks", lambda: multiply(factors, parameters))
        rounds.add("torch w, masked_fill_", fill)
        rounds.add("torch w, m, v", lambda: multiply(keep, parameters, m, v))
        rounds.add("torch gradients", lambda: multiply(keep, grads))
        rounds.add("packing", tiny.step)
        rounds.run()

        step = rounds.ms("AdamW")
        three = THREE_ARRAYS.get(threads, 1.7)
        for work, label, bound in (
            ("w", 'hold="weights", w', ONE_ARRAY),
            ("w, m, v", 'hold="weights", w, m, v', three),
            ("gradients", 'hold="grads", gradients', ONE_ARRAY),
        ):
            more = {
                "share_of_step": rounds.ms(f"hold {work}") / step,
                "torch_ms": rounds.ms(f"torch {work}"),
            }
            rows.append(rounds.against(label, f"hold {work}", f"{work} written", bound, **more))
        for label in ("AdamW", "torch w, f32 masks", "torch w, masked_fill_"):
            other = rounds.ms(label)
            text = "one fused AdamW step" if label == "AdamW" else label
            rows.append({"case": text, "threads": threads, "torch_ms": other, "share_of_step": other / step})
        notes += rounds.packing_note("packing", "hold w")
    notes.insert(0, "torch: `tensor.mul_(mask)` over torch.bool masks, or what the row says.")
    size = f"{bench.weights:,} weights in {len(w)} tensors, half of them pruned"
    held = Table(f"Holding masks on every step ({size})", rows, notes)
    return [held, _growing(bench, net, adamw, names)]


def _growing(bench: Bench, net: Net, adamw: torch.optim.Optimizer, names: list[str]) -> Table:
    """Whole events to 90 %, zeros in w, m, v included: from 80 % by the pruner's scorer alone, and at 90 %
    with 30 % of the live weights dropped and opened."""
    parameters = [p.detach() for p in net.parameters()]
    grads = [p.grad for p in net.parameters()]
    saved = models.like(parameters)

    def always(step: int) -> tuple[bool, float]:
        return True, 0.9

    def pruner(scope: str, regrow: Any) -> tuple[bs.Pruner, Callable[[], None]]:
        options = {"scorer": "magnitude", "schedule": always, "scope": scope, "targets": names}
        made = bs.Pruner(net, adamw, regrow=regrow, **options)
        made.start(0.9 if regrow else 0.8, "magnitude")
        before = dict(made.masks)
        models.copy(parameters, saved)

        def restore() -> None:
            made.load_masks(before)
            models.copy(parameters, saved)

        return made, restore

    ways = {"prune": False, "RigL": bs.RigL(decay="constant"), "SET": bs.SET()}
    cases = {(way, scope): pruner(scope, ways[way]) for scope in ("global", "tensor") for way in ways}
    keep = [cases["RigL", "tensor"][0].masks[name] for name in names]
    rows = []
    for threads in bench.threads:
        bench.say(f"events that grow, {in_words(threads)}")
        rounds = Rounds(bench, threads, bench.floor.over(parameters, grads))
        rounds.add_read_floor("w, gradients", parameters, grads)
        for (way, scope), (made, restore) in cases.items():
            rounds.add(f"{way} {scope}", made.step, after=restore)
        rounds.add("torch", lambda: [*map(_as_torch, parameters, grads, keep)])
        rounds.run()
        for way, scope in cases:
            more = {"event_ratio": rounds.ms(f"{way} {scope}") / rounds.ms(f"prune {scope}")}
            name = f"{way}, scope {scope}"
            rows.append(rounds.against(name, f"{way} {scope}", "w, gradients", None, **more))
        other = {"case": "RigL by torch.topk, tensor by tensor", "threads": threads}
        rows.append({**other, "torch_ms": rounds.ms("torch")})
    size = f"{bench.weights:,} weights in {len(names)} tensors, to 90 %"
    note = "torch: masks alone, by two calls of topk a tensor; ours: whole events, zeros in w, m, v included."
    return Table(f"Events that drop and grow ({size})", rows, [note])


def _as_torch(weight: torch.Tensor, grad: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """RigL's update of one tensor at a drop fraction of 0.3."""
    live = int(keep.sum())
    dropped = int(0.3 * live + 0.5)
    score = torch.where(keep, weight.abs(), -1.0).flatten()
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask[score.topk(live - dropped).indices] = True
    mask[grad.abs().flatten().masked_fill_(mask, -1.0).topk(dropped).indices] = True
    return mask.view_as(keep)
