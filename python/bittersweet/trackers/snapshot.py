"""`SnapshotTracker`: bitter10c's memory, the weights as they were some steps ago."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..distributed.shards import local
from ..options.scorers import Bitter10c, check_seed
from ..options.storage import check_storage
from ..tensors import devices
from ..tensors.masks import WIDTH, Mask
from ..tensors.owned import address_of, flat_copy, pinned, zeros
from ..tensors.packing import words_for
from .base import ModifierTracker
from .state import Layout, Restored
from .verbs import fetched, verbs_of

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry
    from ..optimizers.optimizers import Optimizers

__all__ = ["SnapshotTracker"]

_BITS = {"float32": "int32", "bfloat16": "int16"}  # of the file: NumPy has no bfloat16


class SnapshotTracker(ModifierTracker):
    """bitter10c: whether each tensor still moves as it has since a snapshot. Keeps one copy.

    The first update takes the snapshot, and every `every`-th after it takes the next one, after comparing
    with the old; other updates only count. `modifiers` compares the weights of now with the snapshot; at the
    step of a new snapshot it gives what was found just before. Weights that were dead at any update since the
    snapshot take no part: a masking step must not look like a movement.

    Args:
        parameters, optimizer, targets, ignore: As of `CoherenceTracker`; the optimizer keeps both moments.
        every: Steps from one snapshot to the next.
        floor: See `Bitter10c`.
        path: A file for the snapshot instead of memory (a copy or pickle of the tracker has it in memory
            until it takes the next one): all parameters in `storage`, one after the other in
            the order of `names`. It is written beside and renamed, so that it is always whole, and read
            through a memory map. `state_dict` holds a copy all the same.
        storage: Of the snapshot: ``"float32"`` or ``"bfloat16"``, in half the memory; see `CoherenceTracker`.
            A bfloat16 snapshot of other weights is off by up to a unit in the last place, without bias: what
            weights gain in `every` steps should be more than a few thousandths of them.
        seed: See `CoherenceTracker`.
    """

    scorer = Bitter10c
    needed = 2
    roles = ("weight", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Any,
        optimizer: torch.optim.Optimizer | Optimizers,
        *,
        every: int = 100,
        floor: float = 0.05,
        path: str | os.PathLike[str] | None = None,
        storage: str | torch.dtype = "float32",
        seed: int = 0,
        **choice: Any,
    ) -> None:
        self.storage, self._seed = check_storage(storage), check_seed(seed)
        path = None if path is None else os.fspath(path)
        self._parameters = Bitter10c(every=every, floor=floor, path=path)
        super().__init__(parameters, optimizer, **choice)
        self._counts = {"updates": 0, "age": 0}
        self._on_disk = False
        self._copies: devices.Aside | None = None
        self._masks: Mapping[str, Mask] = {}
        self._alive: dict[str, Mask] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of memory kept. With `path` the snapshot is not among them; see `file_bytes`."""
        return super().nbytes - self.file_bytes

    @property
    def file_bytes(self) -> int:
        """Bytes of the snapshot in the file; 0 without one."""
        if not self._on_disk:
            return 0
        return sum(kept["snapshot"].nbytes for kept in self._kept if kept)

    def state_dict(self) -> dict[str, Any]:
        self._arrived()
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        self._arrived()
        return {**super().__getstate__(), "_copies": None}

    def _arrived(self) -> None:
        """Waits until the host has the last snapshot."""
        if self._copies is not None:
            self._copies.wait()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_on_disk": False})
        self._alive = self._views()

    def answers(self) -> dict[str, Any]:
        width = _core.COHERENCE_WIDTH
        rows = {i: self._scalars_copy(i) for i, kept in enumerate(self._kept) if kept}
        if self._counts["age"]:
            self._compare(rows)
        device = next(map(devices.runtime.index_of, rows.values()), devices.HOST)
        rows = dict(zip(rows, fetched(list(rows.values()), device), strict=True))
        for row in rows.values():
            row[0] = self._counts["updates"]
        addresses = array("Q", [address_of(row, "float64", width, "scalars") for row in rows.values()])
        values = _core.snapshot_modifiers(addresses, self._parameters.floor)
        answers: dict[str, Any] = self._judge(rows, values, ("direction", "jitter"))
        return answers

    def adopt(self, restored: Restored) -> None:
        snapshots = [kept["snapshot"] for kept in restored.tensors if kept]
        if self._parameters.path is not None and len(snapshots) == len(self._entries):
            for kept, mapped in zip(restored.tensors, self._on_file(snapshots), strict=True):
                kept["snapshot"] = mapped
        super().adopt(restored)
        self._copies = None
        self._alive = self._views()

    def _observe(self, masks: Mapping[str, Mask]) -> None:
        age = self._counts["age"] + 1
        if self._counts["updates"] == 0:
            self._take(masks)
            age = 0
        else:
            self._exclude(masks)
            if age >= self._parameters.every:
                self._compare({i: kept["scalars"] for i, kept in enumerate(self._kept)})
                self._take(masks)
                age = 0
        self._counts = {"updates": self._counts["updates"] + 1, "age": age}

    def _exclude(self, masks: Mapping[str, Mask]) -> None:
        """Takes what is dead now out of the comparison, until the next snapshot."""
        if masks is not self._masks:
            for name, alive in self._alive.items():
                if (mask := masks.get(name)) is None:
                    continue
                mask.require_on(alive.device, name, devices.stream_of(alive.device))
                if alive.device == devices.HOST:
                    np.bitwise_and(alive.words, mask.words, out=alive.words)
                else:
                    alive.words.bitwise_and_(mask.words)
        self._masks = masks

    def _compare(self, rows: Mapping[int, torch.Tensor]) -> None:
        """Brings the scalars of `rows` up to now, where the optimizer has a state."""
        self._feed.refresh(self._alive)
        device, table, names = self._feed.device, self._feed.data, self._feed.names
        width, verbs = _core.COHERENCE_WIDTH, verbs_of(device)
        memory, together, of = array("Q"), table[:0], list[str]()
        if device != devices.HOST and self._copies is not None:
            self._copies.join()
        for row, i in enumerate(self._feed.present or ()):
            scalars = address_of(rows[i], "float64", width, f"scalars of '{self.names[i]}'", device)
            if device == devices.HOST or devices.runtime.is_pinned(self._kept[i]["snapshot"]):
                memory.extend((*self._array(i, "snapshot", devices.HOST), scalars))
                together.extend(table[row * WIDTH : (row + 1) * WIDTH])
                of.append(names[row])
                continue
            # Of a file, which a device cannot read: one after the other.
            dtype, count = self._layout(self._entries[i])["snapshot"]
            there = flat_copy(self._kept[i]["snapshot"], dtype, zeros(count, dtype, device))
            code = self._array(i, "snapshot", devices.HOST)[1]
            one = table[row * WIDTH : (row + 1) * WIDTH]
            verbs.compare_snapshot(one, names[row : row + 1], array("Q", (there.data_ptr(), code, scalars)))
        if memory:
            verbs.compare_snapshot(together, of, memory)

    def _take(self, masks: Mapping[str, Mask]) -> None:
        import torch

        now = [local(parameter).detach() for parameter in self._source.parameters()]
        snapshots = self._in_memory(now) if self._parameters.path is None else self._on_file(now)
        for i, entry in enumerate(self._entries):
            device = devices.runtime.index_of(now[i])
            kept = self._kept[i] or self._created(i)
            self._kept[i] = {**kept, "snapshot": snapshots[i]}
            if (mask := masks.get(entry.name)) is not None:
                mask.require_on(device, entry.name, devices.stream_of(device))
            mask = Mask.full(entry.shape, entry.name, "torch", device) if mask is None else mask
            words = mask.words
            kept["alive"].copy_(torch.from_numpy(words.view(np.int64)) if device == devices.HOST else words)
        self._alive, self._masks = self._views(), masks

    def _in_memory(self, now: list[torch.Tensor]) -> list[torch.Tensor]:
        """On the host: of a device, in pinned memory, which copies reach on a stream of their own."""
        found, pairs, device = [], [], devices.HOST
        for i, tensor in enumerate(now):
            former, place = self._kept[i].get("snapshot"), devices.runtime.index_of(tensor)
            if place == devices.HOST:
                found.append(self._snapshot_of(i, tensor, former))
                continue
            if former is None or not devices.runtime.is_pinned(former):
                former = pinned(tensor.numel(), self.storage)
            found.append(former)
            pairs.append((self._snapshot_of(i, tensor), former))
            device = place
        self._copies = devices.runtime.copy_aside(pairs, device) if pairs else None
        return found

    def _snapshot_of(self, i: int, tensor: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
        """A flat copy of one parameter as it is kept, where it is; rounded, if it must be, by the number of
        updates."""
        import torch

        device, count = devices.runtime.index_of(tensor), tensor.numel()
        into = zeros(count, self.storage, device) if into is None else into
        if self.storage == "float32" or tensor.dtype is torch.bfloat16:
            return flat_copy(tensor, self.storage, into)
        wide = flat_copy(tensor, "float32", zeros(count, "float32", device))
        to = address_of(into, "bfloat16", count, f"snapshot of '{self.names[i]}'", device)
        row = array("Q", [address_of(wide, "float32", count, "new memory", device), to, count])
        verbs_of(device).stochastic_round(row, self._draws, self._counts["updates"] % 2**32, i)
        return into

    def _scalars_copy(self, i: int) -> torch.Tensor:
        scalars = self._kept[i]["scalars"]
        width, device = _core.COHERENCE_WIDTH, devices.runtime.index_of(scalars)
        return flat_copy(scalars, "float64", zeros(width, "float64", device))

    def _on_file(self, now: list[torch.Tensor]) -> list[torch.Tensor]:
        """Writes the file anew and maps it; what was mapped before stays valid until it is let go."""
        import torch

        path, bits = self._parameters.path, _BITS[self.storage]
        assert path is not None
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or ".", delete=False) as file:
            try:
                for i, tensor in enumerate(now):
                    self._snapshot_of(i, tensor).cpu().view(getattr(torch, bits)).numpy().tofile(file)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        self._on_disk = True
        sizes = [tensor.numel() for tensor in now]
        whole = np.memmap(path, bits, mode="c") if any(sizes) else np.empty(0, bits)
        dtype = getattr(torch, self.storage)
        with torch.inference_mode(False):
            return [torch.from_numpy(part).view(dtype) for part in np.split(whole, np.cumsum(sizes)[:-1])]

    def _views(self) -> dict[str, Mask]:
        return {
            entry.name: _mask_over(kept["alive"], entry, devices.runtime.index_of(kept["alive"]))
            for entry, kept in zip(self._entries, self._kept, strict=True)
            if kept
        }

    def _placed(self, i: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not tensors or self._device_of(i) == devices.HOST:
            return tensors
        host = tensors["snapshot"]
        others = {key: tensor for key, tensor in tensors.items() if key != "snapshot"}
        if self._parameters.path is None:
            host = flat_copy(host, self.storage, pinned(host.numel(), self.storage))
        return {**super()._placed(i, others), "snapshot": host}

    def _created(self, i: int) -> dict[str, torch.Tensor]:
        layout, device = dict(self._layout(self._entries[i])), self._device_of(i)
        del layout["snapshot"]
        return {key: zeros(count, dtype, device) for key, (dtype, count) in layout.items()}

    def _layout(self, entry: PlanEntry) -> Layout:
        words = ("int64", words_for(entry.numel))
        return {
            "alive": words,
            "scalars": self._scalars_layout()["scalars"],
            "snapshot": (self.storage, entry.numel),
        }


def _mask_over(words: torch.Tensor, entry: PlanEntry, device: int) -> Mask:
    """A mask that shows what these words are from now on."""
    if device == devices.HOST:
        return Mask(words.numpy().view(np.uint64), entry.shape, entry.name)
    return Mask.of(words, entry.shape, entry.name, "torch", device)
