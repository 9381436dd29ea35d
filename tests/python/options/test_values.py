"""Numbers from elsewhere become plain Python values; what is no number is refused by name."""

from __future__ import annotations

import enum
import io
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.options.scopes import Scope
from bittersweet.options.values import as_bool, as_fraction, as_int, as_number, one_of, shown

HALVES = [
    0.5, Fraction(1, 2), Decimal("0.5"), np.float64(0.5), np.float32(0.5), np.float16(0.5),
    np.longdouble(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.bfloat16),
    torch.tensor(0.5, requires_grad=True),
]  # fmt: skip
THREES = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)]
NO_NUMBERS = [
    True, np.bool_(True), torch.tensor(True), "0.5", b"1", None, 1j, np.complex128(1), [1], np.array([0.5]),
    torch.tensor([0.5]), math.nan, np.float64("nan"), Decimal("NaN"), Decimal("sNaN"), torch.tensor(math.nan),
    torch.empty((), device="meta"), np.datetime64(3, "s"), object(),
]  # fmt: skip


def by_type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"


@pytest.mark.parametrize("value", HALVES, ids=by_type)
@pytest.mark.parametrize("convert", [as_fraction, as_number])
def test_numbers_become_floats(convert: Callable[[str, Any], float], value: Any) -> None:
    assert (type(convert("x", value)), convert("x", value)) == (float, 0.5)


@pytest.mark.parametrize("value", THREES, ids=by_type)
def test_integers_become_ints(value: Any) -> None:
    assert (type(as_int("x", value)), as_int("x", value)) == (int, 3)
    assert (type(as_number("x", value)), as_number("x", value)) == (float, 3.0)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=by_type)
@pytest.mark.parametrize("convert", [as_fraction, as_number, as_int])
def test_what_is_no_number_is_refused(convert: Callable[[str, Any], Any], value: Any) -> None:
    with pytest.raises(bs.ArgumentError, match=r"^x: .*; accepted: "):
        convert("x", value)


def test_an_integer_beyond_all_floats_is_refused() -> None:
    assert as_int("x", 10**400) == 10**400
    with pytest.raises(bs.ArgumentError, match=r"^x: "):
        as_number("x", 10**400)


@pytest.mark.parametrize(
    "value", [*HALVES, 800.0, np.float64(3), Fraction(3, 1), torch.tensor(3.0)], ids=by_type
)
def test_an_integer_is_no_float_even_a_whole_one(value: Any) -> None:
    with pytest.raises(bs.ArgumentError, match="accepted: an integer from 1"):
        as_int("x", value, 1)


@pytest.mark.parametrize("value", [False, np.False_, np.array(False), torch.tensor(False)], ids=by_type)
def test_bools_become_bools(value: Any) -> None:
    assert as_bool("x", value) is False


@pytest.mark.parametrize(
    "value", [0, 1, 1.0, "True", None, np.int64(1), torch.tensor(1), np.array([True])], ids=by_type
)
def test_a_number_is_no_bool(value: Any) -> None:
    with pytest.raises(bs.ArgumentError, match="accepted: True, False"):
        as_bool("x", value)


def test_words_lose_their_own_type() -> None:
    class Word(str, enum.Enum):
        KEEP = "keep"

    for given in (np.str_("keep"), Word.KEEP):
        found = one_of("x", given, ("error", "keep"))
        assert type(found) is str and found == "keep"
    assert one_of("x", None, (None, "keep")) is None
    for wrong in ("kept", 1, None, ["keep"], np.array(["keep", "error"])):
        with pytest.raises(bs.ArgumentError, match="accepted: 'error', 'keep'"):
            one_of("x", wrong, ("error", "keep"))


def test_a_percentage_is_told_what_it_is_as_a_fraction() -> None:
    with pytest.raises(
        bs.ArgumentError, match=r"sparsity: 50; accepted: a fraction from 0 to 1 \(50 % is 0.5\)"
    ):
        bs.make_masks(bs.ScoreInputs(np.ones(4, np.float32)), sparsity=50, scorer="magnitude")


def test_messages_do_not_print_whole_tensors() -> None:
    text = shown(torch.zeros(1000, 1000))
    assert len(text) < 130 and "tensor of shape (1000, 1000)" in text
    assert len(shown(torch.empty(3, device="meta"))) < 130


# What a scorer, selector or scope is made with, as NumPy and torch would give it.
OBJECTS: list[Callable[[Callable[[float], Any], Callable[[int], Any]], Any]] = [
    lambda f, i: bs.Bitter7(eps=f(0.5)),
    lambda f, i: bs.Bitter10z(eps=f(0.5)),
    lambda f, i: bs.AdamVariance(eps=f(0.5), q=f(0.5)),
    lambda f, i: bs.Random(seed=i(3)),
    lambda f, i: bs.Bitter10(eps=f(0.5), alpha=f(0.5), a=f(0.5), b=i(3), c=f(0.25), d=i(3), decay=f(0.5)),
    lambda f, i: bs.Bitter10s(eps=f(0.5), alpha=i(3), a=f(0.5), floor=f(0.5), decay=f(0.5), seed=i(3)),
    lambda f, i: bs.Bitter10c(eps=f(0.5), every=i(3), floor=f(0.5)),
    lambda f, i: bs.Sampling(fraction=f(0.5), verify=np.bool_(True), by=np.str_("element")),
    lambda f, i: bs.Streaming(tolerance=f(0.5)),
    lambda f, i: bs.NofM(i(3), i(4), remainder=np.str_("keep")),
    lambda f, i: bs.Row(np.str_("floor")),
]  # fmt: skip


