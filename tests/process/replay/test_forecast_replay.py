"""A desk of `forecast_ensemble` on bad input: what is masked, why, from when to when, and where a person sees it.

The policy is made up (`tests.support.models.forecast_models`); it trades whatever it may. Sessions are numbered as in
`tests.support.models.faulty_days`; a decision after session k stands on the bars up to k.
"""

from __future__ import annotations

import argparse
import io
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from daemon.app.desks import desk_of
from daemon.cli.journal.explain import run as explain
from daemon.cli.status import run as status
from daemon.core.effects import RaiseAlarm
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from strategies.forecast_ensemble import ACCOUNT
from strategies.forecast_ensemble.features import COUNT, HISTORY_BARS
from tests.support.desks.desk_run import Desk, recovered, verified
from tests.support.models import faulty_days as days
from tests.support.models.forecast_models import VERSION, put_relay
from tests.support.trades import prove_trades

SETTLED = 360  # bars of its own, after which a symbol has 60 settled rows
ROWS = 60
DECISIONS = 2  # on recorded days


class Played:
    """The state directory of a replay of the faulty tape, and the alarms that it raised."""

    def __init__(self, folder: Path) -> None:
        models, tape = put_relay(folder / "models"), days.faulty_tape(folder / "faulty.csv")
        self.path = folder / "state"
        options = {"desk__strategy": "forecast_ensemble", "desk__symbols": days.SYMBOLS, "paths__models_dir": models}
        self.alarms: list[RaiseAlarm] = []
        run = Desk(tape, **options, policy__version=VERSION).run(
            self.path,
            observe=lambda _, step: self.alarms.extend(e for e in step.effects if isinstance(e, RaiseAlarm)),
        )
        assert run.failure is None
        self.sessions = {start: number for number, start in enumerate(days.starts())}

    def rows(self, sql: str, *values: Any) -> Sequence[sqlite3.Row]:
        with closing(JournalReader(self.path / FILE)) as reader:
            return reader.query(sql, values)

    def masked(self, symbol: str) -> dict[int, str]:
        """Why the decision after each session left the symbol alone, where it did."""
        rows = self.rows(
            "SELECT d.bar_ns, h.note FROM decisions d JOIN heads h ON h.decision = d.decision WHERE h.symbol = ?",
            symbol,
        )
        return {self.sessions[row["bar_ns"]]: row["note"] for row in rows if row["note"]}

    def trade_days(self, symbol: str) -> set[int]:
        """The sessions after which a decision led to fills of the symbol."""
        rows = self.rows(
            "SELECT d.bar_ns FROM fills f JOIN orders o ON o.client_order_id = f.client_order_id "
            "JOIN decisions d ON o.work LIKE d.decision || '.%' WHERE f.symbol = ?",
            symbol,
        )
        return {self.sessions[row["bar_ns"]] for row in rows}


@pytest.fixture(scope="module")
def desk_run(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("faulty"))


def test_its_trades_are_those_of_its_fills_and_come_to_the_book(desk_run: Played) -> None:
    assert len(prove_trades(desk_run.path)) > 5


def spans(masked: dict[int, str]) -> list[tuple[str, int, int]]:
    """The reasons one after the other, each with its first and last session."""
    result: list[tuple[str, int, int]] = []
    for session, reason in sorted(masked.items()):
        if result and result[-1][0] == reason and result[-1][2] == session - 1:
            result[-1] = (reason, result[-1][1], session)
        else:
            result.append((reason, session, session))
    return result


def test_each_bad_input_masks_its_symbol_for_a_stated_time_with_a_stated_reason(desk_run: Played) -> None:
    first, last = SETTLED - 1, days.SESSIONS - 2  # the newest session has no open after it
    assert spans(desk_run.masked(days.WHOLE)) == []
    assert spans(desk_run.masked(days.LATE)) == [("features", first, days.LATE_FROM + SETTLED - 2)]
    for symbol, holes in ((days.NOT_A_NUMBER, 1), (days.HOLE, days.HOLE_TO - days.AT)):
        end, gap = spans(desk_run.masked(symbol))
        assert end == ("ended", days.AT, days.AT + holes - 1)  # until another bar comes
        assert gap == ("gap", days.AT + holes, days.AT + holes + ROWS - 2)
    assert spans(desk_run.masked(days.SPLIT)) == [("jump", days.AT, days.AT + ROWS - 1)]
    silent = days.SILENT_FROM + ROWS - 1
    assert spans(desk_run.masked(days.SILENT)) == [("no volume", silent, days.SILENT_TO - 1)]
    assert spans(desk_run.masked(days.NEW)) == [
        ("not listed", first, days.NEW_FROM - 1),
        ("short history", days.NEW_FROM, days.NEW_FROM + ROWS - 2),
        ("features", days.NEW_FROM + ROWS - 1, last),
    ]
    assert spans(desk_run.masked(days.ENDED)) == [("ended", days.LAST + 1, last)]


def test_nothing_of_a_masked_symbol_is_traded_and_what_is_held_of_it_stays(desk_run: Played) -> None:
    for symbol in days.SYMBOLS:
        assert not desk_run.trade_days(symbol) & desk_run.masked(symbol).keys()
        assert bool(desk_run.trade_days(symbol)) == (symbol != days.NEW)
    masked = desk_run.rows("SELECT symbol, weight_before, weight_after FROM heads WHERE note != ''")
    assert all(row["weight_before"] == row["weight_after"] for row in masked)
    assert any(row["weight_before"] > 0 for row in masked)


