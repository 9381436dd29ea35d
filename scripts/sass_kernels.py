"""The hot kernels of the CUDA engine as their machine code shows them: what each costs, and its limits."""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass
from typing import Any

ELEMENTS = 32  # that one lane takes of a tile of 1024

# A lane may issue so many instructions an element before an H200 waits for them rather than for memory
# (132 x 128 lanes at 1.98 GHz, 4.8 TB/s), per byte read; kernels should stay below this share of it.
SLOTS_PER_BYTE = 132 * 128 * 1.98e9 / 4.8e12
SHARE = 0.7
TRANSPOSE_AND_QUEUE = 2.5
REGISTERS = 80
# Division is a call behind a branch, and some formulas cannot meet the budget: reported, not limited.
DIVIDING = {"Bitter0", "Bitter5", "Bitter6", "Bitter9Hybrid", "Bitter10z", "Bitter8BiasCorrected"}
# AdamVariance has one kernel for all its powers: every root is computed and one is chosen. Identity reads
# scores that the caller computed, as a rule in f32.
UNLIMITED_SLOTS = DIVIDING | {"AdamVariance", "Identity"}
DECIDES = {"0": "score", "1": "rough", "2": "pairs"}
ROUGH = {"Bitter3", "Bitter7", "Bitter8"}
STORED = {"1": "f32", "2": "f16", "3": "bf16"}
READS = {  # arrays; two where a scorer is not named
    **dict.fromkeys(("Magnitude", "Gradient", "Identity"), 1),
    **dict.fromkeys(("Bitter0", "Bitter5", "Bitter6", "Bitter9Hybrid", "Bitter10z"), 3),
}
BYTES = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass
class Kernel:
    """One bracket kernel. Its hot loop reaches from the first vector load to a tile's last comparison."""

    scorer: str
    weight: str
    state: str
    decides: str
    registers: int
    local_bytes: int
    instructions: int
    slots: float  # issued for each element, mask transposition and queue not included
    budget: float  # SHARE of the slots that memory leaves, less those of transposition and queue
    loads: dict[str, int]
    branches: int  # BSSY in the hot loop: one may ask whether the tile has a mask of dead elements

    def name(self) -> str:
        state = f" {self.state}" if READS.get(self.scorer, 2) > 1 else ""
        return f"{self.scorer} {self.weight}{state} by {self.decides}"

    def unlimited(self) -> bool:
        """Exact scores of scorers that have rough ones are for eps = 0."""
        return self.scorer in UNLIMITED_SLOTS or (self.scorer in ROUGH and self.decides == "score")

    def faults(self) -> list[str]:
        wide = "LDG.E.EF.128"
        found = []
        if self.registers > REGISTERS:
            found.append(f"{self.registers} registers, more than {REGISTERS}")
        if wide not in self.loads or any(load not in (wide, "LDG.E.EF.64") for load in self.loads):
            found.append(f"loads {self.loads}, not vectors")
        if self.scorer not in DIVIDING and self.branches > 1:
            found.append(f"{self.branches} branches in the hot loop, where one a tile is allowed")
        if not self.unlimited() and self.slots > self.budget:
            found.append(f"{self.slots:.1f} slots an element, more than {self.budget:.1f}")
        return found


ADAM_STORED = {"0": "f32", "1": "bf16", "3": "bf16, state f32", "4": "f16, state f32"}
ADAM_BYTES = {"f32": 4 * 7, "bf16": 2 * 7, "bf16, state f32": 2 * 3 + 4 * 4, "f16, state f32": 2 * 3 + 4 * 4}
ADAM_BUFFER = {"f32": 8, "bf16": 4, "bf16, state f32": 8, "f16, state f32": 8}


@dataclass
class AdamKernel:
    """One form of the optimizer's pass. Its hot part reaches from the first vector load of neighbours with a
    live element to the last store of them; what it branches around (slow paths of divisions, the gradient's
    own) is counted as well."""

    storage: str
    contracted: bool
    amsgrad: bool
    drawn: bool
    registers: int
    local_bytes: int
    instructions: int
    slots: float  # for each element
    memory_slots: float  # that memory leaves for the bytes read and written
    loads: dict[str, int]
    stores: dict[str, int]

    def name(self) -> str:
        return f"Adam {self.storage}{', amsgrad' * self.amsgrad}{', contracted' * self.contracted}" + (
            ", drawn" * self.drawn
        )

    def faults(self) -> list[str]:
        narrow = 2 if self.storage.endswith("state f32") else 0  # four halves: weight and gradient
        if self.drawn and self.storage == "bf16":
            narrow = 4 + self.amsgrad
        wide = 4 - narrow + self.amsgrad
        expected = {"LDG.E.EF.128": wide} if wide else {}
        expected |= {"LDG.E.EF.64": narrow} if narrow else {}
        found = []
        if self.registers > REGISTERS:
            found.append(f"{self.registers} registers, more than {REGISTERS}")
        if self.loads != expected:
            found.append(f"loads {self.loads}, not {expected}")
        if self.stores.keys() != {load.replace("LDG", "STG") for load in expected}:
            found.append(f"stores {self.stores}, not vectors")
        return found


@dataclass
class ProductKernel:
    """One product with packed strips. Its hot part is the loop over tiles."""

    weight: str
    batch: int
    registers: int
    local_bytes: int
    instructions: int
    slots: float  # for each weight, dead or alive
    memory_slots: float  # that memory leaves for one of two weights that are stored, and a bit
    loads: dict[str, int]

    def name(self) -> str:
        return f"product {self.weight}, batch {self.batch}"

    def faults(self) -> list[str]:
        return [] if "LDG.E.EF.128" in self.loads else [f"loads {self.loads}, no vectors"]


