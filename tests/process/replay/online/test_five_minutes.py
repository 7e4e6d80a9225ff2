"""SPY and QQQ by five minutes, recorded: another model configuration, and one desk of both."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from daemon.config.strategy import strategy_of
from strategies.online_dqn.model_config import SHIPPED
from tests.support.desks.desk_run import Desk, records, settings, verified
from tests.support.models.online_models import NAME, VERSION, put_momentum

SESSIONS = 8
EACH = 78  # bars of a session


def test_both_trade_on_recorded_bars_and_the_journal_verifies(tmp_path: Path, data_dir: Path) -> None:
    tables = []
    for symbol, name in (("SPY", "spy_5min_2024.parquet"), ("QQQ", "qqq_5min_2024.parquet")):
        table = pa.parquet.read_table(data_dir / name).slice(0, SESSIONS * EACH)
        table = table.append_column("symbol", pa.array([symbol] * len(table)))
        tables.append(table.select(["symbol", "timestamp", "open", "high", "low", "close", "volume"]))
    tape = tmp_path / "both.parquet"
    order = [("timestamp", "ascending"), ("symbol", "descending")]
    pa.parquet.write_table(pa.concat_tables(tables, promote_options="permissive").sort_by(order), tape)
    config = tmp_path / "five.yaml"
    config.write_text(SHIPPED.read_text().replace("bar_minutes: 1", "bar_minutes: 5"))
    options = {"desk__strategy": NAME, "desk__symbols": ("SPY", "QQQ"), "desk__model_config": str(config)}
    maker = strategy_of(settings(tmp_path, **options))
    assert maker.spec.bar_interval_s == 300
    models = put_momentum(tmp_path / "store", maker)
    desk = Desk(tape, paths__models_dir=models, policy__version=VERSION, **options)
    assert desk.run(tmp_path / "state").failure is None
    assert verified(tmp_path / "state").difference == ""
    fills = records(tmp_path / "state", "fills", "filled_ns")
    assert {row["symbol"] for row in fills} == {"SPY", "QQQ"}
    rows = [json.loads(row["logits"]) for row in records(tmp_path / "state", "decisions") if row["logits"]]
    assert {len(values) for values in rows} == {6}
