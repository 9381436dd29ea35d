"""Which tensors of a checkpoint are pruned, and why the others are not: by name, type and shape alone."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, DTypeError
from ..options.values import shown
from .blocks import CODES
from .headers import StoredTensor
from .source import Checkpoint

__all__ = ["Choice", "choose"]

_EMBEDDING = re.compile(r"embed|^(wte|wpe|emb|shared)$|^emb_|_emb$")
_NORM = re.compile(r"norm|^ln(_|\d|$)")
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D = re.compile(r"\.(c_attn|c_fc|c_proj|q_attn)\.weight$")


@dataclass(frozen=True)
class Choice:
    """One tensor: `reason` says why it is not pruned, None if it is; `transposed`: its inputs come first."""

    tensor: StoredTensor
    reason: str | None
    transposed: bool = False

    @property
    def pruned(self) -> bool:
        return self.reason is None


class _Globs:
    """Globs of tensor names, each of which matches at least one."""

    def __init__(self, argument: str, globs: Any, names: Sequence[str]) -> None:
        listed = [globs] if isinstance(globs, str) else globs
        if not isinstance(listed, Iterable) or isinstance(listed, (bytes, Mapping)):
            raise ArgumentError(f"{argument}: {shown(globs)}; accepted: a glob of tensor names, or several")
        self.globs: list[str] = []
        for glob in listed:
            if not isinstance(glob, str):
                raise ArgumentError(
                    f"{argument}: {shown(glob)}; accepted: a glob of tensor names, or several"
                )
            if not any(fnmatch.fnmatchcase(name, glob) for name in names):
                near = difflib.get_close_matches(glob, names, n=4, cutoff=0.3) or list(names[:4])
                raise ArgumentError(
                    f"{argument}: '{glob}' matches no tensor of the checkpoint. Near or known names: "
                    f"{', '.join(near)}"
                )
            self.globs.append(glob)

    def match(self, name: str) -> str | None:
        return next((glob for glob in self.globs if fnmatch.fnmatchcase(name, glob)), None)


def choose(
    checkpoint: Checkpoint, include: Any, exclude: Any, transposed: Any, oriented: bool
) -> list[Choice]:
    """One entry for every tensor, in the order of ties. `oriented`: it matters which axis is the input.

    Raises:
        ArgumentError: A glob matches nothing, nothing is left to prune, half of a tied pair would be pruned,
            or a layer that transformers stores transposed is not named by `transposed`.
        DTypeError: A chosen tensor is not float32, float16 or bfloat16.
    """
    tensors = list(checkpoint.tensors)
    names = [tensor.name for tensor in tensors]
    wanted, unwanted, turned = (
        _Globs(argument, globs, names)
        for argument, globs in (("include", include), ("exclude", exclude), ("transposed", transposed))
    )
    by_name = _named_rule(names, checkpoint.config)
    choices = []
    for tensor in tensors:
        reason = _shape_rule(tensor)
        if reason is None and (glob := unwanted.match(tensor.name)) is not None:
            reason = f"excluded by '{glob}'"
        if reason is None and wanted.globs:
            reason = None if wanted.match(tensor.name) else "not named by include"
        elif reason is None:
            reason = by_name(tensor)
        choices.append(Choice(tensor, reason, turned.match(tensor.name) is not None))
    _check_reached(choices, wanted)
    _check_something(choices, checkpoint)
    _check_dtypes(choices, checkpoint)
    _check_tied(choices, checkpoint)
    if oriented:
        _check_conv1d(choices, checkpoint)
    return choices


def _shape_rule(tensor: StoredTensor) -> str | None:
    if len(tensor.shape) < 2:
        return "fewer than two axes"
    return "empty" if tensor.numel == 0 else None


def _named_rule(names: Sequence[str], config: Mapping[str, Any]) -> Callable[[StoredTensor], str | None]:
    """What a tensor's name says against pruning it; `names` tell which gates are routers."""
    with_experts = {name.partition(".experts.")[0] for name in names if ".experts." in name}
    vocabulary = _vocabulary(config)

    def reason(tensor: StoredTensor) -> str | None:
        name = tensor.name.lower()
        parts = name.split(".")
        if parts[-1] != "weight":
            return "its name does not end in .weight"
        if any(_EMBEDDING.search(part) for part in parts):
            return "embedding"
        if "lm_head" in parts or name == "output.weight":
            return "output head"
        if any(_NORM.search(part) for part in parts):
            return "norm"
        if any("bias" in part for part in parts):
            return "bias"
        gate = len(parts) > 1 and parts[-2] == "gate" and tensor.name[: -len(".gate.weight")] in with_experts
        if gate or any("router" in part for part in parts):
            return "router"
        if vocabulary in tensor.shape:
            return f"vocabulary: an axis of {vocabulary:,}, the vocab_size of config.json"
        return None

    return reason


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    for held in (config, text if isinstance(text, dict) else {}):
        if type(size := held.get("vocab_size")) is int and size > 0:
            return size
    return None


def _check_reached(choices: Sequence[Choice], wanted: _Globs) -> None:
    for glob in wanted.globs:
        met = [choice for choice in choices if fnmatch.fnmatchcase(choice.tensor.name, glob)]
        if not any(choice.pruned for choice in met):
            raise ArgumentError(
                f"include: what '{glob}' matches cannot be pruned ('{met[0].tensor.name}': {met[0].reason})"
            )


def _check_something(choices: Sequence[Choice], checkpoint: Checkpoint) -> None:
    if any(choice.pruned for choice in choices):
        return
    listed = "; ".join(f"{choice.tensor.name}: {choice.reason}" for choice in choices[:8])
    more = f"; and {len(choices) - 8} more" if len(choices) > 8 else ""
    raise ArgumentError(
        f"nothing to prune in '{checkpoint.root}' ({listed or 'it holds no tensors'}{more}). Name what is to "
        "be pruned by include"
    )


def _check_dtypes(choices: Sequence[Choice], checkpoint: Checkpoint) -> None:
    wrong = [choice.tensor for choice in choices if choice.pruned and choice.tensor.dtype not in CODES]
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DTypeError(
            f"'{first.name}' in '{checkpoint.files[first.file].path.name}' is {first.dtype}{more}; accepted: "
            "F32, F16 and BF16. Prune before quantizing, or leave such tensors out by exclude"
        )


def _check_tied(choices: Sequence[Choice], checkpoint: Checkpoint) -> None:
    if checkpoint.config.get("tie_word_embeddings") is not True:
        return
    pair = [
        choice
        for choice in choices
        if re.search(r"(^|\.)(lm_head|embed_tokens|wte|embed_in|shared)\.weight$", choice.tensor.name)
    ]
    if len({choice.pruned for choice in pair}) > 1:
        pruned, dense = sorted(pair, key=lambda choice: not choice.pruned)[:: len(pair) - 1]
        raise ArgumentError(
            f"include: '{pruned.tensor.name}' is tied to '{dense.tensor.name}' (config.json: "
            "tie_word_embeddings), and a loader keeps one of the two. Include both or neither"
        )


def _check_conv1d(choices: Sequence[Choice], checkpoint: Checkpoint) -> None:
    if checkpoint.config.get("model_type") not in _CONV1D_MODELS:
        return
    for choice in choices:
        if choice.pruned and not choice.transposed and _CONV1D.search(choice.tensor.name):
            raise ArgumentError(
                f"transposed: '{choice.tensor.name}' is stored as (inputs, outputs) in models of type "
                f"'{checkpoint.config['model_type']}', and rows matter here. Pass transposed='*.c_*.weight' "
                "(--transposed '*.c_*.weight')"
            )
