"""`rltraderctl panic` against the loopback Alpaca: flat whatever state the daemon is in, or an exit code that says no.

What is expected is the server's own book and its log of requests.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.app.offline import rescue
from daemon.cli import ctl
from daemon.engine.state_dir import locked_by
from daemon.host.panic_marker import MARKER
from daemon.journal.journal import FILE
from daemon.tapes import BUNDLED_TAPE
from simulator.prices.tape import calendar_sessions, new_york_date, read_bars
from tests.support.desks.desk_run import command
from tests.support.desks.live_desk import write_config
from tests.support.desks.stage import KEYS, Stage, Tape, stage, until
from tests.support.paths import FIXTURE_MODELS, REPOSITORY

DAY = "2024-10-29"
RATE = 60  # a market order meets a new quote every 0.25 s, and the session lasts five minutes and a half
FLAT = "flat: no open order, no position"


@pytest.fixture(scope="module")
def tape() -> Tape:
    """The bundled tape with its sessions."""
    bars = tuple(read_bars(BUNDLED_TAPE, "SPY"))
    first, last = (new_york_date(bar.start_ns) for bar in (bars[0], bars[-1]))
    return Tape(bars, tuple(calendar_sessions(first, last)))


@pytest.fixture
def desk(tape: Tape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """An hour after the open: three contracts and their like on the other side held, and an order that nobody meets."""
    for name in list(os.environ):
        if name.startswith(("RLTRADER_", "APCA_", "CREDENTIALS_")):
            monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with stage(tape, DAY, "10:30", tmp_path, FIXTURE_MODELS, rate=RATE) as new_desk:
        symbols = near_the_money(new_desk)
        for symbol in symbols:
            place(new_desk, symbol=symbol, qty="3", side="buy", type="market")
        until(lambda: new_desk.held() == dict.fromkeys(symbols, 3), "both positions")
        place(new_desk, symbol=symbols[0], qty="1", side="sell", type="limit", limit_price="900")
        yield new_desk


def near_the_money(desk: Stage) -> list[str]:
    """A call and the put of the same strike; both can be sold again, which a contract without a bid cannot."""
    now_ns = desk.clock.now_ns()

    def bid(symbol: str) -> Decimal:
        return (desk.market.quote(symbol, now_ns) or (Decimal(0), Decimal(0)))[0]

    def pairs() -> list[list[str]]:
        calls = [row["symbol"] for row in desk.market.listed(DAY) if row["symbol"][9] == "C"]
        return [[call, call[:9] + "P" + call[10:]] for call in calls]

    return max(desk.server.call(pairs), key=lambda pair: min(map(bid, pair)))


def place(desk: Stage, **fields: str) -> None:
    desk.server.by_hand("place", time_in_force="day", **fields)


def config(desk: Stage, **keys: object) -> Path:
    """The configuration; `keys` are of the table `desk`."""
    return write_config(desk.folder / "config.toml", desk.server, desk.clock, desk.state_dir, {"desk": keys})


def flat(desk: Stage) -> bool:
    """The server's book shows no position and no working order."""
    return desk.server.call(lambda: not desk.account.positions and not desk.account.working)


def panic(desk: Stage, capsys: pytest.CaptureFixture[str], code: int, **keys: object) -> str:
    """The output of `panic`; it ended with `code`. No key is in it."""
    assert ctl.main(["panic", "--yes", "--config", str(config(desk, **keys))]) == code
    output = capsys.readouterr()
    for key in KEYS.values():
        assert key not in output.out + output.err
    return output.err if code == 2 and not output.out else output.out


# --- flat in the end ----------------------------------------------------------------------------------------------


