"""A candidate beside the live model: the players by hand, the statistics by hand, and whole journals of a replay."""

from __future__ import annotations

import json
import math
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    HistoryAdjusted,
    Quote,
    QuotesReceived,
    SessionEnded,
    ShadowAnswered,
    ShadowFailed,
)
from daemon.core.limits import Basket, Trading
from daemon.core.records import DecisionRow, ShadowRow
from daemon.core.state import State
from daemon.engine.engine import Engine
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import Batch, decode_event
from daemon.models.shadow_play import ContractPlay, SharePlay, modelled_bid
from daemon.reports.shadow import (
    Hypothetical,
    SessionPair,
    ShadowReport,
    agreement_of,
    interval_of_mean,
    kappa_of,
    shadow_reports,
    verdict_of,
)
from strategies.kit.contract import Answer, Bar, Session
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, MIDNIGHT, SYMBOLS, DailyDesk, Shelf
from tests.support.core.desk import (
    BUY_CALL,
    BUY_PUT,
    CALL,
    EXIT,
    HOLD,
    MONDAY,
    PUT,
    TRIM_50,
    TUESDAY,
    Desk,
    Pointer,
    desk,
    logits,
    quote,
)
from tests.support.desks.desk_run import Desk as Run
from tests.support.desks.desk_run import execute, table, tape_rows, write_tape

TUESDAY_503 = "SPY240702C00503000"


def say(action: int, confidence: float = 0.9) -> Answer:
    return Answer(logits(action, confidence))


def asked(d: Desk, minute: int, close: float = 500.0, *quotes: Quote) -> State[Any]:
    """The state in which the question of this bar is open."""
    d.bar(minute, close, quotes or None)
    return d.state


# --- one contract at a time ---------------------------------------------------------------------------------------


def test_a_call_is_bought_at_the_ask_and_sold_at_the_bid_with_the_fees_of_both() -> None:
    d, play = desk(), ContractPlay(Pointer())
    play.decide(asked(d, 0), say(BUY_CALL))
    play.decide(asked(d, 1), say(HOLD))
    play.decide(asked(d, 2, 500.0, quote(CALL, "2.50", "2.54"), quote(PUT, "1.60", "1.64")), say(EXIT))
    # 250.00 - 202.00, less 0.04685 up to 0.05, less 0.04685 + 0.00279 + 0.0000278 x 250 up to 0.06
    assert play.pnl_usd == {"2024-07-01": pytest.approx(47.89)}
    assert (play.trades, play.modelled) == (2, 0)


def test_the_opposite_action_leaves_and_the_next_one_enters() -> None:
    d, play = desk(), ContractPlay(Pointer())
    for minute, action in enumerate((BUY_CALL, BUY_PUT, BUY_PUT, EXIT)):
        play.decide(asked(d, minute), say(action))
    # each of the two costs 202.00 + 0.05 and brings 198.00 - 0.06 (0.05515 up)
    assert play.pnl_usd == {"2024-07-01": pytest.approx(-8.22)}
    assert play.trades == 4


def test_a_trim_keeps_the_one_contract_and_the_session_s_last_quotes_end_it() -> None:
    d, play = desk(), ContractPlay(Pointer())
    play.decide(asked(d, 0), say(BUY_CALL))
    play.decide(asked(d, 1), say(TRIM_50))
    play.end(asked(d, 2, 500.0, quote(CALL, "2.20", "2.24")))
    play.end(d.state)  # nothing is held any more
    assert play.pnl_usd == {"2024-07-01": pytest.approx(220.00 - 0.06 - 202.05)}


def test_an_unsure_buy_and_one_without_an_offer_are_holds() -> None:
    d, play = desk(), ContractPlay(Pointer())
    play.decide(asked(d, 0), say(BUY_CALL, 0.49))
    play.decide(asked(d, 1, 500.0, quote(CALL, "0", "2.02"), quote(PUT)), say(BUY_CALL))
    play.decide(asked(d, 2, 500.0, quote(CALL, "1.98", "0"), quote(PUT)), say(BUY_CALL))
    assert (play.trades, play.pnl_usd) == (0, {"2024-07-01": 0.0})


def test_without_a_chain_or_a_session_nothing_is_bought() -> None:
    d, play = desk(), ContractPlay(Pointer())
    state = asked(d, 0)
    play.decide(msgspec.structs.replace(state, chain=None), say(BUY_CALL))
    play.decide(msgspec.structs.replace(state, session=msgspec.structs.replace(state.session, session=None)), say(HOLD))
    assert play.trades == 0


