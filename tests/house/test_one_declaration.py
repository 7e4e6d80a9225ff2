"""A column of trades, a field of a status and a fee are one declaration each: a copy of the daemon gets one of each.

One line is added to one file of the copy; every reader has it then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.support.paths import REPOSITORY

ADDED = {
    "journal/trade.py": (
        '        USD, "of what is still held, at the newest mark; none of a closed trade", of=_unrealised_usd\n    )\n',
        '    each_usd: float = column(USD, "realised, a contract", "t.realized_usd / t.entered", heading="Each")\n',
    ),
    "operator/status.py": (
        'counts from, where it was reset below the peak",\n        default="",\n    )\n',
        '    twice: int = stated(lambda state: 2 * state.stats.bars, "bars, doubled", "bars doubled", default=0)\n',
    ),
    "core/limits.py": (
        "  # dearer, for buys that wait for the sells\n",
        '    cat_usd: Usd = fee("0.0048", "CAT", ALL, "audit trail fee", source="catnmsplan.com")\n',
    ),
}
"""File of the daemon -> what stands before the new line, and the line."""

SCRIPT = """
import io, json, sqlite3, sys
from contextlib import closing, redirect_stdout
from decimal import Decimal
from pathlib import Path

import msgspec
from rich.console import Console

from daemon.cli.ctl import main
from daemon.cli.status_table import table
from daemon.config.load import load
from daemon.core.limits import Risk, Sizing, Trading
from daemon.core.paper.fees import config_lines, fees
from daemon.dashboard.pages.trades import trades_page
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from daemon.journal.trades import Wanted
from daemon.operator.mqtt.messages import message_of
from daemon.operator.status import rows, status_of
from tests.support.core.desk import BUY_CALL, EXIT, desk, sent
from training.desks.scalper.market import Broker
from training.desks.scalper.baselines import with_costs

def printed(*words):
    with redirect_stdout(io.StringIO()) as text:
        assert main(words) == 0
    return text.getvalue()

folder = Path(sys.argv[1])
d = desk(Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0), risk=Risk(cooldown_trade_s=0)))
d.holds(BUY_CALL, minute=0)
d.bar(1)
order = sent(d.answer(EXIT))
d.fill(order.client_order_id, order.quantity, "2.10")
journal = Journal.create(folder / FILE, {})
batch = CommitBatch()
batch.rows = d.rows
journal.commit(batch)
journal.close()
state = str(folder)
with closing(sqlite3.connect(folder / FILE)) as db:
    view = db.execute("SELECT each_usd FROM trades").fetchall()
with closing(JournalReader(folder / FILE)) as reader:
    page = msgspec.to_builtins(trades_page(reader, Wanted()))
status = status_of(d.state, "desk")
shown = Console(width=200, file=io.StringIO())
shown.print(table(status))
print(json.dumps({
    "view": view,
    "csv": printed("trades", "--state-dir", state, "--csv"),
    "json": json.loads(printed("trades", "--state-dir", state, "--json"))["trades"][0],
    "trades": printed("trades", "--state-dir", state),
    "page": page,
    "bars": d.state.stats.bars,
    "status": shown.file.getvalue(),
    "rows": list(rows(status)),
    "message": msgspec.to_builtins(message_of("status", d.state, "desk"))["status"]["twice"],
    "reference": {name: printed("reference", name) for name in (
        "trade-columns", "status-fields", "fees", "ctl-trades.v1", "ctl-status.v1", "status.v1")},
    "config": str(load(None, {}).paper.cat_usd),
    "lines": config_lines(),
    "fees": [str(fees(10, Decimal(0), 1, load(None, {}).paper)), int(Broker(Trading())._fee_buy[1])],
    "doubled": str(with_costs(Trading(), 2).paper.cat_usd),
}))
"""


@pytest.fixture(scope="module")
def copy_output(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "daemon", copy / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("rltrader", "strategies", "training", "tests", "simulator", "onnx_models"):
        (copy / name).symlink_to(REPOSITORY / name)
    for name, (before, line) in ADDED.items():
        path = copy / "daemon" / name
        text = path.read_text()
        assert text.count(before) == 1, f"{name}: where the last declaration ends"
        path.write_text(text.replace(before, before + line))
    state = tmp_path_factory.mktemp("state")
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(state)],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_a_column_of_trades_is_in_view_csv_json_schema_tables_page_and_manual(copy_output: dict[str, Any]) -> None:
    """A call at 2.00 is sold at 2.10, without fees: 10 USD for each contract."""
    assert copy_output["view"] == [[10.0]]
    header, line = copy_output["csv"].splitlines()
    assert (header.split(",")[-1], line.split(",")[-1]) == ("each_usd", "10")
    assert copy_output["json"]["each_usd"] == 10.0
    assert "Each" in copy_output["trades"]
    assert "10.00 │" in copy_output["trades"]
    columns = {column["name"]: column for column in copy_output["page"]["columns"]}
    assert (columns["each_usd"]["heading"], columns["each_usd"]["meaning"]) == ("Each", "realised, a contract")
    assert copy_output["page"]["trades"][0]["more"]["each_usd"] == "10.00"
    assert "| `each_usd` | `each_usd` | USD | realised, a contract |" in copy_output["reference"]["trade-columns"]
    assert '"each_usd"' in copy_output["reference"]["ctl-trades.v1"]


def test_a_field_of_a_status_is_in_table_page_telemetry_schemas_and_manual(copy_output: dict[str, Any]) -> None:
    bars = copy_output["bars"]
    assert bars > 1
    assert copy_output["message"] == 2 * bars
    assert ["bars doubled", str(2 * bars)] in copy_output["rows"]
    assert "bars doubled" in copy_output["status"]
    assert "| `twice` | whole number | bars, doubled |" in copy_output["reference"]["status-fields"]
    assert '"twice"' in copy_output["reference"]["ctl-status.v1"]
    assert '"twice"' in copy_output["reference"]["status.v1"]


def test_a_fee_is_in_the_formula_training_configuration_and_manual(copy_output: dict[str, Any]) -> None:
    """Ten contracts: 10 x (0.02685 + 0.02 + 0.0048) = 0.5165; one: 0.05165. Both are rounded up to the cent."""
    assert copy_output["fees"] == ["0.52", 6]
    assert (copy_output["config"], copy_output["doubled"]) == ("0.0048", "0.0096")
    assert "# USD a contract: audit trail fee. Default: 0.0048.\ncat_usd = 0.0048" in copy_output["lines"]
    assert "| `cat_usd` | every contract | 0.0048 |  | catnmsplan.com |" in copy_output["reference"]["fees"]
