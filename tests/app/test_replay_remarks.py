"""What a replay on recorded quotes departs from is stated with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from msgspec.structs import replace

from daemon.app.replay_remarks import remarks
from daemon.config.load import load
from daemon.core.state import Identity, State
from daemon.journal.outcomes import Baskets
from daemon.operator.summary import QuotesUsed
from daemon.tapes.files import SOURCE_KEY
from daemon.tapes.minutes import TapeCounts
from strategies.registry import strategy
from training.data.quotes.implied_bars import SOURCE


def test_widened_rules_implied_bars_and_the_source_of_the_volatility_are_stated(tmp_path: Path) -> None:
    tape = tmp_path / "bars.parquet"
    pa.parquet.write_table(pa.table({"close": [1.0]}).replace_schema_metadata({SOURCE_KEY: SOURCE}), tape)
    settings = load(None, {"contracts.max_days": 45, "contracts.strike": "delta", "paper.cash_usd": 50000})
    quotes = SimpleNamespace(root="SPY", closes={"2024-08-14": 550.0}, closes_name="vix.csv")
    info = SimpleNamespace(resorted=False, interval_s=60, dates=7)
    spec = strategy("option_scalper")
    replay: Any = SimpleNamespace(settings=settings, strategy=spec, tape=tape, info=info, quotes=quotes)
    state = State(spec.start(), Identity("recorded", "paper", "option_scalper", "e", "sip"), settings.trading())
    used = QuotesUsed("q.parquet", "", 1, 1, "2024-08-15", "2024-08-15", 1, 1, 0, 0, 0, 0, 0, 0, 0.0, 0.0)
    found = remarks(replay, TapeCounts(), state, 0, Baskets(), used)
    rules, bars, volatility = found
    assert rules == (
        "The desk has other rules than the strategy's: contracts.max_days 45 (the strategy's: 5), "
        "contracts.strike delta (the strategy's: nearest), paper.cash_usd 50000 (the strategy's: 10000)."
    )
    assert bars.startswith("The bars of SPY are made of option quotes: their underlying, else put-call parity: nothing")
    assert "the volatility is that of the closes of vix.csv: 20 returns before the session, times 1.25" in volatility
    denials = {"order_quantity": 35, "no_quote": 538}
    untraded = replace(state, stats=replace(state.stats, bars=10, decisions=600, denials=denials))
    assert remarks(replay, TapeCounts(), untraded, 10, Baskets(), used)[0].startswith(
        "No trade: the policy's wishes were denied by no_quote 538, order_quantity 35; docs/GATES.md"
    )
    idle = replace(state, stats=replace(state.stats, bars=10, decisions=600))
    for exported, words in (
        ("passive", "It is the strategy's passive one: RLTRADER_POLICY__VERSION"),
        ("unproven", ""),
    ):
        replay.model = SimpleNamespace(manifest=SimpleNamespace(metrics={"exported": exported}))
        (said,) = (each for each in remarks(replay, TapeCounts(), idle, 10, Baskets()) if each.startswith("No trade: "))
        assert said.partition("change its position.")[2].strip().startswith(words)
        assert bool(words) == ("VERSION" in said)