def black_scholes_call(spot: float, strike: float, years: float, volatility: float) -> float:
    """The textbook's formula with r = q = 0."""
    normal, deviation = NormalDist(), volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + deviation**2 / 2) / deviation
    return spot * normal.cdf(d1) - strike * normal.cdf(d1 - deviation)


def test_a_contract_that_is_no_longer_quoted_is_priced_at_its_neighbour_s_volatility() -> None:
    d, play = desk(), ContractPlay(Pointer())
    play.decide(asked(d, 0), say(BUY_CALL))
    # after the bar of minute 1: 388 minutes of Monday and 390 of Tuesday, and one night (docs/PAPER.md)
    years = ((388 + 390) * 0.54 / 390 + 0.46) / 252
    neighbour = f"{black_scholes_call(503.0, 503.0, years, 0.25):.12f}"
    state = asked(d, 1, 503.0, quote(TUESDAY_503, neighbour, neighbour))
    assert CALL not in state.quotes
    value = black_scholes_call(503.0, 500.0, years, 0.25)
    expected = math.floor((value - 0.004 * value) * 100) / 100
    assert modelled_bid(state, CALL) == Decimal(str(expected))
    play.decide(state, say(EXIT))
    fee = math.ceil((0.04685 + 0.00279 + 0.0000278 * expected * 100) * 100) / 100
    assert play.pnl_usd == {"2024-07-01": pytest.approx(expected * 100 - fee - 202.05)}
    assert play.modelled == 1


def test_a_put_of_the_same_strike_implies_the_same_volatility() -> None:
    d = desk()
    years = ((389 + 390) * 0.54 / 390 + 0.46) / 252
    call = black_scholes_call(500.4, 500.0, years, 0.2)
    put = f"{call - 500.4 + 500.0:.12f}"  # put-call parity
    state = asked(d, 0, 500.4, quote(PUT, put, put))
    value = black_scholes_call(500.4, 502.0, years, 0.2)
    assert modelled_bid(state, "SPY240702C00502000") == Decimal(str(math.floor((value - 0.005) * 100) / 100))


def test_without_a_neighbour_the_last_known_bid_is_taken() -> None:
    d, play = desk(), ContractPlay(Pointer())
    play.decide(asked(d, 0), say(BUY_CALL))
    play.decide(asked(d, 1, 500.0, quote(CALL, "2.30", "2.34")), say(HOLD))
    state = asked(d, 2, 503.0, quote(TUESDAY_503, "0", "1.00"))
    assert modelled_bid(state, CALL) is None
    play.decide(state, say(EXIT))
    assert play.pnl_usd == {"2024-07-01": pytest.approx(230.00 - 0.06 - 202.05)}


def test_a_price_below_its_intrinsic_value_implies_nothing() -> None:
    state = asked(desk(), 0, 500.4, quote(CALL, "0.10", "0.10"))
    assert modelled_bid(state, "SPY240702C00502000") is None


# --- shares -------------------------------------------------------------------------------------------------------


def daily(**rules: Any) -> DailyDesk:
    d = DailyDesk(Trading(basket=Basket(**rules))).fund().begin(MONDAY)
    d.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    return d


def day(session: Session, symbol: str, opened: float, closed: float) -> BarClosed:
    low, high = sorted((opened, closed))
    bar = Bar(symbol, session.open_ns - MIDNIGHT, opened, high, low, closed, 1000.0)
    return BarClosed(session.close_ns, bar)


def shares(*goals: float) -> Answer:
    return Answer(goals)


def closes(d: DailyDesk, session: Session, *bars: BarClosed) -> State[Any]:
    d.put(*bars, SessionEnded(session.close_ns, session.date))
    return d.state


def test_a_basket_is_traded_at_the_open_and_marked_at_the_close_through_a_split() -> None:
    d, play = daily(), SharePlay(Shelf(), 10_000.0)
    d.due()
    play.decide(d.state, shares(10, KEEP, KEEP))
    d.answer(KEEP, KEEP, KEEP)
    play.end(closes(d, MONDAY, day(MONDAY, "AAA", 101.0, 103.0)))
    assert play.pnl_usd == {"2024-07-01": pytest.approx(10 * (103.0 - 101.0) - 1.01)}  # 0.1 % of 1,010 USD
    d.begin(TUESDAY)
    halved = (day(LAST_FRIDAY, "AAA", 50.0, 50.0).bar, day(MONDAY, "AAA", 50.5, 51.5).bar)
    d.put(HistoryAdjusted(TUESDAY.open_ns - 20 * 60 * 10**9, "AAA", halved))
    d.due()
    play.decide(d.state, shares(0, KEEP, KEEP))
    d.answer(KEEP, KEEP, KEEP)
    play.end(closes(d, TUESDAY, day(TUESDAY, "AAA", 52.0, 53.0)))
    assert play.pnl_usd["2024-07-02"] == pytest.approx(20 * (52.0 - 51.5) - 1.04)
    assert play.trades == 2