@pytest.mark.parametrize("make", OBJECTS)
@pytest.mark.parametrize("floats", [np.float64, np.float32, torch.tensor, Decimal, Fraction])
@pytest.mark.parametrize("ints", [np.int64, torch.tensor])
def test_objects_hold_plain_values(make: Any, floats: Any, ints: Any) -> None:
    made, plain = make(floats, ints), make(float, int)
    assert made == plain and repr(made) == repr(plain)
    assert {type(value) for value in vars(made).values()} <= {bool, int, float, str, type(None)}


@pytest.mark.parametrize(
    "options",
    [
        {"max_tensor_sparsity": np.float64(0.9)},
        {"max_tensor_sparsity": Fraction(9, 10)},
        {"seed": np.int64(3)},
        {"seed": torch.tensor(3)},
        {"mask_optimizer_state": np.True_, "regrow": np.False_},
        {"hold": np.str_("grads"), "missing": np.str_("skip"), "nonfinite": np.str_("keep")},
        {"ties": np.str_("exact"), "scorer": np.str_("bitter3"), "selector": np.str_("histogram")},
        {"scope": np.str_("row"), "distribution": np.str_("erk")},
        {"scope": bs.NofM(np.int64(2), np.int32(4))},
        {"scorer": bs.Bitter7(eps=np.float32(1e-9))},
        {"scorer": bs.AdamVariance(q=Fraction(1, 4), eps=Decimal("1e-9"))},
        {"scorer": bs.Bitter10s(seed=np.int64(5), decay=torch.tensor(0.5), a=np.float64(2))},
        {"scorer": bs.Bitter10c(every=np.int16(2), floor=np.float32(0.5))},
        {"selector": bs.Sampling(fraction=np.float64(0.5), verify=np.bool_(True), by=np.str_("line"))},
        {"selector": bs.Streaming(tolerance=torch.tensor(0.0))},
        {"schedule": bs.OneShot(np.float32(0.5), np.int64(5))},
        {"schedule": bs.Linear(np.float64(0), np.float64(0.5), np.int64(3), np.int64(5), np.int64(1))},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_pruner_accepts_can_be_saved_and_read_safely(options: dict[str, Any]) -> None:
    """Twice: the settings of the file agree with those of a pruner that was given plain values."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = bs.Pruner(model, optimizer, **{"schedule": bs.OneShot(0.5, 5), **options})
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    file.seek(0)
    pruner.load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("sparsity", HALVES, ids=by_type)
@pytest.mark.parametrize("k", [None, *THREES], ids=by_type)
def test_functions_take_them_too(sparsity: Any, k: Any) -> None:
    weight = np.arange(1.0, 9.0, dtype=np.float32)
    how = {"sparsity": sparsity} if k is None else {"k": k}
    event = bs.make_masks(bs.ScoreInputs(weight), scorer="magnitude", seed=np.int64(1), **how).event
    assert event is not None
    assert event.pruned == (4 if k is None else 3)
    assert type(event.requested_sparsity) is float


@pytest.mark.parametrize(
    "wrong",
    [
        {"ties": 3}, {"nonfinite": None}, {"distribution": 5}, {"regrow": "yes"}, {"regrow": 1}, {"sync": 1},
        {"seed": 1.5}, {"seed": True}, {"seed": -1}, {"seed": 2**63}, {"k": 2**70}, {"k": True}, {"k": 1.0},
        {"eps": True}, {"eps": "1"}, {"max_tensor_sparsity": 2}, {"max_tensor_sparsity": "all"},
        {"scope": 3}, {"scope": None}, {"scope": Scope()}, {"rounding": None},
        {"remainder": 2}, {"scorer": 7}, {"selector": None}, {"selector": "exactly"},
    ],
    ids=str,
)  # fmt: skip
def test_every_bad_option_is_named(wrong: dict[str, Any]) -> None:
    item = bs.ScoreInputs(np.ones(8, np.float32), exp_avg_sq=np.ones(8, np.float32))
    given = {"sparsity": 0.5, **wrong}
    if "k" in wrong:
        del given["sparsity"]
    with pytest.raises(bs.ArgumentError, match=next(iter(wrong))):
        bs.make_masks(item, **given)


def test_a_message_reads_no_memory_of_a_tensor() -> None:
    tensor = torch.full((64,), 3.25)
    for value in (tensor, torch.nn.Parameter(tensor), [tensor], {"a": (tensor,)}, torch.tensor(3.25)):
        text = shown(value)
        assert "tensor of shape" in text and "3.25" not in text
    assert shown([tensor]) == "[a float32 tensor of shape (64,)]"
    assert shown("cubic") == "'cubic'" and shown(0.5) == "0.5" and shown((True, 50)) == "(True, 50)"
    assert len(shown(list(range(10_000)))) < 150
