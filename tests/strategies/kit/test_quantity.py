"""Quantities: exact, of one form, closed under what is done with them; against fractions of Python's own."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal
from fractions import Fraction
from math import ulp
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.kit.quantity import FINEST, Part, Quantity, exact, floor_to, from_json, shares_of, steps_of, to_json

counts = st.integers(-(10**15), 10**15)


class Held(msgspec.Struct):
    quantity: Quantity
    by_symbol: dict[str, Quantity] = {}


def quantity_of(count: int) -> Quantity:
    """A quantity of so many billionths."""
    return exact(Decimal(count).scaleb(-9))


def billionths(quantity: Quantity) -> Fraction:
    return Fraction(quantity) * 10**9


@given(counts, counts, st.integers(-1000, 1000))
def test_sums_differences_and_multiples_are_exact_quantities(one: int, other: int, times: int) -> None:
    a, b = quantity_of(one), quantity_of(other)
    result: Any
    for result, expected in ((a + b, one + other), (a - b, one - other), (-a, -one), (abs(a), abs(one))):
        assert billionths(result) == expected
        assert type(result) is (int if expected % 10**9 == 0 else Part)
    assert billionths(a * times) == billionths(times * a) == one * times
    assert sum((a, b), 0) == a + b
    assert (a < b, a == b) == (one < other, one == other)


@given(counts)
def test_the_text_is_plain_and_decodes_to_the_same(count: int) -> None:
    quantity = quantity_of(count)
    text = str(quantity)
    assert "E" not in text.upper()
    assert "." not in text or not text.endswith("0")
    assert f"{quantity}" == text
    holding = Held(quantity, {"SPY": quantity})
    data = msgspec.json.encode(holding, enc_hook=to_json)
    assert data.count(b'"' + text.encode() + b'"') == (2 if type(quantity) is Part else 0)
    again = msgspec.json.decode(data, type=Held, dec_hook=from_json)
    assert again == holding
    assert type(again.quantity) is type(quantity)


def test_whole_quantities_are_encoded_as_before() -> None:
    assert msgspec.json.encode(Held(exact("12.000")), enc_hook=to_json) == b'{"quantity":12,"by_symbol":{}}'
    assert type(exact(Decimal("1E+2"))) is int


@pytest.mark.parametrize("text", ["1.5e0", "1.50", '"1.50"', '"1E-9"', '"3"', '"0.0000000001"', "true", '"x"', "1.5"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(f'{{"quantity":{text}}}', type=Held, dec_hook=from_json)


@pytest.mark.parametrize(
    "value",
    ["0.0000000001", "NaN", "Infinity", "many", "1e9999999", "-1e20", Decimal("1.0000000005"), f"1.{'0' * 30}1"],
)
def test_what_is_not_exact_is_refused(value: Decimal | str) -> None:
    with pytest.raises(ValueError, match="decimals"):
        exact(value)


def test_times_a_price_it_is_money() -> None:
    cost = exact("0.3") * Decimal("101.25")
    assert (type(cost), str(cost)) == (Decimal, "30.375")
    assert type(Decimal("101.25") * exact("0.3")) is Decimal
    assert Decimal("2.5") + exact("0.5") == 3


def test_it_is_formatted_without_an_exponent() -> None:
    part = exact("1234.5")
    assert f"{exact(FINEST):+} {part:,} {part:.2f} {part:+d}" == "+0.000000001 1,234.5 1234.50 +1234.5"


@given(counts, st.sampled_from(["1", "0.0001", "0.000000001", "0.25"]))
def test_the_floor_is_a_multiple_of_the_step_and_no_further_from_0(count: int, step: str) -> None:
    value = Decimal(count).scaleb(-9)
    floor = floor_to(value, Decimal(step))
    assert Fraction(floor) % Fraction(step) == 0
    assert abs(Fraction(value)) - Fraction(step) < abs(Fraction(floor)) <= abs(Fraction(value))


@given(st.integers(-(10**10), 10**10))
def test_a_count_of_steps_survives_its_way_through_a_float(count: int) -> None:
    shares = shares_of(count, 10_000)
    assert steps_of(shares, 10_000) == count
    assert (type(shares) is int) == (count % 10_000 == 0)
    assert float(exact(Decimal(count).scaleb(-4))) == shares


@given(st.floats(-1e9, 1e9), st.sampled_from([1, 10_000]))
def test_a_number_of_shares_is_cut_towards_0_to_a_step(shares: float, per_share: int) -> None:
    steps = steps_of(shares, per_share)
    slack = 2 * Fraction(ulp(shares)) * per_share  # what one product of floats may be off
    assert abs(steps) <= abs(Fraction(shares)) * per_share + slack
    assert abs(Fraction(shares)) * per_share < abs(steps) + 1 + slack
    assert per_share != 1 or steps == int(shares)


def test_it_is_copied_and_kept_as_it_is() -> None:
    part = exact("0.5")
    for again in (copy.deepcopy(part), copy.copy(part), pickle.loads(pickle.dumps(part))):
        assert (type(again), again) == (Part, part)
    assert {part: 1}[Decimal("0.5")] == 1  # type: ignore[index]
