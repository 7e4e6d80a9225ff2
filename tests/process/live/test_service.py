"""What a person and systemd see of a live daemon: shipped configuration, status beside it, watchdog by night.

The notification socket is a real one and speaks sd_notify(3); `rltraderctl` runs while the daemon runs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon.cli import ctl
from tests.support.desks.live_desk import Daemon
from tests.support.desks.stage import KEYS, Stage, Systemd, Tape, stage
from tests.support.paths import REPOSITORY

DAY = "2024-11-01"


def addresses(desk: Stage) -> dict[str, str]:
    """The environment that brings the shipped configuration to this stage: addresses, clock, folders, and no more."""
    base = desk.server.stream_url.removesuffix("/v2/sip")
    return {
        **KEYS,
        "RLTRADER_PATHS__STATE_DIR": str(desk.state_dir),
        "RLTRADER_PATHS__MODELS_DIR": str(REPOSITORY / "onnx_models"),
        "RLTRADER_ALPACA__TRADING_URL": desk.server.trading_url,
        "RLTRADER_ALPACA__DATA_URL": desk.server.data_url,
        "RLTRADER_ALPACA__STREAM_URL": base + "/v2/{feed}",
        "RLTRADER_ALPACA__TRADE_STREAM_URL": desk.server.trade_stream_url,
        "RLTRADER_ALPACA__OPTION_STREAM_URL": base + "/v1beta1/{options}",
        **{f"RLTRADER_CLOCK__{key.upper()}": str(value) for key, value in desk.clock.settings().items()},
    }


def test_the_shipped_configuration_runs_with_addresses_from_the_environment(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, "09:20", tmp_path, lively) as desk:
        shipped = ["--config", str(REPOSITORY / "config.toml")]
        daemon = Daemon(shipped, addresses(desk), tmp_path / "log", clock=desk.clock)
        desk.daemons.append(daemon)
        desk.until_true(lambda: len(desk.read_log("stream_up")) == 2, "both data streams are up")
        desk.until_true(lambda: len(desk.journaled("PolicyAnswered")) > 3, "the shipped policy answers")
        desk.until_true(lambda: desk.books().state.risk.reconciled, "book and broker agree")
        daemon.terminate()
        assert daemon.wait(30) == 0, desk.log()[-2000:]
        run = desk.read_log("run_started")[0]
        assert (run["desk"], run["mode"]) == ("paper-1", "paper")
        assert {line["url"].rsplit("/", 1)[1] for line in desk.read_log("stream_up")} == {"sip", "opra"}
        assert desk.books().state.risk.reconciled


def test_status_is_told_beside_the_running_daemon(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage(bundled, DAY, "10:06", tmp_path, lively) as desk:
        daemon = desk.start()
        desk.until_true(lambda: bool(desk.held()) and bool(desk.journaled("OrderFilled")), "something is held")
        assert ctl.main(["status", "--state-dir", str(desk.state_dir)]) == 0
        output = capsys.readouterr().out
        assert f"runs as process {daemon.pid}" in output
        assert "paper, account paper" in output
        assert next(iter(desk.account.by_client_id.values())).symbol in output
        desk.alive()


def test_the_watchdog_is_fed_by_night_and_not_by_a_process_that_hangs(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    systemd = Systemd(tmp_path / "notify", watchdog_s=0.4)
    by_night = rf"STATUS=reconciled; flat; .*; market closed, the session opens {DAY} 09:30:00"
    with stage(bundled, DAY, "02:00", tmp_path, lively) as desk:
        daemon = desk.start(environment={**KEYS, **systemd.environment})
        desk.until_true(lambda: systemd.received("READY=1"), "the daemon is ready")
        desk.until_true(lambda: fed(systemd, 3), "fed by night")
        desk.until_true(lambda: any(re.match(by_night, line) for line in read_messages(systemd)), "its status")
        daemon.pause(stopped=True)
        desk.clock.pass_s(0.1)  # its earlier messages have arrived
        systemd.hear()
        desk.clock.pass_s(1.0)  # five feedings long
        assert systemd.hear() == []
        daemon.pause(stopped=False)
        before = systemd.heard.count("WATCHDOG=1")
        desk.until_true(lambda: fed(systemd, before + 2), "fed again")
        daemon.terminate()
        assert daemon.wait(30) == 0, desk.log()[-2000:]
        assert systemd.received("STOPPING=1")
        assert desk.posts() == []
    systemd.close()


def fed(systemd: Systemd, times: int) -> bool:
    """Whether the watchdog was fed so often by now."""
    systemd.hear()
    return systemd.heard.count("WATCHDOG=1") >= times


def read_messages(systemd: Systemd) -> list[str]:
    """All messages to systemd so far."""
    systemd.hear()
    return systemd.heard
