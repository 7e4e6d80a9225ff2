"""The bundled tape of daily bars is what its tool writes, and feeds the daily desks."""

from __future__ import annotations

import gzip

import pytest

from daemon.tapes import DAILY_TAPE
from daemon.tapes.make_synthetic import daily_tape_bytes
from daemon.tapes.minutes import scan
from strategies.registry import strategy


def test_the_bundled_daily_tape_is_what_its_tool_writes() -> None:
    bundled = DAILY_TAPE.read_bytes()
    assert gzip.decompress(bundled) == gzip.decompress(daily_tape_bytes())
    assert bundled[4:8] == bytes(4), "the gzip header carries a time"


@pytest.mark.parametrize(
    ("name", "symbols"), [("daily_rebalancer", 50), ("regime_switcher", 3), ("forecast_ensemble", 20)]
)
def test_it_is_five_hundred_sessions_of_every_symbol(name: str, symbols: int) -> None:
    spec = strategy(name).spec
    info = scan(DAILY_TAPE, spec.symbols, spec.bar_interval_s)
    assert (info.dates, info.first_date, info.last_date) == (500, "2022-12-05", "2024-11-29")
    assert {info.rows_by_symbol[symbol] for symbol in spec.symbols} == {500}
    assert len(spec.symbols) == symbols
    assert info.synthetic.startswith("synthetic")
