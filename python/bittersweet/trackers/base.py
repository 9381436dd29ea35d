"""What all trackers share: names, tensors, the step they have seen, and the saved form."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .. import _core
from ..distributed.shards import local
from ..errors import MissingStateError
from ..optimizers.compilation import outside_of_compilation
from ..optimizers.optimizers import Optimizers
from ..options.scorers import Scorer
from ..options.values import one_of
from ..tensors import devices
from ..tensors.arrays import BFLOAT16, FLOAT32
from ..tensors.owned import address_of, flat_copy, zeros
from .feeding import Feed, Source, packed
from .state import Layout, Restored, pack, validate
from .verbs import fetched, verbs_of

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry
    from ..tensors.masks import Mask

__all__ = ["ModifierTracker", "Tracker"]

_CODES = {"float32": FLOAT32, "bfloat16": BFLOAT16}
_TRACKERS = 0x747261636B657273  # other random bits than those of an optimizer with the same seed


class Tracker(ABC):
    """What all trackers share.

    Args:
        parameters: A model: what `find_targets` chooses by `targets` and `ignore`, looked up by name on every
            call. Or named parameters: a mapping, or pairs as ``named_parameters()`` gives them.
        optimizer: The torch optimizer that trains them.

    Attributes:
        names: The tracked parameters; tied ones count once, under their first name.
        milliseconds: What the last update took.
        storage: How what is kept of each weight is stored: ``"float32"`` or ``"bfloat16"``.

    Raises:
        ArgumentError: Nothing to track, or a bad option.
    """

    scorer: ClassVar[type[Scorer]]
    needed: ClassVar[int]
    """Updates before the first answer."""

    follows_step: ClassVar[bool] = True
    """Whether updates come after ``optimizer.step()``; False: before it, by a hook."""

    roles: ClassVar[tuple[str, ...]]
    """What an update reads of each parameter."""

    storage = "float32"
    _seed = 0

    def __init__(
        self,
        parameters: Any,
        optimizer: torch.optim.Optimizer | Optimizers,
        *,
        targets: Any = None,
        ignore: Any = None,
        _entries: Sequence[PlanEntry] | None = None,
    ) -> None:
        self._source = Source(parameters, Optimizers.of(optimizer), _entries, targets, ignore)
        self._entries = self._source.entries
        self.names = tuple(entry.name for entry in self._entries)
        self.milliseconds = 0.0
        self._feed = Feed(self._source, self.roles)
        self._kept: list[dict[str, torch.Tensor]] = [{} for _ in self._entries]
        self._counts: dict[str, int] = {}
        self._step: int | None = None
        self._memory = array("Q")
        self._generation = -1
        self._eagerly = outside_of_compilation()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.names)} weights, {self.nbytes:,} bytes kept>"

    def update(self, step: int | None = None, masks: Any = None) -> None:
        """Observes one step of training: call it after ``optimizer.step()``, before masks are applied.

        A parameter without optimizer state yet is passed over. Do not call it after a step that the optimizer
        skipped, nor between the backward passes of an accumulated gradient.

        Args:
            step: The number of the step. A second call with the number of the last one changes nothing; None
                always counts.
            masks: What is dead now: `Pruner.masks`, or a mapping of names to `Mask` or bool arrays. Dead
                weights take no part. None: everything is live.

        Raises:
            ArgumentError, ShapeError, DTypeError, DeviceError, LayoutError: For what no engine of this build
                can read, or a model that has moved since; nothing has been changed.
        """
        self._eagerly(self.observe, step, packed(masks, self._entries))

    def observe(self, step: int | None, masks: Mapping[str, Mask]) -> None:
        """`update` with packed masks by name, in a mapping that is not changed afterwards."""
        if step is not None and step == self._step:
            return
        started = time.perf_counter()
        self._observe(masks)
        self._step = step
        self.milliseconds = 1e3 * (time.perf_counter() - started)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tracker keeps."""
        return sum(tensor.nbytes for kept in self._kept for tensor in kept.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, for ``torch.load(weights_only=True)``: plain values, and copies of
        tensors by parameter name."""
        layouts = [self._layout(entry) for entry in self._entries]
        seed = self._seed if self.storage == "bfloat16" else None
        return pack(self.scorer.name, self._entries, self._step, self._counts, self._kept, layouts, seed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a saved state, with the `seed` that it was rounded by; names may have the prefixes of
        torch.compile and DDP.

        Raises:
            CheckpointError: Naming what does not fit, another `storage` too. Nothing has been changed.
        """
        self.adopt(self.checked(state))

    def checked(self, state: Mapping[str, Any], *, convert: bool = False) -> Restored:
        """The saved state, if it fits; see `load_state_dict`. With `convert`, one of another `storage` fits
        too, and is rounded to nearest where it is float32."""
        layouts = [self._layout(entry) for entry in self._entries]
        return validate(state, self.scorer.name, self._entries, layouts, self._counts, convert)

    def adopt(self, restored: Restored) -> None:
        """Takes over what `checked` returned, to where the parameters are."""
        kept = [self._placed(i, tensors) for i, tensors in enumerate(restored.tensors)]
        self._step, self._counts, self._kept = restored.step, restored.counts, kept
        if self.storage == "bfloat16" and restored.seed is not None:
            self._seed = restored.seed
        self._generation = -1

    def follow(self, optimizers: Optimizers) -> None:
        """Reads the state of these optimizers from now on."""
        self._source.optimizers = optimizers

    def detach(self) -> None:  # noqa: B027  (most have none)
        """Removes hooks, where there are any."""

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: all but the addresses of this tracker's own memory."""
        state = {**self.__dict__, "_memory": array("Q"), "_generation": -1}
        del state["_eagerly"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _eagerly=outside_of_compilation())

    def __copy__(self) -> Tracker:
        """A tracker of the same parameters and optimizer, with memory of its own."""
        return copy.deepcopy(self, {id(self._source): self._source})

    @abstractmethod
    def answers(self) -> dict[str, Any]:
        """By name, what the scorer takes from here, or the MissingStateError that says why it cannot."""

    def _known(self, missing: str) -> dict[str, Any]:
        missing = one_of("missing", missing, ("error", "skip"))
        found = self.answers()
        for value in found.values():
            if missing == "error" and isinstance(value, MissingStateError):
                raise value
        return {name: value for name, value in found.items() if not isinstance(value, MissingStateError)}

    def _ready(self, masks: Mapping[str, Mask]) -> bool:
        """Looks at the tensors and at what is kept of them; False if no parameter can be read."""
        self._feed.refresh(masks)
        if self._generation != self._feed.generation:
            present = self._feed.present or ()
            for i in present:
                if not self._kept[i]:
                    self._kept[i] = self._created(i)
                for key in self._kept[i]:
                    self._at(i, key)
            self._memory = array("Q", [word for i in present for word in self._words(i)])
            self._generation = self._feed.generation
        return bool(self._feed.names)

    def _missing(self, i: int, updates: int, why: str) -> MissingStateError:
        if updates < self.needed:
            why = f"it has had {updates} of the {self.needed} updates that come before the first use"
        return MissingStateError(
            f"parameter '{self.names[i]}' has no history that {self.scorer.name} could use: {why}. Let it "
            "train for more steps first, exclude it with ignore, or leave it dense with missing='skip'"
        )

    def _device_of(self, i: int) -> int:
        """Where one parameter is now."""
        return devices.runtime.index_of(local(self._source.parameters()[i]))

    def _placed(self, i: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is kept of one parameter, from memory of the host, where the parameter is."""
        if not tensors or (device := self._device_of(i)) == devices.HOST:
            return tensors
        layout = self._layout(self._entries[i])
        return {
            key: flat_copy(tensor, layout[key][0], zeros(layout[key][1], layout[key][0], device))
            for key, tensor in tensors.items()
        }

    def _numbers(self, key: str) -> dict[int, torch.Tensor]:
        """What is kept under `key`, numbers of 8 bytes, by position and in memory of the host."""
        rows = {i: kept[key] for i, kept in enumerate(self._kept) if kept}
        device = next(map(devices.runtime.index_of, rows.values()), devices.HOST)
        found = fetched(list(rows.values()), device)
        return dict(zip(rows, found, strict=True))

    @property
    def _verbs(self) -> Any:
        return verbs_of(self._feed.device)

    def _created(self, i: int) -> dict[str, torch.Tensor]:
        layout = self._layout(self._entries[i])
        return {key: zeros(count, dtype, self._feed.device) for key, (dtype, count) in layout.items()}

    def _words(self, i: int) -> list[int]:
        """What the compiled module is told of one parameter's memory, which has been looked at."""
        return [tensor.data_ptr() for tensor in self._kept[i].values()]

    @property
    def _draws(self) -> int:
        """The seed of the random bits that bfloat16 arrays are rounded by."""
        return self._seed ^ _TRACKERS

    def _array(self, i: int, key: str, device: int | None = None) -> tuple[int, int]:
        """The address and dtype code of an array that may be bfloat16, after a look at it."""
        return self._at(i, key, device), _CODES[self._layout(self._entries[i])[key][0]]

    def _at(self, i: int, key: str, device: int | None = None) -> int:
        """The address of what is kept under `key` of one parameter, after a look at it. `device`: where it
        has to be; None: where the last update read."""
        device = self._feed.device if device is None else device
        dtype, count = self._layout(self._entries[i])[key]
        what = f"{key} of '{self.names[i]}' in this {type(self).__name__}"
        return address_of(self._kept[i][key], dtype, count, what, device)

    @abstractmethod
    def _layout(self, entry: PlanEntry) -> Layout:
        """What is kept of one parameter."""

    @abstractmethod
    def _observe(self, masks: Mapping[str, Mask]) -> None:
        """Takes in one step of training."""


class ModifierTracker(Tracker):
    """A tracker whose answer is one number a tensor, from its running averages (``scalars``)."""

    _factors: ClassVar[dict[str, int]] = {"flip": 2, "direction": 4, "jitter": 6}
    """Where the C++ struct `Coherence` has the weight of each average, 0 as long as it saw nothing."""

    def modifiers(self, missing: str = "error") -> dict[str, float]:
        """The modifier of every tensor's scores now, by name, for ``ScoreInputs(modifier=...)``.

        Args:
            missing: A tensor without history is an ``"error"``, or is left out (``"skip"``).

        Raises:
            MissingStateError: Naming the tensor, and what it lacks.
            ShapeError, DTypeError, DeviceError, LayoutError: See `update`, where tensors are looked at.
        """
        return self._known(missing)

    def _scalars_layout(self) -> Layout:
        return {"scalars": ("float64", _core.COHERENCE_WIDTH)}

    def _judge(
        self, rows: Mapping[int, torch.Tensor], values: Sequence[float], factors: Sequence[str]
    ) -> Any:
        """`answers` from the scalars of some parameters and the modifiers that they give."""
        found: dict[str, Any] = {}
        given = dict(zip(rows, values, strict=True))
        for i, name in enumerate(self.names):
            row = rows[i].tolist() if i in rows else [0.0] * _core.COHERENCE_WIDTH
            unseen = [factor for factor in factors if row[self._factors[factor]] == 0.0]
            if row[0] < self.needed or unseen:
                why = f"in {row[0]:.0f} updates, {', '.join(unseen)} had no meaning (nothing live that moved)"
                found[name] = self._missing(i, int(row[0]), why)
            else:
                found[name] = given[i]
        return found
