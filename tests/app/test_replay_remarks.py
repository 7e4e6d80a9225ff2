"""What a replay on recorded quotes departs from is stated with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from daemon.app.replay_remarks import remarks
from daemon.config.load import load
from daemon.core.state import Identity, State
from daemon.operator.summary import QuotesUsed
from daemon.tapes.files import SOURCE_KEY
from daemon.tapes.minutes import TapeCounts
from strategies.registry import strategy
from training.data.quotes.implied_bars import SOURCE


def test_widened_rules_implied_bars_and_the_source_of_the_volatility_are_stated(tmp_path: Path) -> None:
    tape = tmp_path / "bars.parquet"
    pa.parquet.write_table(pa.table({"close": [1.0]}).replace_schema_metadata({SOURCE_KEY: SOURCE}), tape)
    settings = load(None, {"contracts.max_days": 45, "contracts.strike": "delta"})
    quotes = SimpleNamespace(root="SPY", closes={"2024-08-14": 550.0}, closes_name="vix.csv")
    info = SimpleNamespace(resorted=False, interval_s=60)
    spec = strategy("option_scalper")
    replay: Any = SimpleNamespace(settings=settings, strategy=spec, tape=tape, info=info, quotes=quotes)
    state = State(spec.start(), Identity("recorded", "paper", "option_scalper", "e", "sip"), settings.trading())
    used = QuotesUsed("q.parquet", "", 1, 1, "2024-08-15", "2024-08-15", 1, 1, 0, 0, 0, 0, 0)
    found = remarks(replay, TapeCounts(), state, 0, used)
    rules, bars, volatility = found
    assert rules.endswith("max_days 45 (the strategy's: 5), strike delta (the strategy's: nearest).")
    assert bars.startswith("The bars of SPY are made of option quotes: their underlying, else put-call parity: nothing")
    assert "the volatility is that of the closes of vix.csv: 20 returns before the session, times 1.25" in volatility
