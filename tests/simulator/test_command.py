"""`rltrader-simulator`: what cannot be is refused with the cure."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from simulator.__main__ import main, start_ns, taped_sessions
from simulator.desks_by_hand import market_of
from strategies.kit.units import MINUTE_NS


def test_a_used_port_names_the_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as blocker:
        blocker.bind(("127.0.0.1", 0))
        blocker.listen()
        port = blocker.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["rltrader-simulator", "--port", str(port)])
        assert main() == 2
    expected = f"rltrader-simulator: port {port}: Address already in use: choose another with --port"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "70000"), "port 70000: expected 0 to 65535: choose another with --port"),
        (("--speed", "1e400"), "argument --speed: '1e400' is no speed; expected a number above 0, at most 100,000"),
        (("--speed", "fast"), "argument --speed: 'fast' is no speed"),
        (("--env", "none/there"), "--env none/there: No such file or directory: name a file in a folder that is there"),
        (("--sim-start", "2034-07-01T09:20:00-04:00"), "is after the tape's last session: expected one up to 2024-"),
        (("--sim-start", "noon"), "--sim-start noon is no time: write it like 2024-07-01T09:20:00-04:00"),
        (("--bars", "none.csv"), "none.csv: no such file; expected a tape of bars"),
        (("--daily", "none.parquet"), "--daily none.parquet: no Parquet file that can be read"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    assert refused(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


HEAD = "timestamp,open,high,low,close,volume\n"
ROW = "2024-11-12T15:15:00Z,500,501,499,500,1000\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "no row; expected bars"),
        (HEAD.replace("open", "first") + ROW, "the column open is there 0 times; expected once: correct the header"),
        (HEAD.replace("low", "high") + ROW, "the column high is there 2 times; expected once: correct the header"),
        (HEAD + ROW.replace("Z", ""), "the timestamps have no time zone; expected one"),
        (HEAD + ROW + ROW, "several rows have one time and symbol: keep one of them"),
        (HEAD + ROW.replace("499", "-499"), "row 1 has prices that contradict each other, or are not above 0"),
        (HEAD + ROW.replace("501", "inf"), "row 1 has no price or volume that is a number"),
        (HEAD + ROW.replace("501", ""), "1 rows have no value in the column high"),
        (HEAD + ROW.replace("15:15", "03:15"), "--bars has no bar within the hours of a session"),
    ],
)
def test_a_tape_of_which_no_market_can_be_made_is_refused_with_the_cure(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    message: str,
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert refused(monkeypatch, "--bars", str(tmp_path / "t.csv")) == 2
    assert message in capsys.readouterr().err


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the program in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["rltrader-simulator", *arguments])
    try:
        return main()
    except SystemExit as system_exit:
        return int(system_exit.code or 0)


def test_a_person_has_a_minute_to_start_a_daily_desk_before_it_decides_at_sixty_times_real_time() -> None:
    """It decides a quarter of an hour before the open (docs/GUIDE.md)."""
    market = market_of(["regime"], None, [])
    decided_ns = taped_sessions(market)[-1].open_ns - 15 * MINUTE_NS
    assert decided_ns - start_ns(market, None, None) >= 60 * MINUTE_NS