def test_sells_come_first_and_a_buy_ends_where_the_cash_does() -> None:
    d, play = daily(), SharePlay(Shelf(), 10_000.0)
    d.due()
    play.decide(d.state, shares(200, 5, KEEP))
    d.answer(KEEP, KEEP, KEEP)
    play.end(closes(d, MONDAY, day(MONDAY, "AAA", 101.0, 101.0), day(MONDAY, "BBB", 100.0, 100.0)))
    assert play.pnl_usd["2024-07-01"] == pytest.approx(-9.898)  # 98 x 101.00 fit, and nothing of BBB
    d.begin(TUESDAY)
    d.due()
    play.decide(d.state, shares(0, 50, KEEP))
    d.answer(KEEP, KEEP, KEEP)
    play.end(closes(d, TUESDAY, day(TUESDAY, "AAA", 101.0, 101.0), day(TUESDAY, "BBB", 100.0, 100.0)))
    assert play.pnl_usd["2024-07-02"] == pytest.approx(-9.898 - 5.0)


def test_a_desk_that_decides_before_the_close_trades_at_the_close() -> None:
    d, play = daily(decide="before_close"), SharePlay(Shelf(), 10_000.0)
    d.due(380, tuple(day(MONDAY, symbol, 100.0, 102.0).bar for symbol in SYMBOLS))
    play.decide(d.state, shares(10, KEEP, KEEP))
    d.answer(KEEP, KEEP, KEEP)
    play.end(closes(d, MONDAY, day(MONDAY, "AAA", 100.0, 104.0)))
    assert play.pnl_usd == {"2024-07-01": pytest.approx(-1.04)}


def test_a_session_without_bars_is_settled_when_they_come_and_what_is_held_is_the_last_decision_s() -> None:
    d, play = daily(), SharePlay(Shelf(), 10_000.0)
    d.due()
    play.decide(d.state, shares(10, KEEP, KEEP))
    d.answer(KEEP, KEEP, KEEP)
    play.end(closes(d, MONDAY))
    assert play.pnl_usd == {}
    d.begin(TUESDAY)
    d.bars(MONDAY, AAA=100.0)
    play.end(closes(d, TUESDAY, day(TUESDAY, "AAA", 101.0, 105.0)))
    assert play.pnl_usd == {"2024-07-01": pytest.approx(50.0 - 1.0)}


# --- the figures --------------------------------------------------------------------------------------------------


def test_agreement_and_kappa_by_hand() -> None:
    assert agreement_of([[20, 5], [10, 15]]) == pytest.approx(0.7)
    assert kappa_of([[20, 5], [10, 15]]) == pytest.approx(0.4)  # by chance 0.5 x 0.6 + 0.5 x 0.4 = 0.5
    assert kappa_of([[10, 0], [0, 10]]) == 1.0


def test_where_chance_alone_agrees_or_nothing_was_counted_there_is_no_kappa() -> None:
    assert kappa_of([[7]]) is None
    assert (agreement_of([[0, 0], [0, 0]]), kappa_of([])) == (None, None)


def test_the_interval_of_independent_sessions_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(3).normal(1.0, 2.0, 400)
    low, high = interval_of_mean(values, 1.0)
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.05 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.05 * error)


def test_the_interval_of_sessions_that_hang_together_is_wider_by_blocks() -> None:
    values = np.repeat(np.random.default_rng(3).normal(0.0, 1.0, 60), 10)
    widths = [high - low for low, high in (interval_of_mean(values, block) for block in (1.0, 10.0))]
    assert widths[1] > 1.8 * widths[0]


def played(difference: float, low: float | None, high: float | None) -> Hypothetical:
    pairs = tuple(SessionPair(f"2024-07-{number:02}", 0.0, difference) for number in range(1, 21))
    return Hypothetical("", pairs, 0.0, 0.0, 0, 0, 0, difference, low, high, 2.7)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (played(3.2, -1.0, 7.0), "May be chance: over 20 sessions the candidate would have earned 3.20 USD"),
        (played(-3.2, -5.0, -1.0), "More than chance at 95 %: over 20 sessions the candidate would have"),
        (played(3.2, None, None), "May be chance: over 20 sessions"),
        (None, "No result to compare"),
    ],
)
def test_the_sentence_says_first_whether_it_may_be_chance(found: Hypothetical | None, said: str) -> None:
    assert verdict_of(found).startswith(said)


