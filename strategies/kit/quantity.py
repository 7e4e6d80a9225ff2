"""Quantities of shares and contracts: exact, and of one form.

A whole quantity is an `int`, any other a `Part`: a decimal of at most nine places, the most that a broker keeps. Sums
and differences of quantities, and their products with whole numbers, are quantities again; a product with a price is a
plain `Decimal`. Invariant: equal quantities have equal text, in the journal, its tables, JSON and towards the broker.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import TYPE_CHECKING, Any

PLACES = 9
FINEST = Decimal(1).scaleb(-PLACES)
MOST_DIGITS = 18  # before the point
_DIGITS = 40  # of the context in which quantities are added: sums are exact


class Part(Decimal):
    """A quantity that is not whole, made by `exact`. Its text has no exponent and no trailing zero."""

    __slots__ = ()

    def __str__(self) -> str:
        return Decimal.__format__(self, "f")

    __repr__ = __str__

    def __format__(self, spec: str, /) -> str:  # type: ignore[override]
        """Format as a `Decimal`, without an exponent unless `spec` asks for one; `d` gives plain digits."""
        spec = spec.removesuffix("d")
        return Decimal.__format__(self, spec if spec[-1:].isalpha() or spec[-1:] == "%" else f"{spec}f")

    def __add__(self, other: Any, /) -> Any:
        if type(other) is int and not other:
            return self
        return _as_quantity(other, Decimal.__add__(self, other))

    def __radd__(self, other: Any, /) -> Any:
        if type(other) is int and not other:
            return self
        return _as_quantity(other, Decimal.__radd__(self, other))

    def __sub__(self, other: Any, /) -> Any:
        if type(other) is int and not other:
            return self
        return _as_quantity(other, Decimal.__sub__(self, other))

    def __rsub__(self, other: Any, /) -> Any:
        return _as_quantity(other, Decimal.__rsub__(self, other))

    def __mul__(self, other: Any, /) -> Any:
        if type(other) is not int:
            return Decimal.__mul__(self, other)
        return self if other == 1 else exact(Decimal.__mul__(self, other))

    __rmul__ = __mul__

    def __neg__(self) -> Part:
        return Part(Decimal.__neg__(self))

    def __pos__(self) -> Part:
        return self

    def __abs__(self) -> Any:
        return Part(Decimal.__abs__(self))

    def __reduce__(self) -> Any:
        return Part, (str(self),)

    def __copy__(self) -> Part:
        return self

    def __deepcopy__(self, _: Any) -> Part:
        return self


def _as_quantity(other: Any, result: Any) -> Any:
    """Return `result` as a quantity if `other` is one; else `result` unchanged."""
    return exact(result) if type(other) is int or type(other) is Part else result


if TYPE_CHECKING:
    Quantity = int | Part
else:

    class _Either(type):
        def __instancecheck__(cls, value: object) -> bool:
            return type(value) is int or type(value) is Part

    class Quantity(metaclass=_Either):
        """An `int` or a `Part`; as the type of a field it is decoded by `from_json`."""


def exact(value: Decimal | int | str) -> Quantity:
    """Return a number as a quantity.

    Raises:
        ValueError: it is no finite number, or has more than nine decimals: it would not be exact.
    """
    if type(value) is int or type(value) is Part:
        return value
    try:
        number = value if isinstance(value, Decimal) else Decimal(value)
        is_short = number.is_finite() and number.adjusted() <= MOST_DIGITS  # not a number of a billion digits
        if is_short and number == number.to_integral_value():
            return int(number)
    except (ArithmeticError, ValueError):
        raise ValueError(f"quantity is {value!r}: expected a number of at most {PLACES} decimals") from None
    if not is_short:
        raise ValueError(f"quantity is {value}: expected at most {MOST_DIGITS} digits and {PLACES} decimals")
    if Decimal.quantize(number, FINEST) != number:
        raise ValueError(f"quantity is {value}: expected at most {PLACES} decimals")
    return Part(Decimal.normalize(number))


def floor_to(value: Decimal | int, step: Decimal | int) -> Quantity:
    """Return `value` rounded towards 0 to a multiple of `step`, a quantity above 0."""
    with localcontext() as context:
        context.prec = _DIGITS
        count = (Decimal(value) / step).to_integral_value(ROUND_DOWN)
        return exact(count * step)


def steps_of(shares: float, per_share: int) -> int:
    """Return the steps in a number of shares, towards 0; `per_share` steps are one share.

    A float64 next to a whole count of steps gives that count: 3 / 10000 x 10000 is less than 3, and gives 3. The tensor
    markets of training round with the same two lines.
    """
    count = round(shares * per_share)
    return count if count / per_share == shares else int(shares * per_share)


def shares_of(steps: int, per_share: int) -> int | float:
    """Return a count of steps as shares: an int where whole, else the float64 that is next to it."""
    whole, rest = divmod(steps, per_share)
    return steps / per_share if rest else whole


def total(quantities: Iterable[Quantity]) -> Quantity:
    """Return the sum."""
    result: Quantity = 0
    for quantity in quantities:
        result += quantity
    return result


def whole_of(value: Quantity) -> int:
    """Return the value rounded towards 0 to a whole number."""
    return int(value)


def of_column(value: Any) -> Quantity:
    """Return the quantity that a column of a table holds: a whole number, or the text of a fraction.

    Raises:
        ValueError: it holds anything else.
    """
    if type(value) is int:
        return value
    if type(value) is str:
        return exact(value)
    raise ValueError(f"quantity is {value!r}: expected a whole number or the text of a fraction")


def to_column(value: Quantity) -> int | str:
    """Return what a column of a table holds for a quantity: its text where it is a fraction."""
    return str(value) if type(value) is Part else int(value)


def to_json(value: Any) -> Any:
    """Encode a `Part` as decimal text: the `enc_hook` of an encoder. Raises TypeError for any other type."""
    if type(value) is Part:
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def from_json(kind: Any, value: Any) -> Any:
    """Decode a quantity from a whole number or its text: the `dec_hook` of a decoder. Raises ValueError."""
    if kind is not Quantity:
        raise TypeError(f"no start can read a {getattr(kind, '__name__', kind)} again")
    if type(value) is str:
        quantity = exact(value)
        if str(quantity) == value and type(quantity) is Part:
            return quantity
    elif type(value) is int:
        return value
    raise ValueError(f"quantity is {value!r}: expected a whole number, or the plain text of a fraction")
