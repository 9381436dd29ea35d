"""RigL and SET at events, against the update of the papers with sorts."""

from __future__ import annotations

import warnings
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from pruner_support import adamw, backward, facts, mlp, unchanged
from regrow_support import Recorder, cosine, expected, flags, require_afresh
from torch import nn

CONSTANT = bs.ConstantSparsity(0.8, begin_step=2, end_step=12, frequency=3)
RAMP = bs.LinearRamp(0.3, 0.9, begin_step=2, end_step=12, frequency=3)
SCOPES: list[tuple[str, str | None]] = [
    ("global", None),
    ("tensor", None),
    ("tensor", "uniform"),
    ("tensor", "erk"),
    ("tensor", "layer_adaptive"),
]


def made(model: nn.Module, optimizer: Any, **options: Any) -> bs.Pruner:
    given = {"scorer": "magnitude", "schedule": CONSTANT, "regrow": bs.RigL(0.4), **options}
    return bs.Pruner(model, optimizer, **given)


def one_event(weights: Any, grads: Any, keep: Any = None, **options: Any) -> tuple[bs.Pruner, bs.MaskEvent]:
    """An event on step 1 of weights that no optimizer moves, with these gradients and masks."""
    names = {f"t{i}": nn.Parameter(torch.as_tensor(w).clone()) for i, w in enumerate(weights)}
    model = nn.ParameterDict(names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    given = {"schedule": bs.OneShot(0.5, 1), "regrow": bs.RigL(0.4, decay="constant"), **options}
    pruner = made(model, optimizer, targets=[*names], **given)
    if keep is not None:
        pruner.load_masks({name: torch.as_tensor(k) for name, k in zip(names, keep, strict=True)})
    for parameter, grad in zip(names.values(), grads, strict=True):
        parameter.grad = torch.as_tensor(grad).clone()
    optimizer.step()
    event = pruner.step()
    assert event is not None
    return pruner, event


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("schedule", [CONSTANT, RAMP], ids=["constant", "ramp"])
@pytest.mark.parametrize(("scope", "distribution"), SCOPES)
def test_an_event_is_the_update_of_the_paper(
    scope: str, distribution: str | None, schedule: bs.Schedule, seed: int
) -> None:
    model = mlp(seed)
    optimizer = adamw(model)
    recorder = Recorder(model, optimizer)
    pruner = made(model, optimizer, schedule=schedule, scope=scope, distribution=distribution, seed=seed)
    if schedule is CONSTANT:
        pruner.start()
    opened = 0
    for step in range(1, 14):
        backward(model, 100 * seed + step)
        optimizer.step()
        before, event = flags(pruner), pruner.step()
        if event is not None:
            fraction = cosine(0.4, step, 12)
            seen = recorder.last
            wanted = expected(
                seen.weights, seen.grads, before, schedule(step)[1], fraction, scope, distribution
            )
            after = flags(pruner)
            assert all(np.array_equal(after[name], wanted[name]) for name in wanted), step
            opened += require_afresh(recorder, before, after)
            total = sum(x.size for x in after.values())
            assert event.pruned == event.k == total - sum(int(x.sum()) for x in after.values())
            changed = sum(int((after[name] != before[name]).sum()) for name in after)
            assert event.churn == changed and event.drop_fraction == fraction
            live = sum(int(x.sum()) for x in before.values())
            assert event.dropped is not None and event.grown is not None
            assert live - event.dropped + event.grown == total - event.pruned
            for name, keep in after.items():
                assert event.per_tensor[name] == int((~keep).sum()) / keep.size
        optimizer.zero_grad()
    assert opened > 0 and len([e for e in pruner.history if e.step]) == 5 and pruner.history[-1].grown == 0


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("scope", "distribution"), SCOPES[:4:3])
def test_every_dtype_and_ties_by_the_thousand(
    dtype: torch.dtype, scope: str, distribution: str | None, same: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = [(37, 65), (70, 129), (5, 3), (1, 64)]
    weights = [torch.randn(s, generator=generator).mul(4).round().div(4).to(dtype) for s in shapes]
    grads = [torch.randint(-3, 4, s, generator=generator).to(dtype) for s in shapes]
    keep = [torch.rand(s, generator=generator) < 0.4 for s in shapes]
    for fraction in (0.0, 0.1, 0.5, 1.0):
        pruner, event = one_event(
            weights, grads, keep, scope=scope, distribution=distribution,
            schedule=bs.OneShot(0.7, 1), regrow=bs.RigL(fraction, decay="constant", allow_same=same),
        )  # fmt: skip
        named = [{f"t{i}": x.double().numpy() for i, x in enumerate(xs)} for xs in (weights, grads)]
        before = {f"t{i}": k.numpy() for i, k in enumerate(keep)}
        wanted = expected(*named, before, 0.7, fraction, scope, distribution, same)
        after = flags(pruner)
        assert all(np.array_equal(after[name], wanted[name]) for name in wanted)
        if not same and scope == "global":
            changed = sum(int((after[name] != before[name]).sum()) for name in after)
            assert event.dropped is not None and event.grown is not None
            assert changed == event.dropped + event.grown
        assert event.pruned == event.k


def test_other_layouts_of_memory_give_the_same_masks() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(8, 6, 3, 3, generator=generator)
    grad = torch.randint(-2, 3, (8, 6, 3, 3), generator=generator).float()
    keep = torch.rand(8, 6, 3, 3, generator=generator) < 0.5
    plain, _ = one_event([weight], [grad], [keep])
    for layout in (lambda x: x.contiguous(memory_format=torch.channels_last), lambda x: x.mT.contiguous().mT):
        names = nn.ParameterDict({"t0": nn.Parameter(layout(weight))})
        optimizer = torch.optim.SGD(names.parameters(), lr=0.0)
        regrow = bs.RigL(0.4, decay="constant")
        pruner = made(names, optimizer, schedule=bs.OneShot(0.5, 1), regrow=regrow, targets=["t0"])
        pruner.load_masks({"t0": keep})
        names["t0"].grad = layout(grad)
        optimizer.step()
        pruner.step()
        assert torch.equal(pruner.masks["t0"], plain.masks["t0"])


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("sparsity", [0.0, 1e-9, 0.5, 1.0])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shapes", [[(1,)], [(0, 3), (4, 4)], [(1, 1), (1, 2), (3, 0)], [(64,)], [(65,)]])
def test_small_and_empty_tensors(
    shapes: list[tuple[int, ...]], fraction: float, same: bool, sparsity: float, scope: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    weights, grads = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(2))
    keep = [torch.rand(s, generator=generator) < 0.6 for s in shapes]
    pruner, event = one_event(
        weights, grads, keep, scope=scope, schedule=bs.OneShot(sparsity, 1),
        regrow=bs.RigL(fraction, decay="constant", allow_same=same),
    )  # fmt: skip
    named = [{f"t{i}": x.double().numpy() for i, x in enumerate(xs)} for xs in (weights, grads)]
    before = {f"t{i}": k.numpy() for i, k in enumerate(keep)}
    wanted, after = expected(*named, before, sparsity, fraction, scope, same=same), flags(pruner)
    assert all(np.array_equal(after[name], wanted[name]) for name in wanted)
    assert event.pruned == event.k == sum(int((~x).sum()) for x in after.values())


def test_all_are_dropped_and_the_largest_gradients_are_opened() -> None:
    weight, grad = torch.tensor([5.0, 4.0, 3.0, 2.0]), torch.tensor([0.0, 1.0, 3.0, 2.0])
    pruner, event = one_event([weight], [grad], regrow=bs.RigL(1.0, decay="constant"))
    assert pruner.masks["t0"].tolist() == [False, False, True, True]
    assert (event.dropped, event.grown, event.churn) == (4, 2, 2)  # both had been live
    parameter = next(iter(pruner._loop.model.parameters()))
    assert parameter.tolist() == [0.0, 0.0, 3.0, 2.0]  # what was dropped and opened has never been away


def test_among_equal_scores_the_last_places_stay_and_come() -> None:
    weight, grad = torch.ones(8), torch.ones(8)
    keep = torch.tensor([True, True, True, True, False, False, False, False])
    pruner, _ = one_event([weight], [grad], [keep], regrow=bs.RigL(0.5, decay="constant"))
    assert pruner.masks["t0"].tolist() == [False, False, True, True, False, False, True, True]


def test_gradients_that_are_all_zero_are_said(fresh_warnings: None) -> None:
    with pytest.warns(UserWarning, match=r"all 6 candidates have score 0.*zeroed before pruner.step"):
        one_event([torch.randn(8)], [torch.zeros(8)], regrow=bs.RigL(0.5, decay="constant"))


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_masked_gradients_are_said(scope: str, fresh_warnings: None) -> None:
    """They would open what has just been dropped, event after event, and nothing else."""
    weights, grads = ([torch.arange(1.0, 9.0), torch.arange(2.0, 8.0)] for _ in range(2))
    keep = [torch.tensor([True, True, False, False] * 2), torch.tensor([True, False] * 3)]
    masked = [grad * kept for grad, kept in zip(grads, keep, strict=True)]
    options: dict[str, Any] = {"scope": scope, "schedule": bs.OneShot(0.5, 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_event(weights, grads, keep, regrow=bs.RigL(0.5, decay="constant"), **options)
        one_event(weights, masked, keep, regrow=bs.SET(0.5), **options)
        one_event(weights, masked, regrow=bs.RigL(0.5, decay="constant"), **options)  # nothing was pruned
        masked[0][2] = masked[1][1] = 9.0  # some can be zero by themselves
        one_event(weights, masked, keep, regrow=bs.RigL(0.5, decay="constant"), **options)
        masked[0][2] = masked[1][1] = 0.0
    with pytest.warns(UserWarning, match=r"no others: all those that were pruned before have score 0"):
        one_event(weights, masked, keep, regrow=bs.RigL(0.5, decay="constant"), **options)


def test_zero_gradients_where_nothing_is_opened_are_no_news(fresh_warnings: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_event([torch.randn(8)], [torch.zeros(8)], regrow=bs.RigL(0.0))


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_a_nan_gradient_of_a_candidate_changes_nothing(scope: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = made(model, optimizer, schedule=bs.ConstantSparsity(0.5, 1, 2, 1), scope=scope)
    pruner.start()
    backward(model, 1)
    optimizer.step()
    dead = (~pruner.masks["2.weight"]).nonzero()[7]
    model[2].weight.grad[tuple(dead)] = torch.nan
    masks = flags(pruner)
    with unchanged(model, optimizer), pytest.raises(bs.NonFiniteScoreError, match=r"2\.weight") as error:
        pruner.step()
    assert error.value.parameter == "2.weight" and error.value.count == 1
    assert all(np.array_equal(x, masks[name]) for name, x in flags(pruner).items())
    assert pruner.steps == 0 and len(pruner.history) == 1
    model[2].weight.grad.nan_to_num_()
    assert pruner.step() is not None


def test_infinite_gradients_are_the_first_to_be_opened() -> None:
    grad = torch.tensor([1.0, -torch.inf, 2.0, 0.0])
    keep = torch.tensor([False, False, False, True])
    pruner, _ = one_event([torch.ones(4)], [grad], [keep], regrow=bs.RigL(0.0))
    assert pruner.masks["t0"].tolist() == [False, True, False, True]


def test_a_missing_gradient_says_where_step_belongs() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = made(model, optimizer, schedule=bs.ConstantSparsity(0.5, 1, 2, 1))
    backward(model, 1)
    optimizer.step()
    optimizer.zero_grad()
    match = r"no gradient.*between backward\(\) and zero_grad\(\)"
    with unchanged(model, optimizer), pytest.raises(bs.MissingStateError, match=match):
        pruner.step()


def test_set_draws_evenly_anew_at_every_event_and_again_from_its_seed() -> None:
    def run(**options: Any) -> list[np.ndarray]:
        model = mlp()
        optimizer = adamw(model)
        pruner = made(model, optimizer, schedule=bs.ConstantSparsity(0.9, 1, 9, 2), **options)
        pruner.start()
        found = []
        for step in range(1, 10):
            backward(model, step)
            optimizer.step()
            if pruner.step() is not None:
                found.append(flags(pruner)["2.weight"])
            optimizer.zero_grad()
        return found

    one = run(regrow=bs.SET(0.5))
    assert all(np.array_equal(a, b) for a, b in zip(one, run(regrow=bs.SET(0.5)), strict=True))
    assert not np.array_equal(one[-1], run(regrow=bs.SET(0.5, seed=1))[-1])
    assert not np.array_equal(one[-1], run(regrow=bs.SET(0.5), seed=1)[-1])
    assert np.array_equal(one[0], run(regrow=bs.SET(0.5, seed=0))[0])


def test_set_draws_by_the_step_and_the_glob() -> None:
    """From the same weights and masks, at other steps and for the tensors of other globs."""

    def opened(schedule: Any) -> list[list[bool]]:
        names = nn.ParameterDict({f"t{i}": nn.Parameter(torch.ones(400)) for i in range(2)})
        optimizer = torch.optim.SGD(names.parameters(), lr=0.0)
        pruner = made(names, optimizer, schedule=schedule, regrow=bs.SET(0.0), targets=["t0", "t1"])
        pruner.load_masks(dict.fromkeys(names, torch.arange(400) < 40))
        while not pruner.history:
            for parameter in names.values():
                parameter.grad = torch.ones(400)
            optimizer.step()
            pruner.step()
        return [mask.tolist() for mask in pruner.masks.values()]

    first, again, second = (opened(bs.OneShot(0.5, step)) for step in (1, 1, 2))
    assert first == again and first != second
    assert all(one != other for one, other in zip(first, second, strict=True)) and first[0] != first[1]
    by_glob = opened({"t0": bs.OneShot(0.5, 1), "t1": bs.OneShot(0.5, 1)})
    assert by_glob[0] != by_glob[1]


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_set_opens_uniformly(scope: str) -> None:
    """Each of 4,000 candidates in 200 draws of 400: the counts are those of independent draws."""
    counts = np.zeros((2, 2500))
    weights = [torch.ones(2500), torch.ones(2500)]
    keep = [torch.arange(2500) < 500] * 2
    for seed in range(200):
        pruner, event = one_event(
            weights, weights, keep, scope=scope, schedule=bs.OneShot(0.72, 1), regrow=bs.SET(0.0, seed=seed)
        )
        assert event.grown == 400
        counts += np.stack(list(flags(pruner).values()))
    counts = counts[:, 500:].ravel()
    share = 0.1
    deviation = np.sqrt(200 * share * (1 - share))
    assert abs(counts.mean() - 200 * share) < 1e-9 and abs(counts.std() / deviation - 1) < 0.05
    assert counts.max() < 200 * share + 5 * deviation
    first, second = counts[:2000] - counts.mean(), counts[2000:] - counts.mean()
    assert abs((first * second).mean() / counts.var()) < 0.1  # tensors draw independently


@pytest.mark.parametrize("scorer", [name for name in bs.scorers() if name not in ("identity", "wanda")])
def test_any_scorer_drops(scorer: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    schedule = bs.LinearRamp(0.3, 0.9, begin_step=3, end_step=13, frequency=3)
    pruner = made(model, optimizer, schedule=schedule, scorer=scorer, scope="tensor")
    for step in range(1, 14):
        backward(model, step)
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    grown = [event.grown for event in pruner.history]
    assert len(grown) == 5 and all(count for count in grown[:-1])
    assert all(event.pruned == event.k for event in pruner.history)


def test_groups_of_a_schedule_have_ends_of_their_own() -> None:
    model = mlp()
    optimizer = adamw(model)
    schedule = {
        "0.*": bs.ConstantSparsity(0.5, 2, 4, 2),
        "2.*": bs.ConstantSparsity(0.8, 2, 8, 2),
    }
    pruner = made(model, optimizer, schedule=schedule)
    start = pruner.start()
    assert start.groups["0.*"]["achieved"] == 0.5 and start.dense == ("4.weight",)
    for step in range(1, 9):
        backward(model, step)
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    events = {event.step: event for event in pruner.history}
    own = budget_of(0.8, 40 * 33, cosine(0.4, 4, 8))
    assert events[4].dropped == own and events[4].groups["0.*"]["achieved"] == 0.5
    assert pruner.sparsity().per_tensor["2.weight"].pruned == 1056
    assert facts(events[8])["grown"] == 0


def budget_of(sparsity: float, n: int, fraction: float) -> int:
    return int(fraction * (n - int(sparsity * n + 0.5)) + 0.5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scope": "row"}, "scope: 'row' with regrow=RigL"),
        ({"scope": "2:4", "schedule": bs.OneShot(0.5, 3)}, "scope: '2:4' with regrow=RigL"),
        ({"selector": "sampling"}, "selector: 'sampling'"),
        ({"selector": "streaming"}, "selector: 'streaming'"),
        ({"ties": "below"}, "ties: 'below'"),
        ({"nonfinite": "keep"}, "nonfinite: 'keep'"),
        ({"max_tensor_sparsity": 0.9}, "max_tensor_sparsity: 0.9"),
        ({"tensor_sparsity": {"*": (0, 0.9)}}, r"^tensor_sparsity: \{'\*': \(0.0, 0.9\)\} with regrow=RigL"),
        ({"hold": "grads"}, "hold: 'grads' zeroes the gradients"),
        ({"schedule": None}, r"regrow: RigL without a schedule"),
        ({"schedule": lambda step: (step % 5 == 0, 0.5)}, "Pass end=step"),
        ({"schedule": bs.ConstantSparsity(0.5, 2)}, "Pass end=step"),
        ({"regrow": "RigL"}, "regrow: 'RigL'"),
        ({"regrow": bs.RigL}, "regrow: the class RigL"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(options: dict[str, Any], match: str) -> None:
    model = mlp()
    with pytest.raises(bs.ArgumentError, match=match):
        made(model, adamw(model), **options)


def test_where_only_an_end_is_missing_it_can_be_given() -> None:
    model = mlp()
    schedule = bs.ConstantSparsity(0.5, 2)
    assert made(model, adamw(model), schedule=schedule, regrow=bs.RigL(end=10)).plan()
    assert made(model, adamw(model), schedule=schedule, regrow=bs.SET()).plan()
