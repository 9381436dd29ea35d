"""What is masked of an optimizer's state and what is left alone, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .adapters import UNKNOWN, Adapter

if TYPE_CHECKING:
    import torch

__all__ = ["Kept", "in_words"]


@dataclass(frozen=True)
class Kept:
    """One optimizer: the one that has the state, and what around it keeps copies of the weights."""

    optimizer: torch.optim.Optimizer
    adapter: Adapter
    groups: Sequence[Mapping[str, Any]]
    copying: Sequence[Any]

    @property
    def name(self) -> str:
        return type(self.optimizer).__name__

    @property
    def low_bits(self) -> bool:
        low = any(mark in self.name for mark in ("8bit", "4bit", "Fp8"))
        return low or getattr(getattr(self.optimizer, "args", None), "optim_bits", 32) == 8

    def turned_on(self, *options: str) -> bool:
        return any(group.get(option) for group in self.groups for option in options)

    def copies(self) -> list[str]:
        """The second copies of the weights."""
        keys = list(self.adapter.companions)
        return keys + [f"the copies of the weights in {type(one).__name__}" for one in self.copying]

    def state(self) -> tuple[list[str], list[str]]:
        """The keys whose tensors are masked, and phrases about the others."""
        adapter, name = self.adapter, self.name
        if adapter is UNKNOWN:
            return [f"what {name}, which is not known, keeps under the names of Adam's moments"], []
        plain: list[str] = []
        coded: list[str] = []
        factors: list[str] = []
        for role, moment in adapter.moments.items():
            off = role == "max_exp_avg_sq" and not self.turned_on("amsgrad", "ams_bound")
            if off or all(adapter.lacks(role, group) is not None for group in self.groups):
                continue
            if self.low_bits:
                coded.append(moment.label)
            elif set(moment.sources) - set(moment.keys):
                factors += moment.sources
            else:
                plain.append(moment.label)
        others = [key for key, option in adapter.others.items() if option is None or self.turned_on(option)]
        left = [
            f"{_listed(keys)} of {name} {'is' if len(keys) == 1 else 'are'} left alone{why}"
            for keys, why in (
                (coded, " where quantised"),
                (factors, ", having no number per weight"),
                (others, ""),
            )
            if keys
        ]
        told = plain or left or adapter.others or adapter.companions
        if not told and (adapter.moments or adapter.reasons):
            left.append(f"the state of {name} is left alone")
        return plain, left


def in_words(told: Sequence[Kept], mask_state: bool) -> str:
    """What ``hold="weights"`` keeps at zero, and what it does not."""
    held: dict[str, list[str]] = {}
    left: list[str] = []
    for one in told:
        plain, phrases = one.state() if mask_state else ([], [])
        held.setdefault(one.name, []).extend([*plain, *one.copies()])
        left += phrases
    several = len(told) > 1
    parts = ["weights"]
    for name, keys in held.items():
        keys = list(dict.fromkeys(keys))
        parts += [f"{_listed(keys)} of {name}"] if several and keys else keys
    return "; ".join((_listed(parts), *dict.fromkeys(left)))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