# --- whole journals -----------------------------------------------------------------------------------------------


class Candidate:
    """Answers beside the live model: as it does, or by a script of (decision, action); fails where told."""

    def __init__(self, run: Run, script: dict[int, int] | None = None, fails: tuple[int, ...] = ()) -> None:
        self._policy = run.replay.policy
        self._script = script
        self._fails = fails

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed:
        now, number = state.now_ns, question.decision
        if number in self._fails:
            return ShadowFailed(now, number, "out of order", "candidate")
        if self._script is not None:
            action = self._script.get(number, HOLD)
            values = tuple(8.0 * (place == action) for place in range(6))
            return ShadowAnswered(now, number, values, b"", "candidate")
        said: Any = self._policy.answer(question, now)
        return ShadowAnswered(now, number, said.logits, said.hidden, "candidate")


def replayed(folder: Path, *, sessions: int = 2, **given: Any) -> Path:
    """The state directory of a run with a candidate."""
    run = Run(write_tape(folder / "tape.csv", tape_rows(sessions, 60)))

    def made(engine: Engine) -> None:
        engine._shadow = Candidate(run, **given)

    ended = run.run(folder / "state", engine_made=made)
    assert ended.failure is None
    return folder / "state"


def reported(state: Path) -> ShadowReport:
    (report,) = shadow_reports(state / FILE)
    return report


def test_a_candidate_that_answers_as_the_live_model_does_agrees_in_everything(tmp_path: Path) -> None:
    state = replayed(tmp_path)
    report = reported(state)
    decided = [row for row in table(state, "decisions") if row[1] == "policy"]
    assert (report.model, report.beside, report.failures, report.unmatched) == ("candidate", ("fixture",), 0, 0)
    assert report.decisions == len(decided) > 60
    assert (report.agreement, report.total_variation) == (1.0, 0.0)
    assert report.kappa == pytest.approx(1.0)
    assert report.confidence_live == report.confidence_shadow
    assert sum(map(sum, report.confusion)) == report.decisions
    found = report.hypothetical
    assert found is not None
    assert found.live_trades == found.shadow_trades > 2
    assert {pair.live_usd - pair.shadow_usd for pair in found.sessions} == {0.0}
    assert (len(found.sessions), found.low_usd) == (2, None)
    assert report.verdict.startswith("May be chance")


def test_a_scripted_candidate_comes_to_what_the_journaled_quotes_say(tmp_path: Path) -> None:
    state = replayed(tmp_path, script={5: BUY_CALL, 7: EXIT}, fails=(20, 21))
    report = reported(state)
    reader = JournalReader(state / FILE)
    events = [decode_event(entry.payload) for entry in reader.entries()]
    reader.close()
    bars = {row[0]: row[2] for row in table(state, "decisions")}
    quotes = {e.closes_bar_ns: {q.symbol: q for q in e.quotes} for e in events if isinstance(e, QuotesReceived)}
    (spot,) = [e.bar.close for e in events if isinstance(e, BarClosed) and e.bar.start_ns == bars[5]]
    calls = [symbol for symbol in quotes[bars[5]] if symbol[9] == "C"]
    symbol = min(calls, key=lambda name: abs(int(name[10:]) / 1000 - spot))
    paid, got = quotes[bars[5]][symbol].ask * 100, quotes[bars[7]][symbol].bid * 100
    fees = [Decimal("0.04685"), Decimal("0.04964") + Decimal("0.0000278") * got]
    cents = sum((fee.quantize(Decimal("0.01"), ROUND_CEILING) for fee in fees), Decimal(0))
    found = report.hypothetical
    assert found is not None
    assert found.shadow_trades == 2
    assert found.shadow_usd == pytest.approx(float(got - paid - cents))
    assert (report.failures, report.decisions) == (2, len(bars) - 2 - _rules(state))
    assert found.live_usd != found.shadow_usd


def _rules(state: Path) -> int:
    return sum(row[1] == "rule" for row in table(state, "decisions"))


