"""Several symbols on one desk: when a minute is complete, and what happens to a symbol without its bar."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.core.desks.bars import MINUTE_WAIT_NS
from strategies.kit.units import MINUTE_NS
from strategies.online_dqn import NO_BAR
from tests.support.desks.desk_run import Desk, records, tape_rows, verified, write_tape
from tests.support.models.online_models import NAME, VERSION, put_momentum

SYMBOLS = ("SPY", "QQQ")
HOLES = 7  # every seventh minute QQQ has no bar


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    rows = []
    for number, row in enumerate(tape_rows(1, 60, stubs=3)):
        _, start, *prices, volume = row.split(",")
        rows.append(row)
        if number % HOLES or number < 86 * 3:
            cheaper = [f"{float(price) * 0.8:.2f}" for price in prices]
            rows.append(",".join(("QQQ", start, *cheaper, volume)))
    tape = write_tape(folder / "tape.csv", rows)
    models = put_momentum(folder / "store")
    desk = Desk(tape, desk__strategy=NAME, desk__symbols=SYMBOLS, paths__models_dir=models, policy__version=VERSION)
    assert desk.run(folder / "state").failure is None
    return folder / "state"


def test_a_whole_minute_is_decided_once_at_its_end_and_a_torn_one_after_the_wait(state_dir: Path) -> None:
    decisions = [row for row in records(state_dir, "decisions") if row["kind"] == "policy"]
    bars = [row["bar_ns"] for row in decisions]
    assert len(bars) == len(set(bars))
    torn = {row["decision"] for row in records(state_dir, "heads") if row["note"] == NO_BAR}
    assert len(torn) >= 7
    for row in decisions:
        waited = row["time_ns"] - row["bar_ns"] - MINUTE_NS
        assert waited == (MINUTE_WAIT_NS if row["decision"] in torn else 0)
    assert verified(state_dir).difference == ""


def test_a_symbol_without_its_bar_holds_and_the_other_one_trades(state_dir: Path) -> None:
    notes = {(row["decision"], row["symbol"]): row["note"] for row in records(state_dir, "heads")}
    draws = set()
    for row in records(state_dir, "choices"):
        if notes[row["decision"], row["symbol"]]:
            assert (row["symbol"], row["drawn"], json.loads(row["allowed"])) == ("QQQ", "HOLD", ["HOLD"])
        elif notes.get((row["decision"], "QQQ")):
            draws.add(row["drawn"])
    assert draws & {"BUY", "SELL"}


def test_each_symbol_gets_its_half_of_the_equity(state_dir: Path) -> None:
    buys = [row for row in records(state_dir, "fills", "filled_ns") if row["side"] > 0]
    assert {row["symbol"] for row in buys} == set(SYMBOLS)
    for row in buys[:4]:
        assert 0.45 < row["quantity"] * float(row["price"]) / 100_000 < 0.52
