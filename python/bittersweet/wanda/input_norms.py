"""The norms of input features that scorer ``"wanda"`` reads, read once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..distributed.parts import norm_of_part
from ..errors import ArgumentError, MissingStateError, ShapeError
from ..model.targets import PlanEntry
from ..tensors.arrays import inspect
from ..tensors.table import ScoreInputs

__all__ = ["InputNorms"]

_ACCEPTED = "a mapping from parameter names to norms"


class InputNorms:
    """A mapping from parameter names to norms, or a callable that returns one; `load` copies it once."""

    def __init__(self, source: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None) -> None:
        if not (source is None or isinstance(source, Mapping) or callable(source)):
            raise ArgumentError(
                f"input_norms: found {type(source).__name__}; accepted: {_ACCEPTED}, or a callable that "
                "returns one"
            )
        self._source = source
        self._kept: dict[str, Any] | None = None

    @property
    def given(self) -> frozenset[str]:
        """What a scorer can read of it, as an argument of `ScoreInputs`."""
        return frozenset() if self._source is None else frozenset(("input_norm",))

    def load(self) -> None:
        """Reads or calls the source, unless that has been done since the last `invalidate`."""
        if self._kept is None:
            source = self._source() if callable(self._source) else self._source
            if not (source is None or isinstance(source, Mapping)):
                raise ArgumentError(
                    f"input_norms: the callable returned {type(source).__name__}; accepted: {_ACCEPTED}"
                )
            self._kept = {str(name): _copy(norm, str(name)) for name, norm in (source or {}).items()}

    def of(self, entry: PlanEntry) -> Any:
        """The norms of one target, under any of its names. Raises MissingStateError if there are none."""
        for name in (entry.name, *entry.aliases):
            if self._kept is not None and name in self._kept:
                return self._kept[name]
        raise MissingStateError(
            f"input_norms: there are none for '{entry.name}', and the scorer reads them. Give them (call "
            "invalidate() if they came after the first probe), or leave this weight out with ignore"
        )

    def here(self, entry: PlanEntry) -> Any:
        """The norms of the features that this rank's part of the target reads.

        Raises:
            ShapeError: The part cuts through a group of features.
            MissingStateError: See `of`.
        """
        item = ScoreInputs(None, name=entry.name, **entry.axes._asdict(), shard=entry.shard)
        return norm_of_part(self.of(entry), item, entry.local_shape, entry.name)

    def missing(self, entry: PlanEntry, reads: frozenset[str]) -> MissingStateError | None:
        """The error to raise if the scorer reads norms and this target has none."""
        if "input_norm" in reads:
            try:
                self.of(entry)
            except MissingStateError as error:
                return error
        return None

    def check(self, targets: Iterable[PlanEntry], skip: bool) -> None:
        """Loads, and raises what a use would: ShapeError, and MissingStateError unless `skip`."""
        self.load()
        for entry in targets if self._source is not None else ():
            if (error := self.missing(entry, self.given)) is not None:
                if skip:
                    continue
                raise error
            if tuple(self.of(entry).shape) == (entry.features,):
                self.here(entry)
            else:
                raise ShapeError(
                    f"input_norms: that of '{entry.name}' has shape {tuple(self.of(entry).shape)}; accepted: "
                    f"({entry.features},), one norm per input feature"
                )

    def digest(self) -> str | None:
        """A short text that differs where norms differ, for checkpoints; None without a source."""
        if self._source is None:
            return None
        self.load()
        found = hashlib.sha256()
        for name, norm in sorted((self._kept or {}).items()):
            values = norm.detach().cpu().float().numpy() if hasattr(norm, "detach") else np.asarray(norm)
            found.update(name.encode() + b"\0" + values.astype(np.float32).tobytes())
        return found.hexdigest()[:16]

    def invalidate(self) -> None:
        """Forgets the copies: the next `load` reads (or calls) the source again."""
        self._kept = None


def _copy(norm: Any, name: str) -> Any:
    found = inspect(norm, "input_norms", name)
    return found.source.detach().clone() if found.framework == "torch" else np.array(found.source)
