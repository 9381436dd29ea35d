"""Sequential WANDA: prunes block by block, each on the inputs that the pruned blocks before it make.

Only one set of hidden states is alive, the inputs of the present block; nothing of a block is kept after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..model.targets import PlanEntry, find_targets
from ..options.scopes import Global, Scope, resolve_scope
from ..options.values import one_of
from ..progress import ticking
from ..select.events import MaskEvent
from ..select.functional import make_masks, prune_
from ..tensors.table import ScoreInputs
from .calibration import Calibrator, call_model

if TYPE_CHECKING:
    import torch

__all__ = ["BlockInput", "SequentialReport", "capture_block_inputs", "prune_blocks_"]


@dataclass
class BlockInput:
    """The arguments of one call of a block. The first tensor among them is the hidden state, the others
    (attention masks, positions) go to every block.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        named = [f"{name}={_brief(value)}" for name, value in self.kwargs.items()]
        return f"BlockInput({', '.join([*map(_brief, self.args), *named])})"

    @property
    def hidden(self) -> torch.Tensor:
        found: torch.Tensor = (*self.args, *self.kwargs.values())[self._place()]
        return found

    def with_hidden(self, hidden: torch.Tensor) -> BlockInput:
        """The same call with another hidden state."""
        values = [*self.args, *self.kwargs.values()]
        values[self._place()] = hidden
        count = len(self.args)
        return BlockInput(tuple(values[:count]), dict(zip(self.kwargs, values[count:], strict=True)))

    def _place(self) -> int:
        import torch

        for place, value in enumerate((*self.args, *self.kwargs.values())):
            if isinstance(value, torch.Tensor):
                return place
        raise ArgumentError("inputs: a call of a block has no tensor among its arguments, so no hidden state")


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else "x".join(map(str, shape)) or "scalar"


@dataclass(frozen=True)
class SequentialReport:
    """What `prune_blocks_` did.

    Attributes:
        events: One per block that has targets, or per weight with ``recompute="layer"``; tensors are named
            with the position of their block in front.
        calibrations: Per block: how often it was run over all inputs to collect norms.
        forwards: Per block: how often it was run over all inputs at all, for norms and for the next block's
            inputs.
    """

    events: tuple[MaskEvent, ...]
    calibrations: tuple[int, ...]
    forwards: tuple[int, ...]

    @property
    def achieved_sparsity(self) -> float:
        """Pruned share of all targets."""
        total = sum(event.total for event in self.events)
        return sum(event.pruned for event in self.events) / total if total else 0.0

    def __repr__(self) -> str:
        return f"SequentialReport({self})"

    def __str__(self) -> str:
        return (
            f"{len(self.calibrations)} blocks, {sum(len(event.per_tensor) for event in self.events)} "
            f"weights at {self.achieved_sparsity:.2%} sparsity; calibrations per block: "
            f"{_few(self.calibrations)}; passes over the inputs per block: {_few(self.forwards)}"
        )


def prune_blocks_(
    blocks: torch.nn.Sequential | torch.nn.ModuleList | Sequence[torch.nn.Module],
    inputs: Iterable[Any],
    *,
    sparsity: float | None = None,
    scope: str | Scope = "row",
    rounding: str = "nearest",
    remainder: str = "error",
    recompute: str = "block",
    targets: Any = None,
    ignore: Any = None,
    show_progress: bool = True,
) -> SequentialReport:
    """Prunes the weights of `blocks` in place by WANDA, in order, each on the inputs that it will really get.

    For each block: run it over all inputs and collect norms (`Calibrator`: eval mode, no gradients, restored
    afterwards), prune its weights, run it again, and take what comes out as the next block's inputs.

    Args:
        blocks: The blocks, each called on the first output of the one before. Blocks without targets are run
            only.
        inputs: Inputs of the first block: tensors, or `BlockInput` as `capture_block_inputs` gives them. They
            are not written to.
        sparsity, scope, rounding, remainder: See `make_masks`. Scope ``"global"`` is refused: thresholds are
            settled block by block.
        recompute: ``"block"`` scores all weights of a block on the norms of one pass (the published way: one
            calibration per block). ``"layer"`` collects again before every weight, through the weights that
            were pruned in front of it in the same block: as many calibrations as weights.
        targets, ignore: As in `Pruner`; names begin with the position of the block, as in ``"0.fc.weight"``.
            A parameter that several blocks share is pruned with the first.
        show_progress: Show a bar over the blocks where stderr is a terminal and tqdm is installed.

    Raises:
        ArgumentError, ShapeError: A bad option or a scope that does not divide a weight; nothing has been
            changed.
        ArgumentError, MissingStateError: Inputs that are not finite, or a layer that a block does not call.
            Blocks before this one stay pruned.
    """
    from torch import nn

    recompute = one_of("recompute", recompute, ("block", "layer"))
    listed = list(blocks)
    if not listed or not all(isinstance(block, nn.Module) for block in listed):
        raise ArgumentError(
            "blocks: accepted: one or more modules, in a list, nn.Sequential or nn.ModuleList"
        )
    states = [value if isinstance(value, BlockInput) else BlockInput((value,)) for value in inputs]
    if not states:
        raise ArgumentError("inputs: there are none. Pass at least one hidden state")
    for state in states:
        state._place()
    whole = nn.ModuleList(listed)
    plan = find_targets(whole, None, targets, ignore, frozen=True)
    how: dict[str, Any] = {
        "sparsity": sparsity,
        "scope": scope,
        "rounding": rounding,
        "remainder": remainder,
        "scorer": "wanda",
    }
    _rehearse(plan.targets, how)
    Calibrator(whole, targets=[entry.name for entry in plan.targets])  # refuses what has no norms

    events: list[MaskEvent] = []
    calibrations, forwards = [], []
    with ticking("blocks", len(listed), show_progress) as tick:
        for position, block in enumerate(listed):
            names = [entry.name for entry in plan.targets if entry.name.startswith(f"{position}.")]
            rounds = [names] if recompute == "block" else [[name] for name in names]
            for chosen in rounds if names else ():
                events.append(prune_(_collect(Calibrator(whole, targets=chosen), block, states), **how))
            calibrations.append(len(rounds) if names else 0)
            more = position + 1 < len(listed)
            forwards.append(calibrations[-1] + more)
            if more:
                _advance(block, states)
            tick()
    return SequentialReport(tuple(events), tuple(calibrations), tuple(forwards))


