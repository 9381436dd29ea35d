"""bittersweet.prune under DistributedDataParallel: gradients are masked before they are summed."""

from __future__ import annotations

import bittersweet.prune as prune
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def trains_replicas_that_stay_equal(rank: int, size: int) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    wrapped = DistributedDataParallel(model)
    prune.random_unstructured(model[2], "weight", 0.3)  # replicas draw the same seed
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    random = torch.Generator().manual_seed(rank)
    for _ in range(4):
        wrapped(torch.randn(6, 12, generator=random)).square().sum().backward()
        for layer in (model[0], model[2]):
            dead = ~prune.mask_of(layer, "weight").bool()
            assert (layer.weight.grad[dead] == 0).all() and (layer.weight.grad[~dead] != 0).any()
        optimizer.step()
        optimizer.zero_grad()
    assert int((model[0].weight == 0).sum()) == 120 and int((model[2].weight == 0).sum()) == 18
    return [float(parameter.double().sum()) for parameter in model.parameters()]
