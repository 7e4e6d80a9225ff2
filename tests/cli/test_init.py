"""`rltrader init`: from an empty folder to a desk, asked at a terminal or told by flags, with the loopback Alpaca.

Looked at in every test that has keys: no key is in what was printed, and none in an argument of a child process.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from datetime import date
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl, daemon
from daemon.cli.init import command, desk_folder
from daemon.cli.init.account import NoAccount, checked_keys
from daemon.config.load import KEYS, defaults, load
from daemon.tapes.span_options import add_span, chosen_bars
from daemon.tapes.spans import Span
from simulator.__main__ import start_ns
from simulator.clock import SimClock
from simulator.desks_by_hand import environment, market_of
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from strategies import registry
from strategies.registry import strategy
from tests.support.paths import REPOSITORY

SECRET = "loopback-secret-of-this-test"
EMPTY, BUSY, BEGINNER = "PKLOOPEMPTY", "PKLOOPBUSY", "PKLOOPBEGINNER"
LIMIT_S = 120.0
PRESSED_AGAIN_S = 20.0
AT_TERMINAL = """import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C is then a signal, and keys are read from it unseen
from rltrader.front import main
sys.exit(main())"""


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningServer]:
    """Three accounts: an empty one, one in which somebody has an order, one that may not buy options."""
    accounts = [
        Account(EMPTY, SECRET, account_number="PA3EMPTY"),
        Account(BUSY, SECRET, account_number="PA3BUSY"),
        Account(BEGINNER, SECRET, level=0, account_number="PA3BEGINNER"),
    ]
    market = market_of(["regime"], None, [])
    clock = SimClock.starting_now(start_ns(market, None, None), 1.0)
    with serving(market, clock, accounts=accounts) as running:
        order = {
            "symbol": "SPY",
            "qty": "1",
            "side": "buy",
            "type": "limit",
            "limit_price": "1",
            "time_in_force": "day",
        }
        running.by_hand("place", key=BUSY, **order)
        yield running


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the working one, in a shell without any setting."""
    for name in [name for name in os.environ if name.startswith(("RLTRADER_", "APCA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(sys, "stdin", None)
    # a strategy of one test is none of the next
    monkeypatch.setattr(registry, "_own_strategies", dict(registry._own_strategies))
    monkeypatch.setenv(registry.VARIABLE, "{}")
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def at(broker: RunningServer, monkeypatch: pytest.MonkeyPatch, key: str = "", secret: str = SECRET) -> None:
    """Give this shell the broker's addresses, and these keys."""
    for name, text in addresses(broker).items():
        monkeypatch.setenv(name, text)
    for name, text in zip(KEYS, (key, secret), strict=True):
        if key:
            monkeypatch.setenv(name, text)


def addresses(broker: RunningServer) -> dict[str, str]:
    """Return the variables of its addresses and of its clock, without its keys."""
    lines = re.findall(r"^export (\w+)=(.*)$", broker.call(environment, broker.server), re.MULTILINE)
    return {name: text for name, text in lines if name not in KEYS}


def init(*words: str) -> int:
    """Run `rltrader init` here."""
    return ctl.main(["init", *words], prog="rltrader")


def words_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return all that was printed, after a look for secrets."""
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert SECRET not in text
    assert not re.search(r"[PA]KLOOP\w+", text)
    return text


# --- told by flags ----------------------------------------------------------------------------------------------------


def test_without_keys_a_desk_of_the_simulator_is_made(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--yes") == 0
    text = words_of(capsys)
    assert tomllib.loads((desk / "config.toml").read_text()) == {
        "desk": {"strategy": "regime_switcher"},
        "paths": {"state_dir": "state/sim"},
    }
    assert re.search(r"first dry run in runs/first: 1,500 bars of \S+, whose prices are made up: \d+ decisions", text)
    assert re.search(r"start its broker: +\S*rltrader-simulator --accounts regime --env sim.env\n", text)
    assert re.search(r"before each new simulator: +rm -r state/sim\n", text)
    assert re.search(r"look at it: +\S*rltrader-dashboard --state-dir runs/first\n", text)
    assert not list(desk.glob(".rltrader-init*"))
    assert ctl.main(["verify", "--state-dir", "runs/first"]) == 0  # it was made elsewhere, and moved


def test_a_paper_account_gets_keys_for_this_user_alone_bars_and_a_check(
    desk: Path, broker: RunningServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    at(broker, monkeypatch, EMPTY)
    commands: list[list[str]] = []
    real = subprocess.run

    def record_run(command: list[str], **settings: Any) -> Any:
        commands.append(command)
        return real(command, **settings)

    monkeypatch.setattr(subprocess, "run", record_run)
    assert init("--account", "paper", "--keep-keys", "file", "--strategy", "regime_switcher", "--data", "fetch") == 0
    text = words_of(capfd)
    assert "keys: accepted for paper account PA3EMPTY: 10000.00 USD of equity; it may trade" in text
    assert "warn  shorting: the account may sell shares" in text
    assert "ok    capital: 10,000.00 USD over 3 symbols, 3,333.33 USD each: " in text
    assert re.search(r"check it: +CREDENTIALS_DIRECTORY=keys \S*rltraderd --check\n", text)
    assert stat.S_IMODE((desk / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE((desk / "keys" / name).stat().st_mode) for name in KEYS} == {0o600}
    assert [(desk / "keys" / name).read_text() for name in KEYS] == [f"{EMPTY}\n", f"{SECRET}\n"]
    config = tomllib.loads((desk / "config.toml").read_text())
    assert config["desk"] == {"strategy": "regime_switcher", "account_number": "PA3EMPTY"}
    assert sorted(path.name for path in (desk / "bars" / "1d").iterdir()) == ["IWM", "QQQ", "SPY"]
    assert re.search(r"bars of IWM,QQQ,SPY_1d_all_\d", text)  # the first dry run is over what was fetched
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "keys")
    assert daemon.main(["--check"]) == 0  # the second command that was printed
    assert "accepted for the paper account PA3EMPTY" in words_of(capfd)
    assert len(commands) >= 2
    assert not [word for line in commands for word in line if SECRET in word or EMPTY in word]


def test_the_kept_keys_are_those_of_the_next_start(
    desk: Path, broker: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at(broker, monkeypatch, EMPTY)
    flags = ("--yes", "--account", "paper", "--no-dry-run")
    assert init(*flags, "--keep-keys", "file") == 0
    for name in KEYS:
        monkeypatch.delenv(name)
    (desk / "config.toml").rename(desk / "config.old")
    assert init(*flags) == 0
    text = words_of(capsys)
    assert "keys: from keys\n" in text
    assert text.count("keys: accepted for paper account PA3EMPTY") == 2


def test_each_line_of_the_configuration_differs_from_the_default_and_says_why(
    desk: Path, broker: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at(broker, monkeypatch, BUSY)
    flags = ("--account", "live", "--strategy", "option_scalper", "--keep-keys", "nowhere")
    assert init(*flags, "--foreign", "ignore", "--no-dry-run") == 0
    text = words_of(capsys)
    tables = tomllib.loads((desk / "config.toml").read_text())
    same = [key for table, keys in tables.items() for key, value in keys.items() if value == defaults()[table][key]]
    assert same == []
    assert tables["desk"] == {"name": "live-1", "account": "live", "account_number": "PA3BUSY"}
    assert tables["alpaca"]["trading_url"] == "https://api.alpaca.markets"
    assert tables["broker"] == {"foreign_orders": "ignore"}
    lines = [line for line in (desk / "config.toml").read_text().splitlines() if "=" in line and line[0] != "#"]
    assert all(re.search(r"  # \w", line) for line in lines)
    assert "The account is not empty: 1 orders and positions" in text
    assert re.search(r"run it, with real money: +\S*rltraderd\n", text)
    assert re.search(r"FAIL +model: .*not promoted", text)


def test_what_the_environment_overrules_is_said(
    desk: Path, broker: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at(broker, monkeypatch, EMPTY)
    assert init("--yes", "--no-dry-run") == 0
    assert "win over config.toml: RLTRADER_ALPACA__DATA_URL, " in words_of(capsys)


def test_options_without_the_broker_s_approval_are_named(
    desk: Path, broker: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at(broker, monkeypatch, BEGINNER)
    assert init("--yes", "--strategy", "option_scalper", "--no-dry-run") == 0
    text = words_of(capsys)
    assert "options level 0: 2 is needed to buy calls and puts: apply for it at the broker" in text
    assert re.search(r"FAIL +options level: 0: 2 is needed", text)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind", "cure"),
    [
        ("PKWRONG", "paper", "copy both again from the page of the paper account"),
        ("AKWRONG", "paper", "they look like keys of a live account, and paper was chosen"),
        ("PKWRONG", "live", "they look like keys of a paper account, and live was chosen"),
    ],
)
def test_refused_keys_are_explained_and_nothing_is_written(
    key: str,
    kind: str,
    cure: str,
    desk: Path,
    broker: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at(broker, monkeypatch, key)
    assert init("--yes", "--account", kind) == 2
    text = words_of(capsys)
    assert cure in text
    assert key not in text
    assert list(desk.iterdir()) == []


def test_a_broker_that_is_not_reached_leaves_nothing_behind(
    desk: Path, broker: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at(broker, monkeypatch, EMPTY)
    monkeypatch.setenv("RLTRADER_ALPACA__TRADING_URL", "http://127.0.0.1:9")
    assert init("--yes") == 2
    assert "the broker cannot be asked" in words_of(capsys)
    assert list(desk.iterdir()) == []


@pytest.mark.parametrize("lines", [["", ""], ["PK LOOP", SECRET], ["PKLOOP", f"{SECRET}\x07"]])
def test_what_cannot_be_a_key_is_not_sent(lines: list[str]) -> None:
    with pytest.raises(NoAccount) as refused:
        checked_keys(lines)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "missing"),
    [("", "both are missing"), ("PKLOOP\n", "the second is missing"), (f"\n{SECRET}\n", "the first")],
)
def test_a_line_of_the_keys_that_is_missing_is_named(
    text: str, missing: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert init("--yes", "--account", "paper", "--keys-stdin") == 2
    assert missing in words_of(capsys)
    assert list(desk.iterdir()) == []


def test_a_full_disk_is_named_by_its_folder(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert init("--yes", "--account", "none", "--no-dry-run") == 2
    assert f"{desk}: No space left on device: free some room there" in words_of(capsys)


def test_a_configuration_that_is_there_is_left_as_it_is(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "config.toml").write_text("[desk]\n")
    assert init("--yes") == 2
    assert "config.toml is there already, and nothing is overwritten" in words_of(capsys)
    assert [path.name for path in desk.iterdir()] == ["config.toml"]
    assert (desk / "config.toml").read_text() == "[desk]\n"


def test_another_folder_may_be_named_and_is_made(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "config.toml").write_text("[desk]\n")
    assert init("--yes", "--no-dry-run", "a/new one") == 0
    assert (desk / "a/new one/config.toml").is_file()
    assert "\n  cd 'a/new one'\n" in words_of(capsys)


def test_a_folder_that_is_not_writable_is_named_before_any_question(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert init("there") == 2
    assert "is not writable: name another folder" in words_of(capsys)


def test_without_a_terminal_the_missing_flag_is_named(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init() == 2
    assert "there is no terminal to ask at: give --account, or --yes for the usual answers" in words_of(capsys)
    assert init("--account", "paper") == 2
    assert "no keys of the paper account: set APCA_API_KEY_ID" in words_of(capsys)
    assert list(desk.iterdir()) == []


def test_an_interruption_leaves_nothing_half_written(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "put_first_run", interrupted)
    assert init("--yes", "here") == 130
    assert "no configuration and no key was written" in words_of(capsys)
    assert list(desk.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_by_the_system_leaves_nothing_half_written(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def stop(*_: object) -> None:
        assert signal.getsignal(number) is not signal.SIG_DFL, "it would end the process, and these tests with it"
        signal.raise_signal(number)

    monkeypatch.setattr(command, "put_first_run", stop)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is another
    try:
        assert init("--yes", "here") == 130
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert "no configuration and no key was written" in words_of(capsys)
    assert list(desk.iterdir()) == []


def test_an_interruption_of_the_check_says_that_the_desk_is_written(
    desk: Path, broker: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    at(broker, monkeypatch, EMPTY)
    monkeypatch.setattr(command._Init, "_check", interrupted)
    assert init("--yes", "--account", "paper", "--keep-keys", "file", "--no-dry-run", "here") == 130
    text = words_of(capsys)
    assert "here/config.toml and all that belongs to it are written; rltraderd --check there" in text
    assert "no configuration" not in text
    assert (desk / "here/config.toml").is_file()
    assert (desk / "here/keys").is_dir()


def test_what_came_meanwhile_is_left_and_what_was_put_there_goes_again(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = desk_folder.put_models

    def put_models_and_config(staged: Path, folder: Path, name: str) -> None:
        real(staged, folder, name)
        (folder / "config.toml").write_text("# another's\n")

    monkeypatch.setattr(command, "put_models", put_models_and_config)
    assert init("--yes", "--no-dry-run") == 2
    assert "nothing is overwritten" in words_of(capsys)
    assert (desk / "config.toml").read_text() == "# another's\n"
    assert not (desk / "onnx_models" / "regime_switcher").exists()


def test_a_missing_extra_is_named_before_any_question(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert init("--yes") == 2
    assert "onnxruntime is not installed" in words_of(capsys)


def test_a_strategy_that_nobody_knows_gets_the_nearest(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--yes", "--strategy", "regime_swticher") == 2
    assert "did you mean 'regime_switcher'?" in words_of(capsys)
    assert list(desk.iterdir()) == []


def test_a_strategy_of_one_s_own_is_named_by_its_file_and_needs_a_model_first(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["new-strategy", "my_cross", "--cadence", "session", "--holds", "shares"]) == 0
    assert init("--yes", "--strategy", "my_cross/my_cross.py", "a_desk") == 0
    text = words_of(capsys)
    file = desk / "my_cross" / "my_cross.py"
    assert tomllib.loads((desk / "a_desk/config.toml").read_text())["desk"] == {"strategy": str(file)}
    assert re.search(rf"train-and-export --strategy {file} --bars FILE --activate\n", text)
    assert re.search(rf"start its broker: +\S*rltrader-simulator --strategy {file} --env sim.env\n", text)


# --- asked at a terminal ----------------------------------------------------------------------------------------------


class Terminal:
    """`rltrader init` at a pseudo-terminal: wait for words, answer them, keep all that was shown."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        around = {name: text for name, text in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
        self.shown, self._met, self._left = "", 0, False
        self._terminal, its_side = pty.openpty()
        around |= {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", "TERM": "dumb", **variables}
        self._child = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, "init", "--no-dry-run"],
            stdin=its_side, stdout=its_side, stderr=its_side, cwd=folder, env=around, start_new_session=True,
        )  # fmt: skip
        os.close(its_side)

    def wait_for(self, words: str) -> None:
        """Read until these words are shown."""
        end_s = time.monotonic() + LIMIT_S
        while (place := self.shown.find(words, self._met)) < 0:
            assert time.monotonic() < end_s, f"{words!r} did not come: {self.shown}"
            assert self._read(), f"it ended before {words!r}: {self.shown}"
        self._met = place + len(words)

    def answer(self, words: str, text: str) -> None:
        """Wait for a question and type an answer."""
        self.wait_for(words)
        os.write(self._terminal, text.encode())

    def stop(self, words: str, key: str) -> None:
        """Wait for a question and press a key that ends it, again where it was not heard.

        A signal that comes after the interpreter's last look and before its `read` waits for the next key.
        """
        self.wait_for(words)
        for _ in range(int(LIMIT_S / PRESSED_AGAIN_S)):
            os.write(self._terminal, key.encode())
            while self._read(PRESSED_AGAIN_S):
                pass
            if self._left:
                return
        raise AssertionError(f"{key!r} did not end it: {self.shown}")

    def _read(self, limit_s: float = LIMIT_S) -> bool:
        if self._left or not select.select([self._terminal], [], [], limit_s)[0]:
            return False
        try:
            data = os.read(self._terminal, 4096)
        except OSError:  # the child has left the terminal
            data = b""
        self._left = not data
        self.shown += data.decode(errors="replace")
        return not self._left

    def end(self) -> int:
        """Read to the end; return the exit code."""
        while self._read():
            pass
        os.close(self._terminal)
        return self._child.wait(LIMIT_S)


def test_a_person_is_asked_and_may_be_wrong_at_first(desk: Path, broker: RunningServer) -> None:
    terminal = Terminal(desk, addresses(broker))
    terminal.answer("Account [paper/live/none] (none):", "paper\n")
    terminal.answer("key ID (it is not shown):", "PKWRONG\n")
    terminal.answer("secret key (it is not shown):", f"{SECRET}\n")
    terminal.wait_for("copy both again from the page of the paper account")
    terminal.answer("key ID (it is not shown):", f"{BEGINNER}\n")
    terminal.answer("secret key (it is not shown):", f"{SECRET}\n")
    terminal.answer("Keep them [file/systemd/nowhere] (file):", "\n")
    terminal.wait_for("3  regime_switcher")
    terminal.answer("Strategy: a number, a name, or your file (3):", "1\n")
    terminal.answer("Choose it all the same? [y/n] (n):", "n\n")
    terminal.answer("Strategy: a number, a name, or your file (3):", "\n")
    assert terminal.end() == 0
    assert re.search(r"regime_switcher +SPY, QQQ, IWM, once a day; [\d,]+ USD for whole shares", terminal.shown)
    assert not [word for word in (SECRET, BEGINNER, "PKWRONG") if word in terminal.shown]
    assert re.search(r"run it, with play money: +CREDENTIALS_DIRECTORY=keys \S*rltrader run", terminal.shown)
    assert (desk / "keys" / KEYS[1]).read_text() == f"{SECRET}\n"
    assert load(desk / "config.toml", {}, {}).desk.account_number == "PA3BEGINNER"


@pytest.mark.parametrize("ends", ["\x03", "\x04"])
def test_ctrl_c_and_ctrl_d_at_a_question_write_nothing(ends: str, desk: Path, broker: RunningServer) -> None:
    terminal = Terminal(desk, addresses(broker))
    terminal.answer("Account [paper/live/none] (none):", "none\n")
    terminal.stop("Strategy: a number, a name, or your file (3):", ends)
    assert terminal.end() == 130, terminal.shown
    assert "no configuration and no key was written" in terminal.shown
    assert list(desk.iterdir()) == []


def test_real_money_is_asked_for_twice(desk: Path, broker: RunningServer) -> None:
    terminal = Terminal(desk, addresses(broker))
    terminal.answer("Account [paper/live/none] (none):", "live\n")
    terminal.answer("Real money: this desk's orders will move it. Go on? [y/n] (n):", "\n")
    assert terminal.end() == 2
    assert list(desk.iterdir()) == []


def test_the_bars_of_a_first_run_warm_the_strategy_up() -> None:
    today = date(2026, 11, 26)

    def length_of(span: Span) -> int:
        return (date.fromisoformat(span.last) - date.fromisoformat(span.first)).days

    days = desk_folder.wanted_bars(Path("desk"), strategy("regime_switcher").spec, today)
    assert (days.folder, days.bars, days.last) == (Path("desk/bars"), "1d", "2026-11-25")
    assert length_of(days) * 250 / 365 > strategy("regime_switcher").spec.history_bars + 200
    minutes = desk_folder.wanted_bars(Path("desk"), strategy("option_scalper").spec, today)
    assert minutes.bars == "1min"
    assert length_of(minutes) * 5 / 7 > 40  # options need twenty sessions first


@pytest.mark.parametrize(
    ("name", "adjustment"),
    [("option_scalper", "raw"), ("online_dqn", "split"), ("regime_switcher", "all"), ("daily_rebalancer", "all")],
)
def test_init_and_a_span_of_bars_adjust_prices_alike(name: str, adjustment: str) -> None:
    spec = strategy(name).spec
    assert desk_folder.wanted_bars(Path("desk"), spec, date(2026, 11, 26)).adjustment == adjustment
    command = argparse.ArgumentParser()
    add_span(command)
    bars = chosen_bars(command.parse_args(["--from", "2026-01-02", "--to", "2026-01-05"]), Path("desk"), spec)
    assert bars is not None
    assert Span.at(bars).adjustment == adjustment