def capture_block_inputs(
    model: torch.nn.Module,
    block: torch.nn.Module,
    batches: Iterable[Any],
    forward: Callable[[torch.nn.Module, Any], Any] | None = None,
) -> list[BlockInput]:
    """What `model` calls `block` with, one call per batch: the inputs of `prune_blocks_`.

    Each forward pass ends where the block would be called. The model is in eval mode meanwhile, without
    gradients, and its modes are restored. Batches and `forward` are those of `Calibrator.run`. Leave caches
    of keys and values off (``use_cache=False``): what a cache holds is passed on to every block.

    Raises:
        ArgumentError: A batch did not reach the block.
    """
    import torch

    forward = call_model if forward is None else forward
    found: list[BlockInput] = []

    def stop(_: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        found.append(BlockInput(tuple(args), dict(kwargs)))
        raise _Reached

    modes = [(module, module.training) for module in model.modules()]
    hook = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.eval()
        with torch.no_grad():
            for number, batch in enumerate(batches):
                try:
                    forward(model, batch)
                except _Reached:
                    continue
                raise ArgumentError(
                    f"block: the model did not call it on batch {number}. Pass a block of this model that "
                    "every forward pass reaches"
                )
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
    return found


class _Reached(Exception):
    """Ends a forward pass at the block."""


def _collect(
    calibrator: Calibrator, block: torch.nn.Module, states: Sequence[BlockInput]
) -> list[ScoreInputs]:
    return calibrator.run(states, lambda _, state: _forward(block, state), show_progress=False).score_inputs()


def _advance(block: torch.nn.Module, states: list[BlockInput]) -> None:
    """Replaces every input, one at a time, by the block's first output for it."""
    import torch

    modes = [(module, module.training) for module in block.modules()]
    try:
        block.eval()
        with torch.no_grad():
            for place, state in enumerate(states):
                out = _forward(block, state)
                hidden = out if isinstance(out, torch.Tensor) else out[0]
                if not isinstance(hidden, torch.Tensor):
                    raise ArgumentError(
                        f"blocks: {type(block).__name__} gave a {type(hidden).__name__}, not a tensor"
                    )
                states[place] = state.with_hidden(hidden)
    finally:
        for module, mode in modes:
            module.training = mode


def _forward(block: torch.nn.Module, state: BlockInput) -> Any:
    return block(*state.args, **state.kwargs)


def _rehearse(targets: Sequence[PlanEntry], how: Mapping[str, Any]) -> None:
    """Selects on one row of ones for every target, so that bad options are refused before any write."""
    import numpy as np

    if resolve_scope(how["scope"], how["rounding"], how["remainder"]).text == Global().text:
        raise ArgumentError("scope: 'global' needs all scores at once; accepted here: 'row', 'tensor', 'N:M'")
    for entry in targets:
        ones = np.ones(entry.one_row, dtype=np.float32)
        item = ScoreInputs(ones, input_norm=ones.reshape(-1), in_dim=entry.in_dim, name=entry.name)
        make_masks(item, **how)


def _few(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
