"""The tensor market on recorded option quotes against the desk of a dry run with them, to the cent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from daemon.core.effects import AskPolicy
from daemon.core.events import BarClosed, PolicyAnswered
from daemon.core.limits import Trading
from daemon.core.paper.quotes import RecordedPaperBroker
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import TapeSource, scan
from daemon.tapes.quotes.tape import OptionQuotes, QuotedTape, option_quotes
from strategies.option_scalper import SPEC
from strategies.registry import strategy
from tests.support.rl.erratic import moody
from tests.support.training.made_up import random_walk, write_csv
from tests.support.training.option_quotes import troubled
from training.desks.scalper.baselines import play
from training.desks.scalper.data import always_hold, desk_of
from training.desks.scalper.history import History, TradingDay, read_history
from training.desks.scalper.recorded.data import QuotedDay, RecordedVenue, quoted_days, session_quotes
from training.desks.scalper.recorded.market import RecordedMarket, quote_table
from training.evaluate.machine import MODEL, started
from training.study.study import SessionResult

TRADING = Trading()
CALENDAR = SessionCalendar.load("2024-05-20", "2024-10-31")
RESTLESS = replace(
    TRADING,
    risk=replace(TRADING.risk, cooldown_trade_s=0, cooldown_loss_s=0, spread_max=0.3, spot_gap_max=0.002),
    execution=replace(TRADING.execution, exit_start="mid", entry_deadline_s=120),
)


def play_days(
    history: History, days: Sequence[TradingDay], quoted: dict[str, QuotedDay], trading: Trading
) -> tuple[SessionResult, ...]:
    """The player's results on the tensor market."""
    sessions = [(day, session_quotes(quoted[day.session.date], history, day, trading)) for day in days]
    table = quote_table(history, sessions, trading)
    market = RecordedMarket(history, table, days, trading, count=len(days), auto_reset=False)
    return play(market, moody, [day.session.date for day in days], trading.risk.confidence_min)


def test_a_day_comes_to_the_same_cent_as_a_dry_run_with_option_quotes(tmp_path: Path) -> None:
    events = random_walk(22)
    history = read_history(events, SPEC, TRADING)
    day = history.usable[-1]
    bars = write_csv(tmp_path / "bars.csv", [event.bar for event in events if isinstance(event, BarClosed)])
    quotes = option_quotes(troubled(tmp_path / "quotes.parquet", events, [day.session.date], seed=4), "SPY")
    machine = started(strategy(SPEC.name), TRADING, RecordedPaperBroker(TRADING, "SPY"), "recorded")

    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        observation = torch.from_numpy(question.observation.array().copy()).unsqueeze(0)
        logits = moody(observation) if now_ns > day.session.open_ns else always_hold(observation)
        return PolicyAnswered(now_ns, question.decision, tuple(logits[0].tolist()), b"", MODEL)

    tape = TapeSource(bars, scan(bars, SPEC.symbols, 60), CALENDAR)
    end = machine.run(QuotedTape(tape, quotes, CALENDAR, TRADING, "SPY", lambda: machine.market_state), answer)
    (session,) = play_days(history, [day], quoted_days(quotes, history, CALENDAR, TRADING), TRADING)
    assert machine.market_state.fills_recorded > 20
    assert machine.market_state.fills_modelled > 0
    assert (session.trades, session.wins) == (end.stats.trades, end.stats.wins)
    assert round(session.pnl_usd * 100) == (end.book.equity - 10_000) * 100
    assert round(session.fees_usd * 100) == end.book.fees * 100


@pytest.mark.parametrize(
    ("trading", "missing", "modelled"),
    [(TRADING, 0.06, True), (RESTLESS, 0.3, False)],
    ids=["as the desk trades", "without pauses, bars and many quotes missing, none modelled"],
)
def test_sessions_come_to_the_same_cent_as_on_the_desk(
    trading: Trading, missing: float, *, modelled: bool, tmp_path: Path
) -> None:
    events, machine = random_walk(24), strategy(SPEC.name)
    if not modelled:
        events = [event for index, event in enumerate(events) if index % 41 or not isinstance(event, BarClosed)]
    history = read_history(events, SPEC, trading)
    days = history.usable
    dates = [day.session.date for day in days]
    quotes = option_quotes(troubled(tmp_path / "quotes.parquet", events, dates, missing=missing), "SPY")
    quotes = quotes if modelled else _without_volatility(quotes)
    quoted = quoted_days(quotes, history, CALENDAR, trading)
    sessions = play_days(history, days, quoted, trading)
    desk = desk_of(events, machine, RecordedVenue(quoted, "SPY"))
    desk_play = desk.play(moody, desk.before(dates, trading), trading)
    assert sum(result.trades for result in sessions) > 45
    assert {"near_close", "wide_spread", "duplicate_intent"} <= desk_play.denials.keys()
    for one, other in zip(sessions, desk_play.sessions, strict=True):
        assert (one.date, one.trades, one.wins, one.held_min, one.minutes) == (
            other.date, other.trades, other.wins, other.held_min, other.minutes,
        )  # fmt: skip
        for name in ("pnl_usd", "fees_usd", "premium_usd"):
            assert round(getattr(one, name) * 100) == round(getattr(other, name) * 100)


def _without_volatility(quotes: OptionQuotes) -> OptionQuotes:
    """The same file with closes that end long before the bars: nothing is modelled."""
    return replace(quotes, closes={"2020-01-02": 300.0})
