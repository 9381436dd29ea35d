"""Trains a small network over ranks and prunes it as one: ``torchrun --nproc-per-node 2 train.py``.

Every rank holds a part of every weight (fully_shard). All of them prune by one exact threshold.
"""

from __future__ import annotations

import bittersweet as bs
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.fsdp import fully_shard

STEPS = 200


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 8))
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    optimizer = bs.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = bs.PolynomialDecay(0.0, 0.8, begin_step=20, end_step=160, frequency=20)
    pruner = bs.Pruner(model, optimizer, schedule=schedule)

    teacher = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2 + dist.get_rank())  # batches of its own for every rank
    for _ in range(STEPS):
        inputs = torch.randn(128, 64)
        loss = (model(inputs) - torch.tanh(inputs @ teacher)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        event = pruner.step()  # on every rank: collective when an event is due
        optimizer.zero_grad()
        if event is not None and dist.get_rank() == 0:
            print(f"{event}\n  loss {loss.item():.4f}", flush=True)

    report = pruner.finalize()
    zeros = bs.sparsity(model)  # counted over all ranks
    if dist.get_rank() == 0:
        print(report)
        print(zeros)
    dcp.save({"model": model.state_dict(), "pruner": pruner}, checkpoint_id="fsdp2_checkpoint")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
