"""What a replay on recorded quotes departs from is stated with it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from msgspec.structs import replace

from daemon.app.replay_figures import remarks
from daemon.config.load import load
from daemon.core.events import RiskClaim
from daemon.core.state import ClaimState, Halt, Identity, State
from daemon.host.time.calendar import NEW_YORK
from daemon.journal.outcomes import Baskets
from daemon.operator.summary import QuotesUsed, daily_figures
from daemon.tapes.files import SOURCE_KEY
from daemon.tapes.minutes import TapeCounts
from strategies.kit.daily import KeptBars
from strategies.registry import strategy
from training.data.quotes.convert import SOURCE


def scalper() -> tuple[Any, State[Any]]:
    """A replay of the scalper, as far as remarks need it, and the state at its start."""
    replay: Any = SimpleNamespace(
        settings=load(None, {}), strategy=strategy("option_scalper"), tape=Path("bars.csv"), quotes=None,
        info=SimpleNamespace(resorted=False, interval_s=60, dates=7),
    )  # fmt: skip
    state: State[Any] = State(
        replay.strategy.start(), Identity("replay", "paper", "option_scalper", "e", "sip"), replay.settings.trading()
    )
    return replay, state


def test_widened_rules_implied_bars_and_the_source_of_the_volatility_are_stated(tmp_path: Path) -> None:
    tape = tmp_path / "bars.parquet"
    pa.parquet.write_table(pa.table({"close": [1.0]}).replace_schema_metadata({SOURCE_KEY: SOURCE}), tape)
    settings = load(None, {"contracts.max_days": 45, "contracts.strike": "delta", "paper.cash_usd": 50000})
    quotes = SimpleNamespace(root="SPY", closes={"2024-08-14": 550.0}, closes_name="vix.csv")
    info = SimpleNamespace(resorted=False, interval_s=60, dates=7)
    spec = strategy("option_scalper")
    replay: Any = SimpleNamespace(settings=settings, strategy=spec, tape=tape, info=info, quotes=quotes)
    state = State(spec.start(), Identity("recorded", "paper", "option_scalper", "e", "sip"), settings.trading())
    quotes_used = QuotesUsed("q.parquet", "", 1, 1, "2024-08-15", "2024-08-15", 1, 1, 0, 0, 0, 0, 0, 0, 0.0, 0.0)
    lines = remarks(replay, TapeCounts(), state, 0, Baskets(), (), quotes_used)
    rules, bars, volatility = lines
    assert rules == (
        "The desk has other rules than the strategy's: contracts.max_days 45 (the strategy's: 5), "
        "contracts.strike delta (the strategy's: nearest), paper.cash_usd 50000 (the strategy's: 10000)."
    )
    assert bars.startswith("The bars of SPY are made of option quotes: their underlying, else put-call parity: nothing")
    assert "the volatility is that of the closes of vix.csv: 20 returns before the session, times 1.25" in volatility
    denials = {"order_quantity": 35, "no_quote": 538}
    untraded = replace(state, stats=replace(state.stats, bars=10, decisions=600, denials=denials))
    assert remarks(replay, TapeCounts(), untraded, 10, Baskets(), (), quotes_used)[0].startswith(
        "No trade: the policy's wishes were denied by no_quote 538, order_quantity 35; docs/GATES.md"
    )
    far, near = (
        remarks(replay, TapeCounts(), state, 10, Baskets(4, 0, apart), (), quotes_used) for apart in (1.0, 0.2)
    )
    sentence = (
        "The weights held were 100 % of the equity from those wanted, mean of all baskets: weights that sum to more"
    )
    assert [line.startswith(sentence) for line in far] == [True, *(False for _ in near)]
    idle = replace(state, stats=replace(state.stats, bars=10, decisions=600))
    for exported, words in (
        ("passive", "It is the strategy's passive one: RLTRADER_POLICY__VERSION"),
        ("unproven", ""),
    ):
        replay.model = SimpleNamespace(manifest=SimpleNamespace(metrics={"exported": exported}))
        (remark,) = (
            line for line in remarks(replay, TapeCounts(), idle, 10, Baskets()) if line.startswith("No trade: ")
        )
        assert remark.partition("change its position.")[2].strip().startswith(words)
        assert bool(words) == ("VERSION" in remark)


def test_a_replay_that_went_beyond_the_claimed_risk_says_so() -> None:
    """Two stretches of 60 sessions: quiet ones of 1 % up and down, then 2 % each way, which are 32 % a year."""
    replay, start = scalper()
    state = replace(start, stats=replace(start.stats, bars=10, decisions=5, fills=4))
    equity = [1000.0]
    for size in (0.01, 0.02):
        for place in range(60):
            equity.append(equity[-1] * (1.0 + (size if place % 2 else -size)))
    ends = [(f"day {place:03}", value) for place, value in enumerate(equity)]

    def said(high: float, drawdown: float) -> tuple[str, ...]:
        claim = RiskClaim(0.1, 0.08, high, 60, 0.9, drawdown, 0.95, 252)
        watched = replace(state, claim=ClaimState(version="v1", claim=claim))
        return remarks(replay, TapeCounts(), watched, 10, Baskets(), ends)

    (remark,) = said(0.2, 0.25)
    assert remark.startswith(
        "Beyond the risk that the model claims: 1 of 2 stretches of 60 sessions are above a volatility of 20.0 %, the "
        "highest 32.0 % (stated: from 8.0 % up to that with a probability of 0.90); the deepest drawdown is 3.4 %, of "
        "at most 25.0 % stated."
    )  # 0.02 x sqrt(60 / 59 x 252); 1 - 0.9999^30 x 0.9996^29 x 0.98, from the start
    (remark,) = said(0.4, 0.03)
    assert "0 of 2 stretches" in remark
    assert said(0.4, 0.25) == ()
    assert remarks(replay, TapeCounts(), state, 10, Baskets(), ends) == ()  # nothing is claimed


def test_a_state_that_grows_with_each_bar_is_named_and_a_history_is_not() -> None:
    replay, start = scalper()
    start = replace(start, stats=replace(start.stats, bars=100_000, decisions=5, fills=4))
    bars = replay.strategy.spec.history_bars + 390
    kept, grown = (KeptBars((bytes(48 * rows),)) for rows in (bars, 100_000))
    assert remarks(replay, TapeCounts(), replace(start, strategy=kept), 10, Baskets()) == ()
    (remark,) = remarks(replay, TapeCounts(), replace(start, strategy=grown), 10, Baskets())
    assert remark.startswith("The strategy's state has 4.6 MiB after 100,000 bars: does it grow with each bar?")


def test_a_halt_that_lasted_to_the_end_is_named_with_its_sessions_and_the_figures_up_to_it() -> None:
    replay, start = scalper()
    state_after = replace(start, stats=replace(start.stats, bars=10, decisions=5, fills=4))
    day = int(datetime(2024, 7, 24, 14, tzinfo=NEW_YORK).timestamp()) * 10**9
    halted = replace(state_after, risk=replace(state_after.risk, halt=Halt("daily_loss", "lost 0.0312", day)))
    ends = [("2024-07-22", 1000.0), ("2024-07-23", 1020.0), ("2024-07-24", 989.0)]
    dead = [("2024-07-25", 989.0), ("2024-07-26", 989.0)]

    (remark,) = remarks(replay, TapeCounts(), halted, 10, Baskets(), [*ends, *dead])
    assert remark == (
        "Halted by daily_loss on 2024-07-24 (lost 0.0312): the last 2 of 4 sessions, up to 2024-07-26, took no new "
        "risk, and the figures include them. Up to that day the account made -1.10 %, -75.18 % a year, Sharpe ratio "
        "-2.31. docs/OPERATIONS.md has the halt."
    )
    assert remarks(replay, TapeCounts(), halted, 10, Baskets(), ends) == ()  # halted on the last day
    assert remarks(replay, TapeCounts(), state_after, 10, Baskets(), [*ends, *dead]) == ()
    assert (daily_figures([*ends, *dead], "2024-07-24").halted, daily_figures(ends, "").halted) == (2, 0)
