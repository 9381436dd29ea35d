"""Decisions over the ranks of a process group: who takes part, what they agree about, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..distributed import rounds
from ..distributed.collective import Group
from ..distributed.members import Members, Part
from ..distributed.parts import local_item, part_of, table_item
from ..errors import ArgumentError
from ..options.scopes import ScopeCall, resolve_scope
from ..options.scorers import ScorerCall, resolve_scorer
from ..options.selectors import resolve_selector
from ..tensors.arrays import name_of_dtype
from ..tensors.orders import ROW_MAJOR
from ..tensors.table import ScoreInputs, Table

if TYPE_CHECKING:
    from .choices import Options

__all__ = ["Given", "agreement", "check", "group_of", "meet", "row_major", "supported"]

Given = tuple[list[ScoreInputs], "Options", Sequence[str]]
"""What one rank is given: tensors, options, and the roles that will be written."""

_TO_THE_MODULE = (
    "sparsity", "k", "distribution", "max_tensor_sparsity", "ties", "nonfinite", "seed", "regrow",
)  # fmt: skip


def group_of(process_group: Any, inputs: Any) -> Group | None:
    """The ranks that decide about these inputs together; None where this process decides alone.

    Raises:
        ArgumentError: See `Group.of`; or a part of a whole tensor, and no ranks.
    """
    items = inputs if isinstance(inputs, Sequence) else [inputs]
    found = [item for item in items if isinstance(item, ScoreInputs)]
    group = Group.of(process_group, (item.weight for item in found))
    if group is None and any(item.shard is not None for item in found):
        raise ArgumentError(
            "shard: given, and no process_group: an array that is a part of a whole one competes together "
            "with the other parts. Pass the process group of the ranks that hold them"
        )
    return group


def meet(group: Group, given: Callable[[], Given]) -> tuple[Table, Options, Sequence[str], Members]:
    """Checks what this rank is given, and unites it with what the others have. Collective: one exchange.

    What `given` raises, and what is wrong with the inputs of one rank, is raised on all.
    """
    made: list[tuple[Table, Options, Sequence[str]]] = []

    def parts() -> list[Part]:
        items, options, writes = given()
        call, _ = supported(options)
        names = [f"tensor{i}" if item.name is None else str(item.name) for i, item in enumerate(items)]
        local = [local_item(item, name) for item, name in zip(items, names, strict=True)]
        shapes = [tuple(getattr(item.weight, "shape", ())) for item in local]
        table = Table(
            [table_item(item, shape) for item, shape in zip(local, shapes, strict=True)], call, writes, True
        )
        made.append((table, options, writes))
        return [
            part_of(item, shape, _alike(item, dtype, call))
            for item, shape, dtype in zip(local, shapes, table.columns["weight"].dtypes, strict=True)
        ]

    members = Members.meet(group, parts)
    return *made[0], members


def check(members: Members, options: Options) -> None:
    """Raises what a decision with these options would raise before its first round: on all ranks alike.

    Raises:
        ShapeError: A row or a group of inputs that the scope compares lies on several ranks; or numbers of
            scorer random are asked for parts that are no stretch.
        ArgumentError: See `supported`.
    """
    call, scope = supported(options)
    named = {name: getattr(options, name) for name in _TO_THE_MODULE}
    named |= {
        "tensor_sparsity": options.counts(members),
        "scope": scope.text,
        "rounding": scope.rounding,
        "remainder": scope.remainder,
    }
    _core.check_over_ranks(members.map, members.names, call.spec, resolve_selector(options.selector), **named)


def supported(options: Options) -> tuple[ScorerCall, ScopeCall]:
    """The scorer and the scope of a decision over ranks.

    Raises:
        ArgumentError: What only one process can do.
    """
    selector = resolve_selector(options.selector)[0]
    if selector != "exact":
        raise ArgumentError(
            f"selector: '{selector}' over ranks; accepted: 'exact', which reads once and has ranks exchange "
            "about a megabyte whatever their number. Use that"
        )
    return (
        resolve_scorer(options.scorer, options.eps, options.seed),
        resolve_scope(options.scope, options.rounding, options.remainder),
    )


def row_major(table: Table, items: Sequence[ScoreInputs], call: ScorerCall) -> Table:
    """This table, or one in row-major memory, as parts are."""
    if all(order == ROW_MAJOR for order in table.orders):
        return table
    return Table(items, call, table.writes, True)


def agreement(
    members: Members, options: Options, writes: Sequence[str], said: Mapping[str, Any]
) -> rounds.Agreement:
    """What all ranks must say alike for a decision that is theirs together, `said` first, in words for a
    message. The compiled module adds the version, the tensors and their parts, and numbers.
    """
    call, scope = supported(options)
    shares = {name: getattr(options, name) for name in ("sparsity", "max_tensor_sparsity")}
    exact = {name: "none" if x is None else f"{x:g} ({x.hex()})" for name, x in shares.items()}
    return {
        **{what: str(value) for what, value in said.items()},
        **exact,
        "scorer": f"{call.name}, eps {call.eps}, q {call.spec[2]}, seed {call.spec[3]}",
        "scope": scope.text,
        "ties": str(options.ties),
        "distribution": str(options.distribution),
        "what is written": ", ".join(sorted(writes)) or "nothing",
        "skipped tensors": ", ".join(members.skipped) or "none",
        "tensor_sparsity": str(options.tensor_sparsity),
    }


def _alike(item: ScoreInputs, dtype: int, call: ScorerCall) -> dict[str, Any]:
    """What all ranks must say of a tensor beside its shape."""
    said: dict[str, Any] = {"dtype": name_of_dtype(dtype)}
    said |= {name: getattr(item, name) for name in ("in_dim", "kernel_dims", "groups")}
    if "modifier" in call.reads and item.modifier is not None:
        said["modifier"] = float(item.modifier)
    if call.reads & {"step", "bias_correction1"}:
        said |= {"step": float(item.step), "beta1": float(item.betas[0])}
    return said
