"""A convolutional network on scikit-learn's digits: 1,797 pictures of 8 x 8, a quarter held out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .task import Start, Task

BATCH, WIDTH = 64, 16


class Net(nn.Sequential):
    """Three convolutions in channels_last, a mean over places, ten classes; 24,000 weights."""

    def __init__(self) -> None:
        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

        super().__init__(
            *block(1, WIDTH, 1),
            *block(WIDTH, 2 * WIDTH, 2),
            *block(2 * WIDTH, 4 * WIDTH, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * WIDTH, 10),
        )
        self.to(memory_format=torch.channels_last)


def task(quick: bool) -> Task:
    from sklearn import __version__
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    pictures = torch.tensor(found.images[order.numpy()], dtype=torch.float32)[:, None] / 16.0
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(found.target)[order]
    held_out = len(labels) // 4

    def begin(seed: int) -> Start:
        model, batches = Net(), torch.Generator().manual_seed(seed)

        def loss(step: int) -> torch.Tensor:
            chosen = torch.randint(held_out, len(labels), (BATCH,), generator=batches)
            return functional.cross_entropy(model(pictures[chosen]), labels[chosen])

        def evaluate() -> float:
            right = model(pictures[:held_out]).argmax(1) == labels[:held_out]
            return 100.0 * float(right.float().mean())

        return Start(model, loss, evaluate)

    return Task(
        "digits",
        "CNN, digits",
        "accuracy on held-out pictures, %",
        True,
        24 if quick else 300,
        5e-3,
        f"load_digits of scikit-learn {__version__}",
        begin,
    )
