"""The golden tape is what its seed makes, its observations are the table's, and the hash sees every declared change."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest

from strategies.golden import (
    GOLDEN_POINTS,
    GOLDEN_SEED,
    GOLDEN_SESSIONS,
    TAPE,
    contract_digest,
    contract_hash,
    golden_bars,
    golden_observations,
    golden_view,
)
from strategies.kit.contract import Bar, Head, Observation, Spec, Timeframe, View
from strategies.kit.synthetic import synthetic_sessions
from strategies.option_scalper import DECLARATION, MARKET_FEATURES, SPEC, OptionScalper, ScalperState
from strategies.registry import strategy
from tests.support.strategies.minutes import minutes_of


def test_the_committed_tape_is_what_its_seed_makes() -> None:
    bars = tuple(synthetic_sessions(GOLDEN_SEED, GOLDEN_SESSIONS))
    lines = (f"{b.start_ns},{b.open:.2f},{b.high:.2f},{b.low:.2f},{b.close:.2f},{b.volume:.0f}" for b in bars)
    assert TAPE.read_text(encoding="ascii") == "\n".join(("start_ns,open,high,low,close,volume", *lines, ""))
    assert golden_bars() == bars


def test_golden_observations_show_each_position_and_are_the_rows_of_the_table() -> None:
    minutes = minutes_of(golden_bars(), GOLDEN_SESSIONS)
    values = minutes.table().values
    observations = golden_observations(strategy("option_scalper"))
    assert [o.array()[-1, MARKET_FEATURES] for o in observations] == [0, 1, -1, -1, 0, -1, 0]
    for (session, index), observation in zip(GOLDEN_POINTS, observations, strict=True):
        start = minutes.starts[session] + index - 19
        market = b"".join(struct.pack("<20f", *row) for row in values[start : start + 20].tolist())
        assert observation.array()[:, :MARKET_FEATURES].tobytes() == market


def test_golden_views_are_flat_then_long_calls_then_long_puts() -> None:
    session = GOLDEN_SESSIONS[1]
    assert golden_view(session, 0) == View(session.open_ns + 60_000_000_000, session)
    assert golden_view(session, 45) == View(session.open_ns + 46 * 60_000_000_000, session, 1, -0.25, 5.0)
    assert golden_view(session, 110) == View(session.open_ns + 111 * 60_000_000_000, session, -1, 1.0, 30.0)


class Sleeper(OptionScalper):
    """A strategy that never becomes warm."""

    def observe(
        self, state: ScalperState, bars: tuple[Bar, ...], view: View
    ) -> tuple[ScalperState, Observation | None]:
        return state, None


def test_a_strategy_that_is_not_warm_on_the_tape_is_named() -> None:
    with pytest.raises(ValueError, match="option_scalper has no observation at bar 19 of 2024-07-03"):
        golden_observations(Sleeper())


def test_the_contract_hash_is_the_one_that_exported_models_carry() -> None:
    """Changes only with the meaning of an observation or of an answer; then older models are refused, on purpose."""
    assert (
        contract_hash(strategy("option_scalper")) == "ad5b311334ae72bfce9e4109e823c586fadee2398e2306e09a1edefed9223e72"
    )


CHANGED: dict[str, Any] = {
    "name": "other",
    "revision": 2,
    "symbols": ("QQQ",),
    "bar_interval_s": 300,
    "history_bars": 255,
    "window": 19,
    "observation_shape": (23, 20),
    "dtype": "float64",
    "features": SPEC.features[::-1],
    "actions": SPEC.actions[::-1],
    "temperature": 0.8,
    "recurrent_shape": (2, 64),
    "heads": (Head("confidence", (), "the largest probability"),),
    "rows_are_symbols": True,
    "config": "{}",
    "bar_anchor": "hour",
    "timeframes": (Timeframe("1h", 4),),
}


@pytest.mark.parametrize("field", Spec.__struct_fields__)
def test_the_contract_hash_changes_with_every_field_of_the_spec(field: str) -> None:
    other = msgspec.structs.replace(SPEC, **{field: CHANGED[field]})
    assert contract_digest(other, DECLARATION) != contract_digest(SPEC, DECLARATION)


def test_the_contract_hash_of_a_strategy_that_serves_any_symbols_leaves_them_out() -> None:
    open_ = msgspec.structs.replace(SPEC, rows_are_symbols=True)
    other = msgspec.structs.replace(open_, symbols=("QQQ",))
    assert contract_digest(other, DECLARATION) == contract_digest(open_, DECLARATION)


@pytest.mark.parametrize(
    "head", [Head("x", (), "a"), Head("h", (1,), "a"), Head("h", (), "b"), Head("h", (), "a", True)]
)
def test_the_contract_hash_changes_with_name_shape_and_meaning_of_a_head(head: Head) -> None:
    one = msgspec.structs.replace(SPEC, heads=(Head("h", (), "a"),))
    assert contract_digest(msgspec.structs.replace(SPEC, heads=(head,)), DECLARATION) != contract_digest(
        one, DECLARATION
    )


@pytest.mark.parametrize("entry", DECLARATION)
def test_the_contract_hash_changes_with_every_declaration(entry: str) -> None:
    assert contract_digest(SPEC, DECLARATION | {entry: "other"}) != contract_digest(SPEC, DECLARATION)