def test_a_masked_symbol_is_shown_to_the_policy_as_not_tradable_with_its_features_0(desk_run: Played) -> None:
    masked_rows = 0
    for decision in desk_run.rows("SELECT decision, row FROM decisions"):
        rows = np.frombuffer(decision["row"], dtype="<f4").reshape(len(days.SYMBOLS), COUNT + len(ACCOUNT))
        notes = desk_run.rows("SELECT symbol, note FROM heads WHERE decision = ?", decision["decision"])
        for row, note in zip(rows, [{r["symbol"]: r["note"] for r in notes}[s] for s in days.SYMBOLS], strict=True):
            assert row[-1] == (not note)
            assert row[:COUNT].any() == (not note)
            masked_rows += bool(note)
    assert masked_rows > 200


def test_the_journal_names_the_bad_bar_and_an_alarm_each_session_names_who_is_left_alone(desk_run: Played) -> None:
    (rejected,) = (
        json.loads(row["payload"]) for row in desk_run.rows("SELECT payload FROM events WHERE kind = 'BarRejected'")
    )
    assert (rejected["symbol"], rejected["reason"]) == (days.NOT_A_NUMBER, "not_finite")
    details = [alarm.detail for alarm in desk_run.alarms if alarm.name == "symbols_masked"]
    decisions = desk_run.rows("SELECT DISTINCT decision FROM heads WHERE note != ''")
    assert len(details) == len(decisions)
    assert any("left alone: " in text and f"gap: {days.NOT_A_NUMBER}, {days.HOLE}" in text for text in details)
    assert details[-1] == f"2 of 8 left alone: ended: {days.ENDED}; features: {days.NEW}"


def test_the_state_the_status_and_the_decision_show_who_is_left_alone(desk_run: Played) -> None:
    state = recovered(desk_run.path).machine.state
    assert dict(zip(days.SYMBOLS, state.strategy.masked, strict=True))[days.ENDED] == "ended"
    assert desk_of(desk_run.path).left_alone == {days.ENDED: "ended", days.NEW: "features"}
    out = io.StringIO()
    options = argparse.Namespace(state_dir=desk_run.path, watch=False, json=False, bar=str(days.starts()[days.AT]))
    assert status(options, Console(file=out, width=160)) == 0
    assert any("left alone" in line and f"{days.ENDED}: ended" in line for line in out.getvalue().splitlines())
    out = io.StringIO()
    assert explain(options, Console(file=out, width=160)) == 0
    lines = out.getvalue().splitlines()
    assert any(days.SPLIT in line and "jump" in line for line in lines)


def test_what_confidence_took_from_each_wish_is_shown_with_the_decision(desk_run: Played) -> None:
    (row,) = desk_run.rows("SELECT * FROM heads WHERE symbol = ? ORDER BY decision DESC LIMIT 1", days.WHOLE)
    heads = json.loads(row["heads"])
    passed = min(2.0 * heads["confidence"], 1.0)
    assert (heads["sac"] + heads["td3"]) / 2 * passed == pytest.approx(heads["final"], abs=1e-6)
    (bar,) = desk_run.rows("SELECT bar_ns FROM decisions WHERE decision = ?", row["decision"])
    out = io.StringIO()
    explain(argparse.Namespace(state_dir=desk_run.path, bar=str(bar["bar_ns"])), Console(file=out, width=160))
    head = next(line for line in out.getvalue().splitlines() if "taken from sac" in line)
    lines = out.getvalue().splitlines()
    cells = next(line for line in lines[lines.index(head) :] if days.WHOLE in line).strip("│").split("│")
    reductions = [float(cell) for cell in cells[2:4]]
    assert reductions == pytest.approx([heads[wish] * (1.0 - passed) for wish in ("sac", "td3")], abs=5e-5)


def test_the_journal_of_bad_input_replays_identically_and_no_more_than_w_bars_are_kept(desk_run: Played) -> None:
    assert verified(desk_run.path).difference == ""
    assert HISTORY_BARS > days.SESSIONS  # all of them are still kept


@pytest.mark.parametrize("count", [1, 475])
def test_one_symbol_or_475_recorded_ones_are_a_configuration(data_dir: Path, tmp_path: Path, count: int) -> None:
    tape, symbols = recorded_days(data_dir / "sp500_daily_2018_2022.parquet", tmp_path / "tape.parquet", count)
    assert len(symbols) == count
    models = put_relay(tmp_path / "models", band=0.0)
    options = {"desk__strategy": "forecast_ensemble", "desk__symbols": symbols, "paths__models_dir": models}
    desk = Desk(tape, **options, policy__version=VERSION, basket__band=0.0)
    assert desk.run(tmp_path / "state", snapshot_events=10**6, group_events=4000).failure is None
    with closing(JournalReader(tmp_path / "state" / FILE)) as reader:
        assert reader.query("SELECT count(*) AS n FROM decisions")[0]["n"] == DECISIONS
        assert reader.query("SELECT count(*) AS n FROM heads")[0]["n"] == DECISIONS * count
        filled_symbols = {row["symbol"] for row in reader.query("SELECT DISTINCT symbol FROM fills")}
    assert filled_symbols <= set(symbols)
    assert len(filled_symbols) > count / 4 or count == 1


def recorded_days(file: Path, tape: Path, count: int) -> tuple[Path, tuple[str, ...]]:
    """The newest sessions of the first symbols of the file: enough for two decisions."""
    table = pq.read_table(file)
    dates = sorted(set(table["date"].to_pylist()))[-(SETTLED + DECISIONS) :]
    newest = table.filter(pc.greater_equal(table["date"], dates[0]))
    symbols = tuple(sorted(set(newest["symbol"].to_pylist())))[:count]
    pq.write_table(newest.filter(pc.is_in(newest["symbol"], value_set=pa.array(symbols))).drop_columns("date"), tape)
    return tape, symbols