def test_it_cancels_and_closes_everything_without_a_state_directory_and_makes_none(
    desk: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = panic(desk, capsys, 0).splitlines()
    assert flat(desk)
    assert lines[0] == f"the paper account at {desk.server.trading_url}: cancel all, close all"
    assert lines[1] == "account PA3LOOPBACK1"
    assert lines[2] == f"desk: no folder {desk.state_dir}: where another one is its desk, halt that"
    assert lines[3:5] == ["cancel all: asked for 1", "close all: asked for 2"]
    assert lines[-1] == FLAT
    assert {file.name for file in desk.folder.iterdir()} == {"config.toml"}
    closing = {row.path for row in desk.requests("POST", "DELETE") if row.method == "DELETE"}
    assert closing == {"/v2/orders", "/v2/positions?cancel_orders=true"}


def test_it_closes_beside_a_daemon_that_runs_and_leaves_it_running(
    desk: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = desk.start()
    until(lambda: bool(desk.read_log("trade_stream_listening")), "the daemon hears its orders")
    assert locked_by(desk.state_dir) == str(daemon.pid)
    lines = panic(desk, capsys, 0).splitlines()
    assert lines[2] == f"desk in {desk.state_dir}: stands down"
    assert lines[-2] == FLAT
    assert "rltraderctl accept-broker" in lines[-1]
    assert flat(desk)
    assert daemon.returncode is None
    assert not (desk.state_dir / MARKER).exists()
    daemon.terminate()
    assert daemon.wait(60) == 0
    state = desk.books().state
    assert state.risk.halt is not None
    assert (state.risk.halt.reason, state.broker.stood_down) == ("panic", True)
    assert not state.book.positions


def test_a_corrupt_journal_is_in_nobodys_way(desk: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    desk.state_dir.mkdir()
    (desk.state_dir / FILE).write_bytes(b"\x00no journal\xff" * 100)
    before = (desk.state_dir / FILE).read_bytes()
    panic(desk, capsys, 0)
    assert flat(desk)
    assert (desk.state_dir / FILE).read_bytes() == before
    assert {file.name for file in desk.state_dir.iterdir()} == {FILE, MARKER}


def test_a_service_in_trouble_is_asked_again(desk: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    faults = desk.server.faults
    faults.add("http_error", times=2, where={"path": "/v2/account"})
    faults.add("http_error", times=2, where={"path": "/v2/positions", "method": "GET"})
    faults.add("http_error", status=503, where={"path": "/v2/orders", "method": "DELETE"})
    lines = panic(desk, capsys, 0, account_number="PA3LOOPBACK1").splitlines()
    assert flat(desk)
    assert lines[1] == "account PA3LOOPBACK1"
    assert "cancel all: failed: HTTP 503" in lines
    assert lines.count("asking what is left: failed: HTTP 500") == 1  # two answers within a second
    assert lines[-1] == FLAT


def test_an_account_that_cannot_be_asked_for_its_number_is_closed_all_the_same(
    desk: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.server.faults.add("http_error", times=1000, where={"path": "/v2/account"})
    lines = panic(desk, capsys, 0, account_number="PA3LOOPBACK1").splitlines()
    assert flat(desk)
    assert lines[1] == "account number: not checked: HTTP 500; going on"


def test_an_account_that_takes_long_to_be_asked_is_not_asked_again_before_it_is_closed(
    desk: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "ASKED_S", 0.0)
    desk.server.faults.add("http_error", times=1000, where={"path": "/v2/account"})
    assert "account number: not checked: " in panic(desk, capsys, 0, account_number="PA3LOOPBACK1")
    assert flat(desk)
    assert sum(row.path == "/v2/account" for row in desk.requests("GET")) == 1


def test_the_right_account_number_is_let_pass(desk: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    panic(desk, capsys, 0, account_number="PA3LOOPBACK1")
    assert flat(desk)


# --- refused, or not flat -----------------------------------------------------------------------------------------


def untouched(desk: Stage) -> bool:
    """Nothing but questions reached the server."""
    return not desk.requests("POST", "DELETE", "PATCH") and not flat(desk)


def test_another_account_is_not_touched(desk: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    lines = panic(desk, capsys, 2, account_number="PA3OTHER").splitlines()
    assert lines[1] == (
        "the keys open account PA3LOOPBACK1, desk.account_number is PA3OTHER: nothing was touched; give the right keys"
    )
    assert untouched(desk)


def test_keys_that_are_refused_end_it_soon_and_are_not_shown(
    desk: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APCA_API_SECRET_KEY", "wrong-secret-00000")
    monkeypatch.setattr(rescue, "PAUSE_S", 0.01)
    output = panic(desk, capsys, 2)
    url = desk.server.trading_url
    assert f"the broker refuses the keys (401 - unauthorized. at {url}): nothing was touched" in output
    assert "wrong-secret" not in output
    assert len(desk.requests("GET")) == 3  # one refusal may be the broker's trouble
    assert untouched(desk)


def test_keys_that_are_refused_once_are_tried_again(
    desk: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "PAUSE_S", 0.01)
    desk.server.faults.add("auth_failed", where={"stream": "rest"})
    panic(desk, capsys, 0)
    assert flat(desk)


def test_what_remains_at_the_end_is_told_with_exit_code_1(
    desk: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "DEADLINE_S", 0.5)
    desk.server.faults.add("http_error", times=1000, where={"method": "DELETE"})
    positions = desk.held()
    lines = panic(desk, capsys, 1).splitlines()
    assert {line for line in lines if line.startswith("NOT flat: position")} == {
        f"NOT flat: position 3 {symbol}" for symbol in positions
    }
    assert sum(line.startswith("NOT flat: order ") for line in lines) == 1
    assert desk.held() == positions


@pytest.mark.parametrize("strategy", ["import time; time.sleep(1000)", "raise SystemExit(0)", "1 / 0"])
def test_neither_a_strategy_that_cannot_be_imported_nor_a_mistake_elsewhere_keeps_it_from_closing(
    desk: Stage, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    """Both are reasons for a panic: the daemon's start is refused, and `OnFailure=` runs this."""
    own_file = desk.folder / "mine.py"
    own_file.write_text(f"{strategy}\n")
    path = config(desk, strategy=str(own_file), symbols=["SPY"], parameters=["fast=20"])
    path.write_text(f"{path.read_text()}\n[mine.risk]\ndaily_loss_max = 7\n[mqtt]\nhosst = 1\n[risk]\nno = 1\n")
    assert ctl.main(["panic", "--yes", "--config", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("the configuration has mistakes, [desk], [paths], [alpaca], [clock] count: mqtt.hosst")
    assert FLAT in said
    assert flat(desk)


def test_without_keys_or_with_a_wrong_configuration_nothing_is_touched(
    desk: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(desk)
    path.write_text(path.read_text() + "\n[dsk]\nname = 1\n")
    assert ctl.main(["panic", "--yes", "--config", str(path)]) == 2
    assert "did you mean desk?" in capsys.readouterr().err
    monkeypatch.delenv("APCA_API_SECRET_KEY")
    assert (
        "APCA_API_SECRET_KEY is missing, the other broker key is there: set it in the environment, or "
        "CREDENTIALS_DIRECTORY to" in panic(desk, capsys, 2)
    )
    assert untouched(desk)


# --- with and without a terminal ----------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, **KEYS, "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.parametrize("streams", ["</dev/null", "<&-", "| true", ">/dev/full"])
def test_no_terminal_no_input_and_no_reader_stop_nothing(desk: Stage, streams: str) -> None:
    line = (
        f"{sys.executable} -m daemon.cli.ctl panic --yes --config '{config(desk)}' {streams}; exit ${{PIPESTATUS[0]}}"
    )
    finished = subprocess.run(
        ["bash", "-c", line], cwd=desk.folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert flat(desk), finished.stderr
    assert (finished.returncode, finished.stderr) == (0, "")


def test_without_a_terminal_yes_has_to_confirm_and_a_unit_of_systemd_needs_none(desk: Stage) -> None:
    path = config(desk)

    def run(shell: str = "exec") -> subprocess.CompletedProcess[str]:
        line = f'{shell} "$0" -m daemon.cli.ctl panic --config "$1" </dev/null'
        return subprocess.run(
            ["bash", "-c", line, sys.executable, str(path)],
            cwd=desk.folder, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    refused = run()
    assert (refused.returncode, untouched(desk)) == (2, True)
    assert refused.stderr == (
        "rltraderctl: nothing was touched: there is no terminal to confirm this on, so --yes has to: "
        f"rltraderctl panic --yes --config {path}\n"
    )
    of_another = run(shell="SYSTEMD_EXEC_PID=$PPID exec")  # a unit's process that started this one
    assert (of_another.returncode, untouched(desk)) == (2, True)
    assert run(shell="SYSTEMD_EXEC_PID=$$ exec").returncode == 0
    assert flat(desk)


@pytest.mark.parametrize(("typed", "code"), [("PANIC", 0), ("yes", 2), ("", 2), ("\x04", 2)])
def test_on_a_terminal_a_person_is_asked_first(desk: Stage, typed: str, code: int) -> None:
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        command("daemon.cli.ctl", "panic", "--config", config(desk)),
        cwd=desk.folder,
        env=environment(),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(terminal)
    os.write(person, typed.encode() if typed == "\x04" else f"{typed}\n".encode())
    out, err = process.communicate(timeout=300)
    os.close(person)
    assert process.returncode == code, err
    assert "type PANIC to go on: " in out
    assert flat(desk) == (code == 0)
    if code:
        assert err == "rltraderctl: nothing was touched\n"
        assert untouched(desk)


def test_on_a_terminal_yes_needs_no_question(desk: Stage) -> None:
    person, terminal = pty.openpty()
    finished = subprocess.run(
        command("daemon.cli.ctl", "panic", "--yes", "--config", config(desk)),
        cwd=desk.folder,
        env=environment(),
        stdin=terminal,
        capture_output=True,
        text=True,
        check=False,
    )
    for end in (person, terminal):
        os.close(end)
    assert (finished.returncode, finished.stdout.splitlines()[-1]) == (0, FLAT)


def test_a_link_in_place_of_the_lock_is_in_nobodys_way(desk: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    desk.state_dir.mkdir()
    (desk.state_dir / "lock").symlink_to(desk.folder / "config.toml")
    output = panic(desk, capsys, 0)
    assert flat(desk)
    assert "cannot be notified" in output
    assert (desk.state_dir / MARKER).exists()