def written(folder: Path, strategy: str, pairs: list[tuple[dict[str, Any] | None, dict[str, Any]]]) -> Path:
    """A journal of read models alone: what the live model and the candidate said to each question."""
    meta = {"mode": "replay", "account": "paper", "strategy": strategy, "epoch": "e1", "feed": "sip"}
    made, batch = Journal.create(folder / FILE, meta), Batch()
    for number, (live, shadow) in enumerate(pairs, start=1):
        outcome = {"outcome": "hold", **live, "model": "v1"} if live else {"outcome": "failed"}
        batch.rows.append(DecisionRow(decision=number, kind="policy", bar_ns=0, time_ns=0, **outcome))
        batch.rows.append(ShadowRow(decision=number, model="v2", bar_ns=0, time_ns=0, **shadow))
    made.commit(batch)
    made.close()
    return folder


def chose(action: str, *probabilities: float) -> dict[str, Any]:
    told = json.dumps(probabilities)
    return {"action": action, "confidence": max(probabilities), "probabilities": told, "logits": told}


def test_the_comparison_by_hand(tmp_path: Path) -> None:
    hold, call = chose("HOLD", 0.7, 0.3, 0.0, 0.0, 0.0, 0.0), chose("BUY_CALL", 0.1, 0.9, 0.0, 0.0, 0.0, 0.0)
    pairs = [(hold, hold), (hold, call), (call, call), (call, call), (None, hold), (hold, {"problem": "too slow"})]
    report = reported(written(tmp_path, "option_scalper", pairs))
    assert (report.decisions, report.failures, report.unmatched, report.beside) == (4, 1, 1, ("v1",))
    assert (report.actions, report.confusion) == (("HOLD", "BUY_CALL"), ((1, 1), (0, 2)))
    assert report.agreement == 0.75
    assert report.kappa == pytest.approx(0.5)  # by chance 1/2 x 1/4 + 1/2 x 3/4 = 1/2
    assert report.confidence_live == pytest.approx(0.8)
    assert report.confidence_shadow == pytest.approx(0.85)
    assert report.total_variation == pytest.approx(0.6 / 4)  # half of |0.7 - 0.1| + |0.3 - 0.9|, in one of four
    assert report.mean_difference is None
    assert report.hypothetical is None


def test_a_continuous_policy_is_compared_by_direction_and_distance_of_each_action(tmp_path: Path) -> None:
    live, shadow = [0.5] * 25 + [-0.5] * 25, [0.5] * 20 + [-0.1] * 5 + [0.0] * 25
    pair = [{"action": "rebalance", "logits": json.dumps(values)} for values in (live, shadow)]
    report = reported(written(tmp_path, "daily_rebalancer", [(pair[0], pair[1])]))
    assert (report.actions, report.confusion) == (("SELL", "NONE", "BUY"), ((0, 25, 0), (0, 0, 0), (5, 0, 20)))
    assert report.agreement == pytest.approx(20 / 50)
    assert report.mean_difference == pytest.approx((5 * 0.6 + 25 * 0.5) / 50)
    assert (report.confidence_live, report.total_variation) == (None, None)


def test_a_candidate_that_only_failed_has_nothing_to_compare(tmp_path: Path) -> None:
    report = reported(written(tmp_path, "option_scalper", [(chose("HOLD", 1.0), {"problem": "too slow"})]))
    assert (report.decisions, report.failures, report.actions, report.confusion) == (0, 1, (), ())
    assert (report.agreement, report.kappa, report.beside) == (None, None, ())
    assert report.verdict == "No result to compare: there is no decision that both answered."


def test_a_journal_that_cannot_be_stepped_again_still_tells_the_agreement(tmp_path: Path) -> None:
    state = replayed(tmp_path, sessions=1)
    (seq, payload) = next((row[1], row[4]) for row in table(state, "events") if row[3] == "OrderFilled")
    changed = {**json.loads(payload), "quantity": 999}
    assert execute(state, "UPDATE events SET payload = ? WHERE seq = ?", json.dumps(changed), seq) == 1
    report = reported(state)
    assert (report.agreement, report.hypothetical) == (1.0, None)
    assert report.untold.startswith("the journal cannot be stepped again with this code")
    assert report.verdict.startswith("No result to compare: the journal cannot")


def test_a_journal_without_a_candidate_or_from_before_there_were_any_has_no_report(tmp_path: Path) -> None:
    run = Run(write_tape(tmp_path / "tape.csv", tape_rows(1, 30)))
    assert run.run(tmp_path / "state").failure is None
    assert shadow_reports(tmp_path / "state" / FILE) == ()
    execute(tmp_path / "state", "DROP TABLE shadows")
    assert shadow_reports(tmp_path / "state" / FILE) == ()
