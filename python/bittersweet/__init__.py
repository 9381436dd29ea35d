"""Bittersweet prunes neural networks while they train: score, threshold, mask, in one read of the weights.

Start with `Pruner` in a training loop, `prune_` for one shot, `make_masks` for masks alone. Importing this
package loads neither torch nor the compiled module; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import (
    ArgumentError,
    CheckpointError,
    DeviceError,
    DTypeError,
    Error,
    LayoutError,
    MissingPackageError,
    MissingStateError,
    NonFiniteScoreError,
    ShapeError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from ._core import __version__
    from .info import build_info, get_cmake_dir, get_include, get_num_threads, set_num_threads
    from .options.schedules import Cosine, Linear, OneShot, PolynomialDecay, PowerRamp
    from .options.scopes import Global, NofM, Row, Tensor
    from .options.scorers import (
        AdamVariance,
        Bitter0,
        Bitter1,
        Bitter2,
        Bitter3,
        Bitter4,
        Bitter5,
        Bitter5Published,
        Bitter6,
        Bitter7,
        Bitter8,
        Bitter8BiasCorrected,
        Bitter8Published,
        Bitter9,
        Bitter9Hybrid,
        Bitter9HybridPublished,
        Bitter10,
        Bitter10c,
        Bitter10s,
        Bitter10z,
        Gradient,
        Identity,
        Magnitude,
        Movement,
        Random,
        Taylor,
        Wanda,
        scorers,
    )
    from .options.selectors import Exact, Histogram, KthValue, Sampling, Streaming, selectors
    from .probe.gradient_probe import GradientProbe
    from .probe.report import ProbeIteration, ProbeLayer, ProbeResult, ProbeRound
    from .select.capture import CapturableStep
    from .select.events import MaskEvent, MaskHistory
    from .select.functional import (
        Threshold,
        apply_masks_,
        count_violations,
        kth_value,
        make_masks,
        prune_,
        score,
        threshold,
    )
    from .tensors.masks import Mask, Masks
    from .tensors.table import ScoreInputs
    from .trackers.coherence import CoherenceTracker, SketchTracker
    from .trackers.movement import MovementTracker
    from .trackers.snapshot import SnapshotTracker
    from .training.pruner import Pruner
    from .wanda.calibration import Calibrator
    from .wanda.sequential import BlockInput, SequentialReport, capture_block_inputs, prune_blocks_

_SCORERS = (
    "AdamVariance Bitter0 Bitter1 Bitter2 Bitter3 Bitter4 Bitter5 Bitter5Published Bitter6 Bitter7 Bitter8 "
    "Bitter8BiasCorrected Bitter8Published Bitter9 Bitter9Hybrid Bitter9HybridPublished Bitter10 Bitter10c "
    "Bitter10s Bitter10z Gradient Identity Magnitude Movement Random Taylor Wanda scorers"
)
_MODULES = {
    "_core": "__version__",
    "options.scorers": _SCORERS,
    "options.selectors": "Exact Histogram KthValue Sampling Streaming selectors",
    "tensors.table": "ScoreInputs",
    "wanda.calibration": "Calibrator",
    "select.capture": "CapturableStep",
    "select.events": "MaskEvent MaskHistory",
    "select.functional": (
        "Threshold apply_masks_ count_violations kth_value make_masks prune_ score threshold"
    ),
    "probe.gradient_probe": "GradientProbe",
    "info": "build_info get_cmake_dir get_include get_num_threads set_num_threads",
    "tensors.masks": "Mask Masks",
    "trackers.movement": "MovementTracker",
    "probe.report": "ProbeIteration ProbeLayer ProbeResult ProbeRound",
    "training.pruner": "Pruner",
    "options.schedules": "Cosine Linear OneShot PolynomialDecay PowerRamp",
    "options.scopes": "Global NofM Row Tensor",
    "wanda.sequential": "BlockInput SequentialReport capture_block_inputs prune_blocks_",
    "trackers.snapshot": "SnapshotTracker",
    "trackers.coherence": "CoherenceTracker SketchTracker",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'bittersweet' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


__all__ = [
    "AdamVariance",
    "ArgumentError",
    "Bitter0",
    "Bitter1",
    "Bitter2",
    "Bitter3",
    "Bitter4",
    "Bitter5",
    "Bitter5Published",
    "Bitter6",
    "Bitter7",
    "Bitter8",
    "Bitter8BiasCorrected",
    "Bitter8Published",
    "Bitter9",
    "Bitter9Hybrid",
    "Bitter9HybridPublished",
    "Bitter10",
    "Bitter10c",
    "Bitter10s",
    "Bitter10z",
    "BlockInput",
    "Calibrator",
    "CapturableStep",
    "CheckpointError",
    "CoherenceTracker",
    "Cosine",
    "DTypeError",
    "DeviceError",
    "Error",
    "Exact",
    "Global",
    "Gradient",
    "GradientProbe",
    "Histogram",
    "Identity",
    "KthValue",
    "LayoutError",
    "Linear",
    "Magnitude",
    "Mask",
    "MaskEvent",
    "MaskHistory",
    "Masks",
    "MissingPackageError",
    "MissingStateError",
    "Movement",
    "MovementTracker",
    "NofM",
    "NonFiniteScoreError",
    "OneShot",
    "PolynomialDecay",
    "PowerRamp",
    "ProbeIteration",
    "ProbeLayer",
    "ProbeResult",
    "ProbeRound",
    "Pruner",
    "Random",
    "Row",
    "Sampling",
    "ScoreInputs",
    "SequentialReport",
    "ShapeError",
    "SketchTracker",
    "SnapshotTracker",
    "Streaming",
    "Taylor",
    "Tensor",
    "Threshold",
    "UnknownNameError",
    "Wanda",
    "__version__",
    "apply_masks_",
    "build_info",
    "capture_block_inputs",
    "count_violations",
    "errors",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "kth_value",
    "make_masks",
    "prune_",
    "prune_blocks_",
    "score",
    "scorers",
    "selectors",
    "set_num_threads",
    "threshold",
]
