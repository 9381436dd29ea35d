"""Packages that are not always installed: what needs one says which, and how to get it."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingPackageError

__all__ = ["require"]

_EXTRAS = {
    "lightning": "lightning",
    "matplotlib": "plot",
    "peft": None,
    "safetensors": "files",
    "torch": "torch",
    "tqdm": "progress",
    "transformers": "transformers",
}


def require(module: str, purpose: str) -> Any:
    """The module, imported.

    Args:
        module: Its name, such as ``matplotlib.figure``.
        purpose: What it is needed for, at the start of the message.

    Raises:
        MissingPackageError: Its package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        extra = _EXTRAS[package]
        either = f' (or "bittersweet[{extra}]")' if extra else ""
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install {package}{either}", name=package
        ) from None
