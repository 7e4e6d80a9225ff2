"""The stand-in for an own strategy that cannot be imported while its desk holds a position.

It has the spec of the journal and decides nothing: with that the desk's rules can watch positions and exit them.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from strategies.kit.contract import AnyStrategy, Bar, DailySpec, Observation, ShareSpec, Spec, View
from strategies.kit.entry import StrategyEntry
from strategies.kit.own.load import OwnStrategy

_BASES: tuple[type[Spec], ...] = (Spec, ShareSpec, DailySpec)
_FACTS = ("decides", "holds", "overnight", "chained", "compounds", "shares_stopped", "before_open_ns")
_NEWER = {"bar_anchor", "timeframes", "holds_overnight"}
"""Fields that are written only where they differ from their defaults: older texts lack them."""


def spec_text(spec: Spec) -> str:
    """Return the text of a spec for the journal; "" where its class attributes are those of none of the kit's specs."""
    base = _base_of(spec)
    if base is None:
        return ""
    usual = dict(zip(base.__struct_fields__[::-1], base.__struct_defaults__[::-1], strict=False))
    fields = {name: getattr(spec, name) for name in base.__struct_fields__}
    fields = {name: value for name, value in fields.items() if name not in _NEWER or value != usual[name]}
    return msgspec.json.encode({"base": base.__name__, "fields": fields}, order="deterministic").decode()


def _base_of(spec: Spec) -> type[Spec] | None:
    facts = [getattr(type(spec), name) for name in _FACTS]
    return next((base for base in _BASES if facts == [getattr(base, name) for name in _FACTS]), None)


def spec_of(text: str) -> Spec:
    """Return the spec that `spec_text` wrote. Raises ValueError for another text."""
    try:
        spec_fields: dict[str, Any] = msgspec.json.decode(text)
        base = next(cls for cls in _BASES if cls.__name__ == spec_fields["base"])
        return msgspec.convert(spec_fields["fields"], base)
    except (msgspec.MsgspecError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"the journal's {text[:80]!r} is no spec of a strategy: {error}") from None


def stand_in(place: str, text: str, symbols: tuple[str, ...] = ()) -> OwnStrategy:
    """Return the stand-in of the strategy at this place; `symbols` are those that its desk named.

    Raises ValueError for a text that `spec_text` did not write.
    """
    spec = spec_of(text)
    usual = msgspec.structs.replace(spec, symbols=()) if symbols else spec

    def make(*_: object) -> AnyStrategy:
        return _standing_in(spec)

    entry = StrategyEntry(
        lambda: _standing_in(usual),
        {},
        spec.name[:16],
        with_symbols=make if symbols or spec.rows_are_symbols else None,
        with_config=make if spec.config else None,
    )
    digest = sha256(text.encode()).hexdigest()[:12]
    return OwnStrategy(spec.name, entry, place, "", Path(place.rpartition(":")[0]), Path(), (), digest)


def _standing_in(spec: Spec) -> AnyStrategy:
    stand_in: Any = StandIn(spec)
    strategy: AnyStrategy = stand_in
    return strategy


class StandIn:
    """Keeps the state unchanged, whatever its type, and is never warm."""

    state_type: Any = Any

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def start(self) -> Any:
        """Return the state before any bar: none."""
        return {}

    def observe(self, state: Any, _: tuple[Bar, ...], __: View) -> tuple[Any, Observation | None]:
        """Return the state, and no observation."""
        return state, None

    def decide(self, *_: object) -> Any:
        """Raise RuntimeError: without an observation nothing is asked."""
        raise RuntimeError(f"{self.spec.name} cannot be imported: it decides nothing")

    def correct(self, state: Any, _: Bar) -> Any:
        """Return the state."""
        return state

    def remember(self, state: Any, _: tuple[Bar, ...]) -> Any:
        """Return the state unchanged: the next session's history brings the bars again."""
        return state

    def readjust(self, state: Any, _: str, __: tuple[Bar, ...]) -> Any:
        """Return the state, as `remember`."""
        return state

    def known(self, _: Any) -> Mapping[str, tuple[Bar, ...]]:
        """Return no bars: what they are in the state is not known."""
        return {}
