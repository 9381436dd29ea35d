"""Convolutional networks of timm: depthwise and grouped layers, channels_last, N:M with three-channel stems.

timm imports parts of torchvision that models do not use; where torchvision is missing, an empty stand-in
takes its place, in this process only.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

import bittersweet as bs
import pytest
import torch
from torch import nn


class _AnyClass(type):
    """A class that has every attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Anything(ModuleType):
    """A package in which every name is a class."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyClass(name, (), {})


class _Finder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.append(_Finder())  # type: ignore[arg-type]
import timm  # noqa: E402

RAMP = bs.LinearRamp(0.2, 0.5, begin_step=2, end_step=4, frequency=1)
STEPS = 5


@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"]
)
def test_models_of_timm(name: str, hold: str, layout: torch.memory_format) -> None:
    options = {"img_size": 32} if name.startswith("vit") else {}
    model = timm.create_model(name, pretrained=False, num_classes=4, **options).to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold).attach()
    names = {entry.name for entry in pruner.plan().targets}
    layers = {
        f"{path}.weight": m for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))
    }
    assert names == set(layers)
    for _ in range(STEPS):
        model(torch.randn(2, 3, 32, 32).to(memory_format=layout)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        dead = {key: int((model.get_parameter(key)[~mask] != 0).sum()) for key, mask in pruner.masks.items()}
        assert not any(dead.values())
    report = pruner.finalize()
    assert (report.violations, report.unfinished, report.step) == ({}, None, STEPS)
    assert report.sparsity.zero == pytest.approx(0.5, abs=1e-3)
    moved = [m.weight.is_contiguous(memory_format=layout) for m in layers.values() if m.weight.ndim == 4]
    assert all(moved)


def test_rows_of_depthwise_and_grouped_convolutions() -> None:
    model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=4)
    depthwise = {
        f"{path}.weight" for path, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1
    }
    assert depthwise
    pruner = bs.Pruner(model, None, scorer="magnitude", scope="row", schedule=bs.OneShot(0.5, 1))
    pruner.step()
    for name, mask in pruner.masks.items():
        inputs = mask[0].numel()
        assert ((~mask).flatten(1).sum(1) == int(0.5 * inputs + 0.5)).all(), name
        assert name not in depthwise or mask.shape[1] == 1


def test_two_of_four_and_a_stem_of_three_channels() -> None:
    model = timm.create_model("resnet10t", pretrained=False, num_classes=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(bs.ShapeError, match=r"NofM\(2, 4, remainder=.?.keep"):
        bs.Pruner(model, optimizer, scope="2:4", schedule=bs.OneShot(0.5, 2))
    scope = bs.NofM(2, 4, remainder="keep")
    pruner = bs.Pruner(model, optimizer, scope=scope, schedule=bs.OneShot(0.5, 2)).attach()
    for _ in range(4):
        model(torch.randn(2, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    stem = next(name for name, mask in pruner.masks.items() if mask.shape[1] == 3)
    assert pruner.masks[stem].all()
    whole = [mask for mask in dict(pruner.masks.items()).values() if mask.shape[1] % 4 == 0]
    for mask in whole:
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()
    pruner.finalize()
