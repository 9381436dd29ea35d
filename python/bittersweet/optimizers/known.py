"""The optimizers that Bittersweet knows, by module path and class name.

An optimizer that is missing here works with scorers that read weights and gradients alone; what it keeps
under Adam's names is taken for Adam's moments, and a warning says so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .adapters import MOMENTS, UNKNOWN, Adapter, Moment, moments, registered, search
from .decoding import FACTORED, FACTORED_MEANS, blockwise

if TYPE_CHECKING:
    import torch

__all__ = ["adapter_of", "element_wise_names"]

_BOTH = Adapter({role: Moment((role,)) for role in MOMENTS})
_FIRST = Adapter(moments("exp_avg"))
_SECOND = Adapter({role: Moment((role,)) for role in MOMENTS[1:]})
_VARIANCE = Adapter(
    {
        "exp_avg": Moment(("exp_avg",)),
        "exp_avg_sq": Moment(("exp_avg_var",)),
        "max_exp_avg_sq": Moment(("max_exp_avg_var",)),
    }
)

_SUM = "its momentum is a sum of gradients and no mean"
_SUM_OF_SQUARES = "it keeps the sum of squared gradients over all steps and no running mean"
_UPDATES = "it averages its updates and not the gradients"
_SCALED = "it averages gradients that were divided by their root mean square"
_WEIGHTS = "it averages weights and not the gradients"
_ROTATED = "its moments are in the rotated basis of its preconditioner"
_MATRICES = "it keeps matrices that precondition whole axes, and no mean per weight"
_LOW_RANK = "its moments are of a lower rank, in the basis of a projection"
_SHARED = "it keeps one second moment for many weights"
_SPARSE = "it keeps moments of a changing part of the weights only"


def _with(adapter: Adapter, **changes: Any) -> Adapter:
    return dataclasses.replace(adapter, **changes)


def _without(reason: str, *roles: str) -> dict[str, str]:
    return dict.fromkeys(roles or MOMENTS, reason)


def _low_rank(group: Mapping[str, Any], _: str) -> str | None:
    return _LOW_RANK if group.get("rank") is not None else None


def _muon(group: Mapping[str, Any], role: str) -> str | None:
    return "" if role != "exp_avg" and group.get("use_muon", True) else None


_EACH = _with(_BOTH, elementwise=True)
_MUON = Adapter(
    {
        # An average of gradients, like Adam's; only the step taken from it is orthogonal.
        "exp_avg": Moment(("momentum_buffer", "exp_avg")),
        "exp_avg_sq": Moment(("exp_avg_sq",)),
    },
    without=_muon,
)
_PROJECTED = _with(_BOTH, without=_low_rank, projected=True)
_ADAFACTOR = Adapter({"exp_avg_sq": FACTORED_MEANS}, reasons=_without(_UPDATES, "exp_avg"))
_FREE = _with(_SECOND, step="k", companions=("z",), elementwise=True, reasons=_without(_WEIGHTS, "exp_avg"))
_FREE_SGD = _with(_FREE, moments={}, reasons=_without(_WEIGHTS))
_FREE_ALIKE = _with(_FREE, step="step", elementwise=False)
_THREE_COPIES = ("z", "x", "y")
_TWO_STATES = Adapter({"exp_avg": blockwise(1), "exp_avg_sq": blockwise(2)})

_TABLE: tuple[tuple[str, str, Adapter], ...] = (
    ("torch.optim", "Adam AdamW NAdam RAdam", _EACH),
    ("bittersweet.optim", "Adam AdamW", _EACH),
    ("torch.optim", "Adamax", _with(_FIRST, others={"exp_inf": None}, elementwise=True)),
    (
        "torch.optim",
        "SGD",
        Adapter(
            step=None,
            others={"momentum_buffer": "momentum"},
            elementwise=True,
            reasons=_without(_SUM, "exp_avg"),
        ),
    ),
    (
        "torch.optim",
        "RMSprop",
        Adapter(
            moments(None, "square_avg"),
            others={"momentum_buffer": "momentum", "grad_avg": "centered"},
            elementwise=True,
        ),
    ),
    (
        "torch.optim",
        "Adagrad",
        Adapter(others={"sum": None}, elementwise=True, reasons=_without(_SUM_OF_SQUARES, "exp_avg_sq")),
    ),
    (
        "torch.optim",
        "Adadelta",
        Adapter(moments(None, "square_avg"), others={"acc_delta": None}, elementwise=True),
    ),
    ("torch.optim", "ASGD", Adapter(companions=("ax",), elementwise=True)),
    ("torch.optim", "Rprop", Adapter(others={"prev": None, "step_size": None}, elementwise=True)),
    ("torch.optim", "SparseAdam", _BOTH),
    ("torch.optim", "Adafactor", Adapter({"exp_avg_sq": FACTORED})),
    ("torch.optim", "Muon", _with(_MUON, step=None)),
    (
        "torch.optim",
        "LBFGS",
        Adapter(step=None, reasons=_without("it keeps a history of steps and no means")),
    ),
    # Low bits: codes are scored decoded and never written. Element-wise, but zeros cannot be put into them.
    ("torchao.optim", "Adam8bit AdamW8bit Adam4bit AdamW4bit AdamFp8 AdamWFp8", _BOTH),
    ("torchao.optim", "_Adam _AdamW", _EACH),
    (
        "bitsandbytes.optim",
        "Adam Adam8bit Adam32bit PagedAdam PagedAdam8bit PagedAdam32bit AdamW AdamW8bit AdamW32bit "
        "PagedAdamW PagedAdamW8bit PagedAdamW32bit LAMB LAMB8bit LAMB32bit",
        _TWO_STATES,
    ),
    (
        "bitsandbytes.optim",
        "AdEMAMix AdEMAMix8bit AdEMAMix32bit PagedAdEMAMix PagedAdEMAMix8bit PagedAdEMAMix32bit",
        Adapter({"exp_avg": blockwise(1, part=0), "exp_avg_sq": blockwise(2)}),
    ),
    (
        "bitsandbytes.optim",
        "Lion Lion8bit Lion32bit PagedLion PagedLion8bit PagedLion32bit",
        Adapter({"exp_avg": blockwise(1)}),
    ),
    ("bitsandbytes.optim", "RMSprop RMSprop8bit RMSprop32bit", Adapter({"exp_avg_sq": blockwise(1)})),
    (
        "bitsandbytes.optim",
        "Adagrad Adagrad8bit Adagrad32bit",
        Adapter(others={"state1": None}, reasons=_without(_SUM_OF_SQUARES, "exp_avg_sq")),
    ),
    (
        "bitsandbytes.optim",
        "SGD SGD8bit SGD32bit LARS LARS8bit LARS32bit",
        Adapter(others={"state1": None}, reasons=_without(_SUM, "exp_avg")),
    ),
    (
        "bitsandbytes.optim",
        "PytorchLARS",
        Adapter(others={"momentum_buffer": None}, reasons=_without(_SUM, "exp_avg")),
    ),
    ("transformers.optimization", "Adafactor", _ADAFACTOR),
    ("galore_torch", "AdamW", _PROJECTED),
    ("prodigyopt", "Prodigy", _BOTH),
    ("apex.optimizers", "FusedAdam FusedLAMB", _BOTH),
    ("transformer_engine", "FusedAdam", _with(_BOTH, companions=("master_param",))),
    ("schedulefree", "AdamWScheduleFree AdamWScheduleFreeClosure AdamWScheduleFreePaper", _FREE),
    ("schedulefree", "RAdamScheduleFree RAdamScheduleFreeClosure", _FREE),
    ("schedulefree", "SGDScheduleFree SGDScheduleFreeClosure", _FREE_SGD),
    ("schedulefree", "AdamWScheduleFreeReference", _with(_FREE, companions=_THREE_COPIES)),
    ("schedulefree", "SGDScheduleFreeReference", _with(_FREE_SGD, companions=_THREE_COPIES)),
    (
        "pytorch_optimizer",
        "AdaBound AdaGC Adai AdamC AdaMod AdamP AdamS Adan AdEMAMix SimplifiedAdEMAMix AvaGrad DAdaptAdam "
        "DAdaptAdan DiffGrad DualAdam EXAdam Grams GrokFastAdamW Lamb MARS MSVAG PAdam Prodigy QHAdam RAdam "
        "StableAdamW StableSPAM SWATS Yogi",
        _BOTH,
    ),
    ("pytorch_optimizer", "AdaBelief AdaNorm Aida", _VARIANCE),
    ("pytorch_optimizer", "ADOPT LaProp", _with(_SECOND, reasons=_without(_SCALED, "exp_avg"))),
    (
        "pytorch_optimizer",
        "AdaPNM",
        _with(_SECOND, reasons=_without("it keeps two averages of every other gradient", "exp_avg")),
    ),
    ("pytorch_optimizer", "AdaMax", _with(_FIRST, others={"exp_inf": None})),
    ("pytorch_optimizer", "AdaHessian", _with(_FIRST, others={"exp_hessian_diag_sq": None})),
    ("pytorch_optimizer", "EmoNavi", _with(_BOTH, companions=("shadow",))),
    ("pytorch_optimizer", "EmoLynx", _with(_FIRST, companions=("shadow",))),
    ("pytorch_optimizer", "Tiger", _FIRST),
    ("pytorch_optimizer", "Ranger", _with(_BOTH, companions=("slow_buffer",))),
    ("pytorch_optimizer", "AdaFactor CAME", _ADAFACTOR),
    ("pytorch_optimizer", "GaLore APOLLO Fira", _PROJECTED),
    (
        "pytorch_optimizer",
        "Conda",
        _with(_FIRST, reasons=_without("they are in the basis of a projection", "exp_avg_sq")),
    ),
    ("pytorch_optimizer", "Muon MuonClip NorMuon DistributedMuon", _MUON),
    ("pytorch_optimizer", "ScheduleFreeAdamW ScheduleFreeRAdam", _FREE_ALIKE),
    ("pytorch_optimizer", "ScheduleFreeSGD", _with(_FREE_ALIKE, moments={}, reasons=_without(_WEIGHTS))),
    (
        "pytorch_optimizer",
        "MADGRAD",
        Adapter(
            others={"grad_sum_sq": None, "s": None},
            companions=("x0",),
            reasons=_without(_SUM_OF_SQUARES, "exp_avg_sq"),
        ),
    ),
    (
        "pytorch_optimizer",
        "DAdaptAdaGrad",
        Adapter(
            others={"alpha_k": None, "sk": None},
            companions=("x0",),
            reasons=_without(_SUM_OF_SQUARES, "exp_avg_sq"),
        ),
    ),
    ("pytorch_optimizer", "DAdaptSGD", Adapter(others={"z": None, "s": None}, companions=("x0",))),
    (
        "pytorch_optimizer",
        "SPlus",
        Adapter(others={"momentum": None}, companions=("ema",), reasons=_without(_MATRICES)),
    ),
    ("pytorch_optimizer", "AdaDelta", Adapter(moments(None, "square_avg"), others={"acc_delta": None})),
    ("pytorch_optimizer", "SM3 Nero AdamMini Adalite Amos", Adapter(reasons=_without(_SHARED, "exp_avg_sq"))),
    ("pytorch_optimizer", "SPAM SaRA", Adapter(reasons=_without(_SPARSE))),
    ("pytorch_optimizer", "Alice RACS Kron DASH", Adapter(reasons=_without(_MATRICES))),
    # By class name alone: kept in many packages and copied into many projects.
    ("", "SOAP", Adapter(reasons=_without(_ROTATED))),
    ("", "Shampoo ScalableShampoo DistributedShampoo", Adapter(reasons=_without(_MATRICES))),
    ("", "Lion", _with(_FIRST, elementwise=True)),
    ("", "AdaBelief", _VARIANCE),
)


@functools.cache
def _by_name() -> Mapping[str, list[tuple[str, Adapter]]]:
    found: dict[str, list[tuple[str, Adapter]]] = {}
    for prefix, names, adapter in _TABLE:
        for name in names.split():
            found.setdefault(name, []).append((prefix, adapter))
    return found


def _known(cls: type) -> Adapter | None:
    for prefix, adapter in _by_name().get(cls.__name__, ()):
        if not prefix or f"{cls.__module__}.".startswith(f"{prefix}."):
            return adapter
    return None


def adapter_of(optimizer: torch.optim.Optimizer) -> Adapter:
    """What is known of its class, or of the base whose ``step`` it inherits; else `UNKNOWN`."""
    kind = type(optimizer)
    return search(kind, registered) or search(kind, _known) or UNKNOWN


def element_wise_names() -> tuple[str, ...]:
    """The optimizers that are known to update element by element."""
    return tuple(
        dict.fromkeys(name for _, names, adapter in _TABLE if adapter.elementwise for name in names.split())
    )
