"""Bittersweet prunes neural networks while they train: score, threshold, mask, in one read of the weights.

Start with `Pruner` in a training loop, `prune_` for one shot, `make_masks` for masks alone, `sparsity` to
count zeros, `prune_checkpoint` for files. Importing this package loads neither torch nor the compiled module;
each name is loaded when it is first used.

``from bittersweet import *`` leaves out the names that torch has too: Gradient, Identity, Linear
(`LinearRamp`), Shard, Tensor, Threshold, get_num_threads, set_num_threads and threshold. They are public as
``bittersweet.Tensor`` and so on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import (
    ArgumentError,
    CheckpointError,
    DeviceError,
    DistributedError,
    DTypeError,
    Error,
    LayoutError,
    MissingPackageError,
    MissingStateError,
    NonFiniteScoreError,
    RankFailed,
    RanksDisagree,
    ReplicasDiffer,
    ShapeError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from . import optim as optim
    from . import prune as prune
    from . import sparse as sparse
    from ._core import __version__
    from .checkpoint_files.pruning import prune_checkpoint
    from .checkpoint_files.report import CheckpointReport, StoredTensorReport
    from .distributed.shards import Shard as Shard
    from .info import build_info, get_cmake_dir, get_include
    from .info import get_num_threads as get_num_threads  # by this form, what is not in __all__ is public too
    from .info import set_num_threads as set_num_threads
    from .optimizers.adapters import register_optimizer
    from .options.regrowth import SET, RigL
    from .options.schedules import (
        ConstantSparsity,
        Cosine,
        LinearRamp,
        OneShot,
        PolynomialDecay,
        PowerRamp,
        Schedule,
    )
    from .options.schedules import Linear as Linear
    from .options.scopes import Global, NofM, Row
    from .options.scopes import Tensor as Tensor
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
        Magnitude,
        Movement,
        Random,
        Taylor,
        Wanda,
        scorers,
    )
    from .options.scorers import Gradient as Gradient
    from .options.scorers import Identity as Identity
    from .options.selectors import Exact, Histogram, KthValue, Sampling, Streaming, selectors
    from .probe.gradient_probe import GradientProbe
    from .probe.report import ProbeIteration, ProbeLayer, ProbeResult, ProbeRound
    from .select.capture import CapturableStep
    from .select.events import MaskEvent, MaskHistory
    from .select.functional import kth_value, score
    from .select.thresholds import Threshold as Threshold
    from .sparse.semi_structured import SemiStructuredLayer, SemiStructuredReport, to_semi_structured
    from .tensors.mask_list import Masks
    from .tensors.masks import Mask
    from .tensors.stochastic_rounding import stochastic_round_
    from .tensors.table import ScoreInputs
    from .trackers.coherence import CoherenceTracker, SketchTracker
    from .trackers.movement import MovementTracker
    from .trackers.snapshot import SnapshotTracker
    from .training.pruner import Pruner
    from .wanda.calibration import Calibrator
    from .wanda.sequential import BlockInput, SequentialReport, capture_block_inputs, prune_blocks_
    from .whole.lora import Merged, merge_adapters_
    from .whole.mask_file import load_masks, save_masks
    from .whole.masking import apply_masks_, count_violations
    from .whole.pruning import make_masks, prune_
    from .whole.pruning import threshold as threshold
    from .whole.strip import strip
    from .whole.zero_count import TensorZeros, ZeroCount
    from .whole.zeros import sparsity

_SCORERS = (
    "AdamVariance Bitter0 Bitter1 Bitter2 Bitter3 Bitter4 Bitter5 Bitter5Published Bitter6 Bitter7 Bitter8 "
    "Bitter8BiasCorrected Bitter8Published Bitter9 Bitter9Hybrid Bitter9HybridPublished Bitter10 Bitter10c "
    "Bitter10s Bitter10z Gradient Identity Magnitude Movement Random Taylor Wanda scorers"
)
_MODULES = {
    "_core": "__version__",
    "distributed.shards": "Shard",
    "options.scorers": _SCORERS,
    "options.selectors": "Exact Histogram KthValue Sampling Streaming selectors",
    "tensors.table": "ScoreInputs",
    "checkpoint_files.pruning": "prune_checkpoint",
    "checkpoint_files.report": "CheckpointReport StoredTensorReport",
    "wanda.calibration": "Calibrator",
    "select.capture": "CapturableStep",
    "select.events": "MaskEvent MaskHistory",
    "select.functional": "kth_value score",
    "select.thresholds": "Threshold",
    "probe.gradient_probe": "GradientProbe",
    "info": "build_info get_cmake_dir get_include get_num_threads set_num_threads",
    "tensors.mask_list": "Masks",
    "tensors.masks": "Mask",
    "tensors.stochastic_rounding": "stochastic_round_",
    "trackers.movement": "MovementTracker",
    "probe.report": "ProbeIteration ProbeLayer ProbeResult ProbeRound",
    "training.pruner": "Pruner",
    "optimizers.adapters": "register_optimizer",
    "options.schedules": (
        "ConstantSparsity Cosine Linear LinearRamp OneShot PolynomialDecay PowerRamp Schedule"
    ),
    "options.regrowth": "RigL SET",
    "options.scopes": "Global NofM Row Tensor",
    "wanda.sequential": "BlockInput SequentialReport capture_block_inputs prune_blocks_",
    "trackers.snapshot": "SnapshotTracker",
    "trackers.coherence": "CoherenceTracker SketchTracker",
    "whole.lora": "Merged merge_adapters_",
    "whole.mask_file": "load_masks save_masks",
    "whole.masking": "apply_masks_ count_violations",
    "whole.pruning": "make_masks prune_ threshold",
    "whole.strip": "strip",
    "sparse.semi_structured": "SemiStructuredLayer SemiStructuredReport to_semi_structured",
    "whole.zero_count": "TensorZeros ZeroCount",
    "whole.zeros": "sparsity",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


_ROOMS = frozenset(("optim", "prune", "sparse"))
"""Names that are modules: public as ``bittersweet.optim.AdamW`` and so on."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'bittersweet' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})


__all__ = [
    "SET",
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
    "CheckpointReport",
    "CoherenceTracker",
    "ConstantSparsity",
    "Cosine",
    "DTypeError",
    "DeviceError",
    "DistributedError",
    "Error",
    "Exact",
    "Global",
    "GradientProbe",
    "Histogram",
    "KthValue",
    "LayoutError",
    "LinearRamp",
    "Magnitude",
    "Mask",
    "MaskEvent",
    "MaskHistory",
    "Masks",
    "Merged",
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
    "RankFailed",
    "RanksDisagree",
    "ReplicasDiffer",
    "RigL",
    "Row",
    "Sampling",
    "Schedule",
    "ScoreInputs",
    "SemiStructuredLayer",
    "SemiStructuredReport",
    "SequentialReport",
    "ShapeError",
    "SketchTracker",
    "SnapshotTracker",
    "StoredTensorReport",
    "Streaming",
    "Taylor",
    "TensorZeros",
    "UnknownNameError",
    "Wanda",
    "ZeroCount",
    "__version__",
    "apply_masks_",
    "build_info",
    "capture_block_inputs",
    "count_violations",
    "errors",
    "get_cmake_dir",
    "get_include",
    "kth_value",
    "load_masks",
    "make_masks",
    "merge_adapters_",
    "prune_",
    "prune_blocks_",
    "prune_checkpoint",
    "register_optimizer",
    "save_masks",
    "score",
    "scorers",
    "selectors",
    "sparsity",
    "stochastic_round_",
    "strip",
    "to_semi_structured",
]
