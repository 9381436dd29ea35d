"""The exceptions that Bittersweet raises.

Every message names the argument, what was found, what is accepted and what to do. When one is raised, no
weight, no optimizer state and no mask has been changed. Each class but `Error` itself is also a
``ValueError``, ``TypeError``, ``KeyError``, ``RuntimeError`` or ``ModuleNotFoundError``, so that ordinary
handlers catch it.
The compiled module raises the same classes.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DTypeError",
    "DeviceError",
    "DistributedError",
    "Error",
    "LayoutError",
    "MissingPackageError",
    "MissingStateError",
    "NonFiniteScoreError",
    "RankFailed",
    "RanksDisagree",
    "ReplicasDiffer",
    "ShapeError",
    "UnknownNameError",
]


class Error(Exception):
    """Base class of everything that Bittersweet raises on purpose."""


class ArgumentError(Error, ValueError):
    """A parameter out of range, an unknown name, or two options that exclude each other."""


class ShapeError(Error, ValueError):
    """Sizes that do not fit together."""


class DTypeError(Error, TypeError):
    """An element type that is not float32, float16 or bfloat16 (or bool, for a mask)."""


class DeviceError(Error, ValueError):
    """Memory that no engine of this build can reach, or inputs that live in different places."""


class LayoutError(Error, ValueError):
    """Memory that cannot be used as one array: expanded, overlapping, sparse, distributed, read-only."""


class MissingPackageError(Error, ModuleNotFoundError):
    """An optional package that the call needs is not installed; the message names the extra that has it."""


class MissingStateError(Error, ValueError):
    """The scorer reads an input that this tensor does not have."""


class CheckpointError(Error, ValueError):
    """A saved state that does not fit the model or the configuration it is loaded into."""


class DistributedError(Error, RuntimeError):
    """Ranks that hold one model together cannot go on; every rank raises, and nothing was pruned on any."""


class RanksDisagree(DistributedError):
    """Ranks were given different arguments: another step, another sparsity, another model."""


class RankFailed(DistributedError):
    """Another rank raised an error of its own, which its text repeats."""


class ReplicasDiffer(DistributedError):
    """Copies of one parameter would get different masks, because they, or their optimizer state, differ."""


class UnknownNameError(Error, KeyError):
    """No tensor of this name, in a mapping by names."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError would print its repr


class NonFiniteScoreError(Error, ValueError):
    """NaN scores under ``nonfinite="error"``.

    Attributes:
        parameter: Name of the first tensor that has one.
        count: How many NaN scores there are in all tensors of the call; in a `threshold` by a sample that is
            not verified, how many it drew.
        first_index: Flat (row-major) index of the first one within ``parameter``.
    """

    parameter: str
    count: int
    first_index: int

    def __init__(self, message: str = "", parameter: str = "", count: int = 0, first_index: int = 0) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.count = count
        self.first_index = first_index
