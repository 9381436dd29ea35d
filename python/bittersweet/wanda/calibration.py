"""`Calibrator`: norms of the input features of a model's layers, measured on data, for scorer ``"wanda"``.

The norm of input feature j is ``sqrt(mean of x_j^2)`` over all positions that the layer has seen. Sums are
kept, activations never.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, Error, MissingStateError
from ..model.binding import bind
from ..model.experts import follows_interface
from ..model.targets import Plan, find_targets, unwrap
from ..options.values import one_of, shown
from ..progress import ticking
from ..tensors.table import ScoreInputs
from . import calibration_file
from .inputs_seen import observer, refused
from .sums import InputSum, RunningSum, settle

if TYPE_CHECKING:
    import torch

__all__ = ["Calibrator"]


class Calibrator:
    """Collects the mean square of every input feature of the layers that would be pruned.

    ::

        calibrator = bs.Calibrator(model).run(batches)
        bs.prune_(calibrator.score_inputs(), sparsity=0.5, scorer="wanda", scope="row")

    Or, for a loop of your own, as a context manager around forward passes: ``with calibrator: model(x)``.
    Inside it the model is in eval mode, gradients are off, and every layer that is a target is watched by a
    hook. Leaving it restores the mode of every module and removes the hooks, also after an error; after an
    error what was collected inside is forgotten. Weights, buffers and gradients are not touched.

    What counts. Linear and transformers' Conv1D: all leading axes are positions, padding too unless `run` is
    given a `token_mask`. Conv: the positions of all windows with all their taps, zeros of the padding
    included, one norm per input channel, of all groups; this is the mean over the unfolded input. Experts of
    transformers: every token is a position, and counts as zero for the experts that it is not sent to. A
    layer that is called several times, or whose weight is tied to another layer's, has one sum over all
    calls. Squares are exact, and are summed in float64 where the activations lie, in one order on the CPU
    and on CUDA, to the same bits; activations of float64 are rounded to float32 first. On a device nothing
    waits before the end of a collection, which is when values that are not finite are found; on the CPU they
    stop the pass.

    What is cached, and when it is stale. The sums stay here, and `run` does nothing while there are any:
    pruning layer by layer needs one calibration. They describe the model as it was and the data it saw. After
    weights in front of a layer have changed, its inputs are others: call `invalidate` if that is to count.

    Args:
        model: The model. torch.compile, DDP and DataParallel are seen through; the bare model is run.
        targets: Globs of names, modules or module types that narrow the choice; see `targets.find_targets`.
        ignore: The same, for what is to be left alone.

    Attributes:
        calibrations: How many times data have been collected: `run` calls that found nothing cached, and
            ``with`` blocks.
        samples: Size of the first axis of the first tensor of every batch given to `run`, summed.

    Raises:
        ArgumentError: Nothing to calibrate; a pattern matches nothing; or a target that has no norm per input
            feature: transposed convolutions, torch's MultiheadAttention, and whatever is not Linear, Conv,
            Conv1D or experts with transformers' interface.
    """

    def __init__(self, model: torch.nn.Module, *, targets: Any = None, ignore: Any = None) -> None:
        self._model = unwrap(model)
        self._plan = find_targets(self._model, None, targets, ignore, frozen=True)
        self._watched = _watched(self._model, self._plan)
        self._features = {entry.name: entry.features for entry in self._plan.targets}
        self._experts = {name for module, _, name in self._watched if follows_interface(module)}
        self._sums: dict[str, InputSum] = {}
        self._running: dict[str, RunningSum] = {}
        self._norms: dict[str, torch.Tensor] | None = None
        self._inside: contextlib.ExitStack | None = None
        self._before: dict[str, InputSum] = {}
        self._token_mask: torch.Tensor | None = None
        self.calibrations = 0
        self.samples = 0

    def __repr__(self) -> str:
        return f"<Calibrator of {len(self._plan.targets)} weights, {self.samples:,} samples seen>"

    def plan(self) -> Plan:
        """Which parameters are measured and which not, and why; settled when the calibrator was made."""
        return self._plan

    def run(
        self,
        batches: Iterable[Any],
        forward: Callable[[torch.nn.Module, Any], Any] | None = None,
        *,
        token_mask: str | Callable[[Any], torch.Tensor] | None = None,
        show_progress: bool = True,
    ) -> Calibrator:
        """Runs the model over `batches`, one after the other, and collects. Does nothing while norms are
        cached.

        Args:
            batches: Mappings are passed as keyword arguments, tuples and lists as positional ones, all else
                as the only argument. None of them is kept.
            forward: Called as ``forward(model, batch)`` instead.
            token_mask: Which positions count: a key of the batches, or a function of a batch, that gives a
                tensor of 0 and 1 or bool such as (batch, tokens). Linear and Conv1D inputs with these leading
                axes, also flattened to one, are filtered; other inputs (a pooled one, say) count as a whole,
                as do those of convolutions.
            show_progress: Show a bar where stderr is a terminal and tqdm is installed.

        Returns:
            The calibrator itself.

        Raises:
            ArgumentError: `batches` is no iterable or gives none, or an input is not finite: the message has
                its layer and count. Nothing is kept then.
        """
        if self._sums:
            return self
        try:
            iter(batches)
        except TypeError:
            raise ArgumentError(
                f"batches: {shown(batches)}; accepted: a DataLoader, a list or another iterable of batches"
            ) from None
        forward = call_model if forward is None else forward
        found = samples = 0
        with self:
            try:
                total = len(batches) if isinstance(batches, Sized) else None
                with ticking("calibration", total, show_progress) as tick:
                    for batch in batches:
                        self._token_mask = _mask_of(batch, token_mask)
                        forward(self._model, batch)
                        found, samples = found + 1, samples + _leading(batch)
                        tick()
            finally:
                self._token_mask = None
            if found == 0:
                raise ArgumentError(
                    "batches: it gave none, so that nothing was measured. Pass at least one batch"
                )
        self.samples += samples
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: everything, but not in the middle of collecting."""
        if self._inside is not None:
            raise Error("this calibrator is collecting; leave its with block before it is copied or pickled")
        return {**self.__dict__, "_sums": dict(self._sums), "_before": {}}

    def __enter__(self) -> Calibrator:
        import torch

        if self._inside is not None:
            raise Error("this calibrator is collecting already; leave its with block first")
        self._before = dict(self._sums)
        with contextlib.ExitStack() as stack:
            for module in self._model.modules():
                stack.callback(setattr, module, "training", module.training)
            self._model.eval()
            for module, attribute, name in self._watched:
                observe = observer(module, attribute, name)
                assert observe is not None  # it had one when the calibrator was made
                hook = functools.partial(self._collect, name, observe)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            stack.enter_context(torch.no_grad())
            self._inside = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._inside is not None
        self._inside.close()
        self._inside = None
        self._norms = None
        before, self._before = self._before, {}
        try:
            if kind is None:
                self._settle()
                self.calibrations += 1
                before = self._sums
        finally:
            self._sums, self._running = before, {}

    def invalidate(self) -> None:
        """Forgets everything that was collected, so that the next `run` collects anew."""
        self._sums, self._norms, self.samples = {}, None, 0
        self._running = {}

    @property
    def unseen(self) -> tuple[str, ...]:
        """The targets whose layer has not been called while collecting; experts also if one of them has been
        given no token."""
        self._settle()
        return tuple(
            entry.name
            for entry in self._plan.targets
            if (found := self._sums.get(entry.name)) is None
            or (entry.name in self._experts and not found.reached_all(entry.shape[0]))
        )

    @property
    def positions(self) -> dict[str, int]:
        """How many positions (tokens, or windows times taps) the norms of each parameter were taken over."""
        self._settle()
        return {name: found.positions for name, found in self._sums.items()}

    @property
    def norms(self) -> Mapping[str, torch.Tensor]:
        """The norms by parameter name: float32, one per input feature, on the parameter's device. Computed
        once.

        Raises:
            MissingStateError: A target's layer was never called while collecting; see `unseen`.
        """
        if self.unseen:
            raise MissingStateError(
                f"no inputs were collected for {', '.join(map(repr, self.unseen))}: {self._why_unseen()}"
            )
        return self._known_norms()

    def score_inputs(self, missing: str = "error") -> list[ScoreInputs]:
        """The targets with their norms, ready for `prune_`, `make_masks` and `threshold`.

        Args:
            missing: A target without norms is an ``"error"``, or is left out (``"skip"``).

        Raises:
            MissingStateError: A target has no norms, under ``missing="error"``.
        """
        missing = one_of("missing", missing, ("error", "skip"))
        norms, unseen = self.norms if missing == "error" else self._known_norms(), self.unseen
        items = []
        for one in bind(self._model, None, self._plan.targets):
            if one.entry.name in norms and one.entry.name not in unseen:
                item = one.inputs(())
                item.input_norm = norms[one.entry.name]
                items.append(item)
        return items

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes sums and counts as safetensors, losing no bit; see `_calibration_file` for the format.

        Raises:
            MissingPackageError: The package safetensors is not installed.
            MissingStateError: Nothing has been collected.
        """
        self._settle()
        if not self._sums:
            raise MissingStateError(f"there is nothing to save: {self._why_unseen()}")
        calibration_file.save(path, self._sums, self.samples)

    def load(self, path: str | os.PathLike[str]) -> Calibrator:
        """Takes over what `save` wrote, in place of what was collected. Returns the calibrator itself.

        Raises:
            MissingPackageError: The package safetensors is not installed.
            CheckpointError: Not such a file, a newer format, or other names or sizes than the targets here;
                nothing has been changed.
        """
        self._sums, self.samples = calibration_file.load(path, self._features)
        self._norms, self._running = None, {}
        return self

    def __str__(self) -> str:
        seen = self.positions
        width = max(len(entry.name) for entry in self._plan.targets)
        rows = [
            f"  {entry.name:<{width}}  "
            + (f"{seen[entry.name]:>12,} positions" if entry.name in seen else "never saw an input")
            for entry in self._plan.targets
        ]
        times = f"{self.samples:,} samples, collected {self.calibrations} times"
        return "\n".join([f"Calibration of {len(rows)} weights: {times}", *rows])

    def _known_norms(self) -> dict[str, torch.Tensor]:
        if self._norms is None:
            self._norms = {name: found.norm() for name, found in self._sums.items()}
        where = {one.entry.name: one.parameter.device for one in bind(self._model, None, self._plan.targets)}
        return {name: norm.to(where[name]) for name, norm in self._norms.items()}

    def _why_unseen(self) -> str:
        if not self._sums:
            return "call run(batches) first, or forward passes in a with block"
        return (
            "their layers were never called (unused, frozen into a compiled graph, or bypassed by code that "
            "reads the weight itself), or one of their experts was given no token. Calibrate on data that "
            "reaches them, leave them out with ignore, or pass missing='skip'"
        )

    def _collect(
        self, name: str, observe: Callable[..., None], module: torch.nn.Module, args: Any, kwargs: Any
    ) -> None:
        running = self._running.get(name) or RunningSum(name, self._features[name], self._sums.get(name))
        self._running[name], self._norms = running, None  # also where this raises: what was added stays in it
        observe(args, kwargs, self._token_mask, running)

    def _settle(self) -> None:
        """Reads what is being collected, if anything is: waits for it where it lies on a device."""
        if self._running:
            self._sums = {**self._sums, **settle(self._running)}
            self._running = {}


def _watched(model: torch.nn.Module, plan: Plan) -> list[tuple[torch.nn.Module, str, str]]:
    """The layers of the targets: module, attribute, name. Raises ArgumentError for what has no norms."""
    names = {id(one.parameter): one.entry.name for one in bind(model, None, plan.targets)}
    found, without = [], []
    for module in model.modules():
        if (kind := refused(module)) is not None:
            without += [f"'{names[id(p)]}' ({kind})" for p in module.parameters() if id(p) in names]
            continue
        for attribute, parameter in module._parameters.items():
            name = names.get(id(parameter))
            if name is not None and observer(module, attribute, name) is not None:
                found.append((module, attribute, name))
    if without:
        raise ArgumentError(
            f"targets: there is no norm per input feature for {', '.join(without)}. Leave them out with "
            "ignore, or prune them by another scorer"
        )
    lost = set(names.values()) - {name for _, _, name in found}
    if lost:
        raise ArgumentError(
            f"targets: '{sorted(lost)[0]}' is not a weight of a Linear, Conv or Conv1D layer, nor of experts "
            "with transformers' interface, so that its inputs cannot be measured. Leave it out with ignore"
        )
    return found


def call_model(model: torch.nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _mask_of(batch: Any, token_mask: str | Callable[[Any], torch.Tensor] | None) -> torch.Tensor | None:
    if token_mask is None:
        return None
    if callable(token_mask):
        return _as_bools(token_mask(batch))
    if not isinstance(batch, Mapping) or token_mask not in batch:
        raise ArgumentError(
            f"token_mask: {shown(token_mask)} is not a key of the batch ({type(batch).__name__}). Pass a "
            "key, or a function that takes a batch"
        )
    return _as_bools(batch[token_mask])


def _as_bools(mask: Any) -> torch.Tensor:
    import torch

    if not isinstance(mask, torch.Tensor):
        raise ArgumentError(
            f"token_mask: it gave a {type(mask).__name__}; accepted: a tensor, True or 1 for each position "
            "that counts"
        )
    return mask.bool()


def _leading(batch: Any) -> int:
    """Length of the first axis of the first tensor in a batch; 1 where there is none."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (tuple, list)):
        return next((_leading(item) for item in batch if hasattr(item, "shape")), 1)
    shape = tuple(getattr(batch, "shape", ()))
    return int(shape[0]) if shape else 1
