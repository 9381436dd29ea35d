"""`prune_checkpoint`: a pruned copy of a checkpoint that is never loaded."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError
from ..options.scopes import Scope, ScopeCall, resolve_scope
from ..options.scorers import Scorer, resolve_scorer
from ..options.values import as_bool, as_fraction
from ..progress import progress_bar
from ..tensors.threads import follow_torch
from . import moving
from .choosing import Choice, choose
from .norms import StoredNorms
from .output import Partial, check_output, leftovers
from .reading import Memory
from .report import CheckpointReport, StoredTensorReport
from .scopes import Job, Strategy, strategy_for
from .source import Checkpoint, open_checkpoint

__all__ = ["prune_checkpoint"]

_SCORERS = ("magnitude", "wanda")


def prune_checkpoint(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    sparsity: float | None = None,
    scorer: str | Scorer = "magnitude",
    norms: str | os.PathLike[str] | None = None,
    scope: str | Scope = "global",
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    transposed: str | Sequence[str] = (),
    dry_run: bool = False,
    verify: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> CheckpointReport:
    """Writes a copy of a safetensors checkpoint in which the lowest weights are 0, however large it is.

    The zeros are, bit for bit, those of `make_masks` over the loaded tensors: the threshold is exact, and
    among equal scores the first go, by file name, place in the file and flat index. All else is copied byte
    for byte. Some 100 MB of memory are used; torch is not needed. `source` is only read. `out` appears when
    all of it is on disk; after an error there is nothing.

    By default the tensors of two or more axes named ``*.weight`` are pruned, but no embeddings, output heads,
    norms, routers, or what has an axis of ``vocab_size``.

    Args:
        source: A safetensors file, an index of shards, or a folder that holds one of these.
        out: Where to: a file, or for an index or a folder a folder, which gets the other files of the model
            too. None only for a dry run.
        sparsity: Share of the elements of the chosen tensors to prune, 0 to 1. Scope N:M has its own.
        scorer: ``"magnitude"``, or ``"wanda"`` with `norms`.
        norms: What `Calibrator.save` wrote, or a safetensors file of one norm per input feature, by the names
            of the weights.
        scope: ``"global"``, ``"tensor"``, ``"row"``, ``"N:M"``, or an object such as `NofM`.
        include: Globs of the tensors to prune, in place of the default.
        exclude: Globs of tensors to leave as they are.
        transposed: Globs of weights whose inputs are their first axis (GPT-2's Conv1D). Rows, N:M groups and
            norms depend on it.
        dry_run: Only the plan: what would be pruned, what not, and why. Nothing but headers is read.
        verify: Read the copy again and compare every byte before it takes its place.
        overwrite: A file at `out` may be replaced; a folder too, if that loses no other file.
        show_progress: A bar on a terminal.

    Returns:
        What was done, which prints as a table; `CheckpointReport.to_dict` for JSON.

    Raises:
        ArgumentError: An argument is out of range, a path or a glob is wrong, nothing is left to prune, or
            `out` cannot be written.
        CheckpointError: A file is damaged, files contradict each other, the disk is too small, or the copy
            differs under `verify`.
        DTypeError: A chosen tensor is not float32, float16 or bfloat16.
        MissingStateError: A chosen tensor has no norms.
        NonFiniteScoreError: A score is NaN; nothing has been written.
        ShapeError: Norms or N:M groups do not fit a tensor.
    """
    started = time.perf_counter()
    verify, overwrite = as_bool("verify", verify), as_bool("overwrite", overwrite)
    dry_run, show_progress = as_bool("dry_run", dry_run), as_bool("show_progress", show_progress)
    call, resolved = resolve_scorer(scorer, None, 0), resolve_scope(scope, "nearest", "error")
    share = _share(sparsity, resolved)
    _check_scorer(call.name, norms)
    if out is None and not dry_run:
        raise ArgumentError("out: it is missing; accepted: a path for the copy, or dry_run=True (--dry-run)")
    checkpoint = open_checkpoint(source)
    oriented = norms is not None or resolved.text not in ("global", "tensor")
    choices = choose(checkpoint, include, exclude, transposed, oriented)
    if out is not None:
        _check_place(Path(out), checkpoint, overwrite)
    chosen = [choice for choice in choices if choice.pruned]
    stored = None if norms is None else StoredNorms(norms)
    if stored is not None:
        stored.check(chosen)
    follow_torch()
    progress = _Progress()
    paths = [file.path for file in checkpoint.files]
    job = Job(paths, chosen, call.spec, stored, share, resolved, Memory(), progress.moved)
    strategy = strategy_for(job)
    pruned: dict[str, int] = {}
    if not dry_run and out is not None:
        bytes_of = sum(choice.tensor.nbytes for choice in chosen)
        total = bytes_of * strategy.reads + checkpoint.nbytes * (2 if verify else 1)
        with progress.shown(total, show_progress):
            pruned = _run(checkpoint, chosen, strategy, Path(out), verify, progress)
    return _report(
        checkpoint, choices, strategy, pruned, time.perf_counter() - started, call.name, out, dry_run, verify
    )


def _run(
    checkpoint: Checkpoint,
    chosen: list[Choice],
    strategy: Strategy,
    out: Path,
    verify: bool,
    progress: _Progress,
) -> dict[str, int]:
    progress.say("reading")
    strategy.prepare()
    checkpoint.check_unchanged()
    try:
        partial = Partial(out, checkpoint.folder)
        try:
            progress.say("writing")
            pruned = moving.write(checkpoint, chosen, strategy, partial, progress.moved)
            checkpoint.check_unchanged()
            if verify:
                progress.say("verifying")
                moving.verify(checkpoint, chosen, strategy, partial, progress.moved)
            partial.commit()
        except BaseException:
            partial.discard()
            raise
    except OSError as error:
        raise CheckpointError(
            f"out: '{out}' cannot be written ({error.strerror}); what had been written is removed"
        ) from error
    return pruned


def _share(sparsity: float | None, scope: ScopeCall) -> float:
    if sparsity is None:
        if scope.fixed_sparsity is None:
            raise ArgumentError("sparsity: it is missing; accepted: a fraction from 0 to 1")
        return scope.fixed_sparsity
    share = as_fraction("sparsity", sparsity)
    if scope.fixed_sparsity is not None and share > scope.fixed_sparsity:
        raise ArgumentError(
            f"sparsity: {share:g} with scope '{scope.text}', which prunes {scope.fixed_sparsity:g} at most; "
            "give less, or leave it out"
        )
    return share


def _check_scorer(name: str, norms: Any) -> None:
    if name not in _SCORERS:
        raise ArgumentError(
            f"scorer: '{name}' in a checkpoint, which holds weights alone; accepted: {', '.join(_SCORERS)}"
        )
    if name == "wanda" and norms is None:
        raise ArgumentError(
            "norms: missing, and scorer 'wanda' reads them. Pass the file that Calibrator.save wrote"
        )
    if name != "wanda" and norms is not None:
        raise ArgumentError(
            f"norms: given with scorer '{name}', which reads none; leave them out, or take scorer 'wanda'"
        )


def _check_place(out: Path, checkpoint: Checkpoint, overwrite: bool) -> None:
    names = {Path(file.path.name) for file in checkpoint.files} | set(checkpoint.beside)
    check_output(out, checkpoint.root, checkpoint.folder, overwrite, names)
    for file in checkpoint.files:
        if out.exists() and out.samefile(file.path):
            raise ArgumentError(f"out: '{out}' is a file of the source, which is never written to")
    free = shutil.disk_usage(out.parent).free
    if free < checkpoint.nbytes:
        old = leftovers(out)
        hint = f". '{old[0]}' was left by a run that was killed, or is being written" if old else ""
        raise CheckpointError(
            f"out: '{out.parent}' has {free:,} bytes free, and the copy needs {checkpoint.nbytes:,}{hint}. "
            "Make room, or pass a path on another disk"
        )


def _report(
    checkpoint: Checkpoint,
    choices: list[Choice],
    strategy: Strategy,
    pruned: dict[str, int],
    seconds: float,
    scorer: str,
    out: str | os.PathLike[str] | None,
    dry_run: bool,
    verify: bool,
) -> CheckpointReport:
    def row(choice: Choice) -> StoredTensorReport:
        tensor = choice.tensor
        count: int | None = pruned.get(tensor.name, 0)
        if dry_run and choice.pruned:
            count = strategy.planned(choice)
        return StoredTensorReport(
            file=checkpoint.files[tensor.file].path.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            elements=tensor.numel,
            pruned=count,
            threshold=strategy.threshold.get(tensor.name),
            transposed=choice.transposed,
            reason=choice.reason,
        )

    job = strategy.job
    globally = job.scope.text == "global"
    return CheckpointReport(
        source=os.fspath(checkpoint.root),
        out=None if out is None else os.fspath(out),
        dry_run=dry_run,
        scorer=scorer,
        scope=job.scope.text,
        sparsity=job.sparsity,
        total=sum(choice.tensor.numel for choice in job.choices),
        k=strategy.k,
        pruned=sum(pruned.values()),
        threshold=next(iter(strategy.threshold.values()), None) if globally else None,
        count_below=strategy.counts.get("count_below"),
        count_equal=strategy.counts.get("count_equal"),
        per_tensor={choice.tensor.name: row(choice) for choice in choices},
        files=len(checkpoint.files),
        size=checkpoint.nbytes,
        reads=0 if dry_run else strategy.reads,
        seconds=seconds,
        verified=True if verify and not dry_run else None,
        left_out=checkpoint.left_out,
    )


class _Progress:
    """Bytes that have gone through, on a bar that says what is being done and how fast."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage, self._since, self._bytes = "", 0.0, 0

    @contextlib.contextmanager
    def shown(self, total: int, wanted: bool) -> Iterator[None]:
        self._bar = progress_bar("prune-checkpoint", total) if wanted else None
        with self._bar or contextlib.nullcontext():
            yield
        self._bar = None

    def say(self, stage: str) -> None:
        self._stage, self._since, self._bytes = stage, time.perf_counter(), 0

    def moved(self, count: int) -> None:
        if self._bar is None:
            return
        self._bytes += count
        rate = self._bytes / max(time.perf_counter() - self._since, 1e-3) / 1e9
        self._bar.set_description_str(f"{self._stage} {rate:.2f} GB/s", refresh=False)
        self._bar.total = max(self._bar.total, self._bar.n + count)  # another pass, where the guess missed
        self._bar.update(count)
