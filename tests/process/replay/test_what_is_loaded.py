"""What a process loads, looked at in a process of its own: a replay nothing of any broker, a live desk no pandas.

And rltraderctl: the code of the chosen command alone.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.tapes import BUNDLED_TAPE
from tests.support.paths import FIXTURE_MODELS, REPOSITORY

DAY_ROWS = 390
TELL = "print(*sorted(sys.modules), file=open(sys.argv[-1], 'w'))"
REPLAY = f"""
import sys
from daemon.__main__ import main
file = sys.argv.pop()
code = main()
sys.argv.append(file)
{TELL}
sys.exit(code)
"""
LIVE = f"""
import sys
from pydantic import SecretStr
from daemon.host.lean import without_pandas
without_pandas()
from daemon.app.live.prepare import prepare_live
from daemon.brokers.alpaca.rest.client import Access
from daemon.brokers.alpaca.rest.client import account_queues, market_queue
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.host.time.clock import Clock
clock, access = Clock.real(), Access("http://127.0.0.1:9", "a-key-id", "a-secret-key")
orders, reads = account_queues(clock)
TradingOrders(access, orders), TradingReads(access, reads), MarketData(access, market_queue(clock))
{TELL}
"""
CTL = f"""
import sys
from daemon.cli import ctl
file = sys.argv.pop()
try:
    ctl.main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code == 0
sys.argv.append(file)
{TELL}
"""
PROGRAM = f"""
import sys
import rltrader
file = sys.argv.pop()
sys.argv = sys.argv[1:]
try:
    rltrader.main()
except SystemExit:
    pass
sys.argv.append(file)
{TELL}
"""


def loaded(script: str, folder: Path, *arguments: str) -> set[str]:
    """The modules of the process after the script."""
    file = folder / "modules"
    line = [sys.executable, "-c", script, *arguments, str(file)]
    subprocess.run(line, cwd=folder, env={"PYTHONPATH": str(REPOSITORY)}, check=True, capture_output=True, timeout=300)
    return set(file.read_text().split())


def test_a_replay_loads_nothing_of_any_broker_nor_pandas(tmp_path: Path) -> None:
    tape = tmp_path / "day.csv"
    with gzip.open(BUNDLED_TAPE, "rt") as rows:
        tape.write_text("".join(line for line, _ in zip(rows, range(DAY_ROWS + 1), strict=False)))
    (tmp_path / "config.toml").write_text(f'[paths]\nmodels_dir = "{FIXTURE_MODELS}"\n')
    modules = loaded(REPLAY, tmp_path, "--dry-run", "--bars", str(tape), "--state-dir", str(tmp_path / "state"))
    assert "daemon.engine.engine" in modules
    brokers = {name for name in modules if name.startswith("daemon.brokers.") or name.partition(".")[0] == "alpaca"}
    assert brokers == set()
    assert modules.isdisjoint(("pandas", "requests", "websockets"))


def test_a_live_desk_at_alpaca_loads_the_library_s_client_and_no_pandas(tmp_path: Path) -> None:
    modules = loaded(LIVE, tmp_path)
    assert {"alpaca.common.rest", "daemon.app.live.prepare"} <= modules
    assert modules.isdisjoint(("pandas", "alpaca.trading", "alpaca.data"))


def test_rltraderctl_loads_the_code_of_the_chosen_command_alone(tmp_path: Path) -> None:
    for arguments in (("status", "-h"), ("-h",)):
        modules = loaded(CTL, tmp_path, *arguments)
        assert modules.isdisjoint(("onnxruntime", "talib", "pandas", "aiomqtt", "jinja2"))
        assert ("daemon.cli.status" in modules) is (arguments[0] == "status")
    assert "aiomqtt" in loaded(CTL, tmp_path, "remote", "-h")


@pytest.mark.parametrize("line", ["rltraderctl models --models-dir . list", "rltrader ctl models --models-dir . list"])
def test_a_program_of_the_daemon_loads_no_pandas(line: str, tmp_path: Path) -> None:
    (tmp_path / "option_scalper").mkdir()
    modules = loaded(PROGRAM, tmp_path, *line.split())
    assert "talib" in modules  # which would load it
    assert "pandas" not in modules


def test_the_dashboard_starts_without_redis_which_is_an_extra(tmp_path: Path) -> None:
    modules = loaded(f"import sys, daemon.dashboard.__main__\n{TELL}", tmp_path)
    assert "daemon.dashboard.server" in modules
    assert not {"redis", "torch"} & modules