@dataclass
class RoundingKernel:
    """Stochastic rounding. Its hot part reaches from the first vector load to the first vector store."""

    registers: int
    local_bytes: int
    instructions: int
    slots: float  # for each element
    memory_slots: float
    loads: dict[str, int]
    stores: dict[str, int]

    def name(self) -> str:
        return "stochastic rounding"

    def faults(self) -> list[str]:
        found = []
        if self.loads.keys() != {"LDG.E.EF.128"} or self.stores.keys() != {"STG.E.EF.128"}:
            found.append(f"loads {self.loads}, stores {self.stores}, not vectors")
        if self.slots > SHARE * self.memory_slots:
            found.append(f"{self.slots} slots an element, more than {SHARE * self.memory_slots:.1f}")
        return found


def bracket_kernel(name: str, code: list[str], registers: int, local: int) -> Kernel | None:
    """The kernel's figures, if it is a bracket pass over vectors."""
    match = re.search(r"BracketTilesINS_\d+(\w+?)ELNS_5DTypeE(\d)ELS\d+_(\d)ELNS\w*?6DecideE(\d)E", name)
    vectors = [i for i, op in enumerate(code) if op.startswith("LDG.E.EF")]
    if match is None or not vectors:
        return None
    scorer, weight, state = match.group(1), STORED[match.group(2)], STORED[match.group(3)]
    end = next(i for i in range(vectors[-1], len(code)) if code[i].startswith("POPC"))
    while not code[end].startswith(("FSETP", "HSET2")):
        end -= 1  # the last comparison of a score
    hot = code[vectors[0] : end + 1]
    size = BYTES[weight] + BYTES[state] * (READS.get(scorer, 2) - 1)
    return Kernel(
        scorer,
        weight,
        state,
        DECIDES[match.group(4)],
        registers,
        local,
        len(code),
        round(len(hot) / ELEMENTS, 2),
        round(SHARE * SLOTS_PER_BYTE * size - TRANSPOSE_AND_QUEUE, 1),
        dict(sorted(collections.Counter(code[i] for i in vectors).items())),
        sum(op.startswith("BSSY") for op in hot),
    )


def adam_kernel(name: str, code: list[str], registers: int, local: int) -> AdamKernel | None:
    """The kernel's figures, if it is an optimizer's pass."""
    match = re.search(r"AdamPassILNS\w*?StorageE(\d)ELb(\d)ELb(\d)ELb(\d)E", name)
    loads = [i for i, op in enumerate(code) if op.startswith("LDG.E.EF")]
    if match is None or not loads:
        return None
    storage, amsgrad, drawn = ADAM_STORED[match.group(1)], match.group(3) == "1", match.group(4) == "1"
    width = 8 if storage == "bf16" and not drawn else 4
    arrays = 4 + amsgrad
    hot = loads[:arrays]
    stores = [i for i, op in enumerate(code) if op.startswith("STG.E.EF") and i > hot[-1]][:arrays]
    size = ADAM_BYTES[storage] + ADAM_BUFFER[storage] * amsgrad
    return AdamKernel(
        storage,
        match.group(2) == "1",
        amsgrad,
        drawn,
        registers,
        local,
        len(code),
        round((stores[-1] + 1 - hot[0]) / width, 1),
        round(SLOTS_PER_BYTE * size, 1),
        dict(sorted(collections.Counter(code[i] for i in hot).items())),
        dict(sorted(collections.Counter(code[i] for i in stores).items())),
    )


def product_kernel(name: str, code: list[str], registers: int, local: int) -> ProductKernel | None:
    """The kernel's figures, if it is a product with strips."""
    match = re.search(r"MultiplyStripsILNS\w*?DTypeE(\d)ELi(\d+)E", name)
    if match is None:
        return None
    weight, batch = STORED[match.group(1)], int(match.group(2))
    weights = 2 * (4 if batch < 8 else 2)  # of a lane in one round of the loop
    sums = [i for i, op in enumerate(code) if op.startswith("FFMA")]
    loads = [i for i, op in enumerate(code) if op.startswith("LDG.E.EF")]
    last = sums[weights * batch - 1]
    first = next(i for i in range(loads[-1], len(code)) if code[i] == "LDS.64")
    end = next(i for i in range(last, len(code)) if code[i] == "BRA")
    return ProductKernel(
        weight,
        batch,
        registers,
        local,
        len(code),
        round((end + 1 - first) / weights, 1),
        round(SLOTS_PER_BYTE * (BYTES[weight] / 2 + 1 / 8), 1),
        dict(sorted(collections.Counter(code[i] for i in loads).items())),
    )


def rounding_kernel(name: str, code: list[str], registers: int, local: int) -> RoundingKernel | None:
    """The kernel's figures, if it rounds arrays."""
    loads = [i for i, op in enumerate(code) if op.startswith("LDG.E.EF")]
    if "RoundArrays" not in name or not loads:
        return None
    stores = [i for i, op in enumerate(code) if op.startswith("STG.E.EF")]
    return RoundingKernel(
        registers,
        local,
        len(code),
        round((stores[0] + 1 - loads[0]) / 8, 1),
        round(SLOTS_PER_BYTE * (4 + 2), 1),
        dict(sorted(collections.Counter(code[i] for i in loads).items())),
        dict(sorted(collections.Counter(code[i] for i in stores).items())),
    )


Special = AdamKernel | ProductKernel | RoundingKernel
SPECIAL: tuple[type[Any], ...] = (AdamKernel, ProductKernel, RoundingKernel)
