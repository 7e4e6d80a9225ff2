"""One account, one desk: a second daemon is refused on this host, and harmless from another one.

Expected values: exit code 2 and the words of docs/OPERATIONS.md; the server's log of requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.host.account_lock import AccountLock, Holder
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from tests.support.desks.daily_day import bought
from tests.support.desks.daily_stage import HALF_DAY, daily_stage, swapping
from tests.support.desks.live_desk import LOOSE, Daemon, books, differences, write_config
from tests.support.desks.stage import KEYS, Stage, Table, Tape, new_york_ns, stage, until
from tests.support.outside.mosquitto import running


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


OTHER: Table = {"desk": {"name": "other"}}


def second(
    desk: Stage, folder: Path, environment: Mapping[str, str], *arguments: str, tables: tuple[Table, ...] = (OTHER,)
) -> Daemon:
    """Another daemon, with the same keys unless `environment` has others, and a state directory of its own."""
    folder.mkdir()
    path = write_config(
        folder / "config.toml",
        desk.server,
        desk.clock,
        folder / "state",
        LOOSE,
        *desk.tables,
        *tables,
        models_dir=desk.models_dir,
    )
    daemon = Daemon(["--config", str(path), *arguments], {**KEYS, **environment}, folder / "log", clock=desk.clock)
    desk.daemons.insert(0, daemon)
    return daemon


def test_a_second_daemon_with_the_same_keys_is_refused_before_it_makes_anything(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, "08:50", tmp_path / "first", models) as desk:
        desk.start()
        desk.until_true(lambda: desk.journaled("BrokerReported") != [], "the first desk's report")
        other = second(desk, tmp_path / "other", {"RUNTIME_DIRECTORY": str(desk.folder / "run")})
        assert other.wait(60) == 2
        (line,) = [line for line in other.read_log() if line["event"] == "refused"]
        for word in ("paper-1", str(desk.state_dir), f"process {desk.daemons[-1].pid}", "stop that one"):
            assert word in line["problem"]
        assert DEFAULT_KEY not in other.log.read_text()
        assert DEFAULT_SECRET not in other.log.read_text()
        assert not (tmp_path / "other" / "state").exists()
        assert desk.daemons[-1].returncode is None


def test_a_second_daemon_on_another_host_never_agrees_with_the_broker_and_sends_nothing(
    models: Path, tmp_path: Path
) -> None:
    with daily_stage(HALF_DAY, "08:50", tmp_path / "first", models) as desk:
        desk.start()
        desk.until_true(lambda: desk.journaled("BrokerReported") != [], "the first desk's report")
        other = second(desk, tmp_path / "other", {"RUNTIME_DIRECTORY": str(tmp_path / "elsewhere")})
        desk.until_true(
            lambda: any(line["event"] == "trade_stream_lost" for line in _read_log(other)),
            "the second stream is refused",
        )
        desk.until_time(new_york_ns(HALF_DAY, "09:40"))
        assert other.returncode is None
        assert not any(line["event"] in ("order_submitted", "reconciled") for line in other.read_log())
        epochs = {post["client_order_id"].split("-")[0] for post in desk.posts()}
        assert len(epochs) == 1


def test_two_desks_with_accounts_of_their_own_trade_side_by_side(models: Path, tmp_path: Path) -> None:
    account = Account("PKSECONDDESK", "second-secret", cash=Decimal(50_000), margin=1, account_number="PA3SECOND")
    keys = {"APCA_API_KEY_ID": account.key, "APCA_API_SECRET_KEY": account.secret}
    with daily_stage(HALF_DAY, "08:50", tmp_path / "first", models, others=(account,)) as desk:
        desk.start()
        other = second(desk, tmp_path / "other", {"RUNTIME_DIRECTORY": str(desk.folder / "run"), **keys})
        desk.until_true(lambda: {"SPY"} <= desk.held().keys() & account.positions.keys(), "both have bought")
        desk.until_time(new_york_ns(HALF_DAY, "09:45"))
        for daemon in desk.daemons:
            daemon.terminate()
        assert [daemon.wait(60) for daemon in desk.daemons] == [0, 0]
        assert differences(desk.books(), desk.account) == []
        assert differences(books(tmp_path / "other" / "state"), account) == []
        assert other.read_log()[-1]["event"] == "run_ended"


def test_an_order_of_another_epoch_halts_the_desk_before_its_basket(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, "08:00", tmp_path / "first", models) as desk:
        desk.start()
        desk.until_true(lambda: desk.read_log("reconciled") != [], "book and broker agree")
        desk.server.by_hand(
            "place", symbol="IWM", qty="1", side="buy", client_order_id="0123456789-regime_switcher-1-0-0"
        )
        desk.until_true(lambda: desk.read_log("halted") != [], "the halt")
        desk.until_time(new_york_ns(HALF_DAY, "09:05"))
        assert desk.read_log("halted")[0]["reason"] == "foreign_order"
        assert desk.posts() == []


def _read_log(daemon: Daemon) -> list[dict[str, object]]:
    return daemon.read_log() if daemon.log.exists() else []


def test_other_keys_of_the_same_account_are_refused_at_the_first_report(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, "08:50", tmp_path / "first", models) as desk:
        other = AccountLock(desk.folder / "run", Holder("other", "/elsewhere", 4711), desk.server.trading_url)
        other.claim_number(desk.account.account_number)
        daemon = desk.start()
        assert daemon.wait(60) == 2
        (line,) = [line for line in daemon.read_log() if line["event"] == "refused"]
        assert f"account {desk.account.account_number}" in line["problem"]
        assert "other, state directory /elsewhere, process 4711" in line["problem"]
        assert desk.posts() == []
        other.close()


MINUTES = "2024-10-29"


def test_a_dry_run_by_the_bar_takes_no_stream_of_a_desk_that_trades(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, MINUTES, "08:50", tmp_path / "first", lively) as desk:
        desk.start()
        desk.until_true(lambda: len(desk.read_log("stream_up")) == 2, "the first desk's streams")
        locks = {"RUNTIME_DIRECTORY": str(desk.folder / "run")}
        dry = second(desk, tmp_path / "other", locks, "--dry-run")
        assert dry.wait(60) == 2
        (line,) = [line for line in dry.read_log() if line["event"] == "refused"]
        for word in ("market streams", "paper-1", f"process {desk.daemons[-1].pid}", "keys of another account"):
            assert word in line["problem"]
        assert not (tmp_path / "other" / "state").exists()
        assert desk.daemons[-1].returncode is None


def test_a_dry_run_by_the_bar_gives_its_streams_to_a_desk_that_starts(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, MINUTES, "08:50", tmp_path / "first", lively) as desk:
        dry = second(desk, tmp_path / "other", {"RUNTIME_DIRECTORY": str(desk.folder / "run")}, "--dry-run")
        desk.until_true(lambda: sum(line["event"] == "stream_up" for line in _read_log(dry)) == 2, "its streams")
        desk.start()
        desk.until_true(lambda: len(desk.read_log("stream_up")) == 2, "the streams are the desk's")
        assert desk.clock.now_ns() < new_york_ns(MINUTES, "08:53")
        assert dry.wait(60) == 2
        assert "paper-1" in next(line["problem"] for line in dry.read_log() if line["event"] == "refused")
        books(tmp_path / "other" / "state")


def test_a_dry_run_of_a_daily_desk_has_no_stream_and_runs_with_the_same_keys(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, "08:50", tmp_path / "first", models) as desk:
        desk.start()
        desk.until_true(lambda: desk.journaled("BrokerReported") != [], "the first desk's report")
        dry = second(desk, tmp_path / "other", {"RUNTIME_DIRECTORY": str(desk.folder / "run")}, "--dry-run")
        desk.until_true(lambda: any(line["event"] == "basket_decided" for line in _read_log(dry)), "its basket")
        assert dry.returncode is None


def test_a_dry_run_with_the_desk_s_own_configuration_is_another_desk_by_mqtt(models: Path, tmp_path: Path) -> None:
    with running(tmp_path / "mqtt") as mqtt, daily_stage(HALF_DAY, "08:50", tmp_path / "first", models) as desk:
        broker = {"host": "127.0.0.1", "port": mqtt.port, "ca_file": str(mqtt.ca_file), "username": "paper-1"}
        tables: tuple[Table, ...] = ({"mqtt": {"enabled": True, **broker}},)
        variables = {**KEYS, "MQTT_PASSWORD": mqtt.passwords["paper-1"]}
        desk.start(environment=variables, tables=tables)
        desk.until_true(lambda: desk.journaled("BrokerReported") != [], "the first desk's report")
        until(lambda: desk.read_log("mqtt_up") != [], "the first desk is at the broker")
        variables["RUNTIME_DIRECTORY"] = str(desk.folder / "run")
        dry = second(desk, tmp_path / "other", variables, "--dry-run", tables=tables)
        desk.until_true(lambda: any(line["event"] == "session_planned" for line in _read_log(dry)), "it runs")
        until(lambda: any(line["event"] == "mqtt_up" for line in _read_log(dry)), "the dry run is there, too")
        names = re.findall(r" as (\S+) \(.* u'paper-1'\)", (mqtt.folder / "log").read_text())
        assert [name.rpartition("-")[0] for name in names] == ["rltrader-paper-1", "rltrader-paper-1-dry"]


def test_a_desk_that_holds_something_waits_for_its_account_that_another_desk_took(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, "08:50", tmp_path / "first", models) as desk:
        bought(desk)
        other = AccountLock(desk.folder / "run", Holder("other", "/elsewhere", 4711), desk.server.trading_url)
        other.claim_number(desk.account.account_number)
        daemon = desk.start()
        assert daemon.wait(60) == 1  # systemd starts it again
        (line,) = [line for line in daemon.read_log() if line["event"] == "start_failed"]
        assert "holds a position or an order" in line["problem"]
        assert "other, state directory /elsewhere, process 4711" in line["problem"]
        other.close()
        desk.start()
        desk.until_true(lambda: len(desk.read_log("reconciled")) > 1, "it is back")
