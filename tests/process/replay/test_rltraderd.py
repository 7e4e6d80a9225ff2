"""`rltraderd` end to end: refusals with exit code 2 that write nothing, bad bars that stop nothing, stops and resumes.

Refusals run in this process through the same `main`; everything that runs a desk is a process of its own.
"""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import daemon as cli
from daemon.journal.journal import FILE
from tests.support.desks.desk_run import (
    FREE_TRADING,
    HEADER,
    chained,
    command,
    environment,
    execute,
    log_of,
    read_models,
    rltraderctl,
    rltraderd,
    summary_of,
    table,
    tape_rows,
    verified,
    write_tape,
)
from tests.support.paths import REPOSITORY

KEYS = {"APCA_API_KEY_ID": "PKPLANTED0KEY0ID", "APCA_API_SECRET_KEY": "planted-secret-0123456789"}
LAST_LINE = (
    "bars", "decisions", "orders", "fills", "denials", "realized_pnl_usd", "equity_usd", "max_drawdown", "wall_s",
    "bars_per_s", "decision_us_p50", "decision_us_p99", "journal_events", "state_digest",
)  # fmt: skip


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(2, 75))


@pytest.fixture(scope="module")
def undisturbed(tape: Path) -> tuple[Path, dict[str, Any]]:
    state = tape.parent / "undisturbed"
    finished = rltraderd("--dry-run", "--bars", tape, "--state-dir", state, cwd=tape.parent)
    assert finished.returncode == 0, finished.stderr
    return state, summary_of(finished)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, free trading, and nothing else in the environment."""
    for name in list(os.environ):
        if name.startswith(("RLTRADER_", "APCA_")):
            monkeypatch.delenv(name)
    for name, value in FREE_TRADING.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The problem that `rltraderd` refuses to start for: exit code 2, JSON on standard error, nothing on output."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = log_of(output.err)
    assert {(line["event"], line["level"]) for line in lines} == {("refused", "error")}
    return "\n".join(line["problem"] for line in lines)


def test_the_store_has_the_option_of_every_other_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "elsewhere/option_scalper is no folder" in refused(capsys, "--dry-run", "--models-dir", "elsewhere")


# --- refusals before anything is written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[risk]\nconfidence_minn = 0.5\n", r"risk\.confidence_minn .*config\.toml.* mean risk\.confidence_min\?"),
        ("[rsk]\nconfidence_min = 0.5\n", r"rsk .*did you mean risk\?"),
        ("[risk]\nconfidence_min = 1.5\n", r"min is 1\.5 \(from .*\.toml\): .*at most 1.*default: 0\.5"),
        ("[sizing]\nmax_contracts = 0\n", r"sizing\.max_contracts is 0 .*at least 1"),
        ("[paper]\ncash_usd = 'much'\n", r'paper\.cash_usd is "much"'),
        ("[desk\n", r"config\.toml: is not valid TOML: .*correct that line"),
        ("[desk]\nstrategy = 'option_scalpel'\n", r"desk\.strategy is .option_scalpel.*nearest: option_scalper"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_with_key_value_and_cure(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config: str, message: str
) -> None:
    monkeypatch.delenv("RLTRADER_PAPER__CASH_USD")
    (here / "config.toml").write_text(config)
    assert re.search(message, refused(capsys, "--dry-run", "--state-dir", here / "state"))
    assert not (here / "state").exists()


def test_several_problems_are_told_one_a_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "config.toml").write_text("[risk]\nconfidence_min = 7\n[sizing]\nstop_loss = 2\n")
    assert len(refused(capsys, "--dry-run", "--state-dir", here / "state").splitlines()) == 2


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({}, ("--bars", "tape.csv"), r"--bars tape\.csv needs --dry-run"),
        ({}, (), r"no broker keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY .*or add --dry-run"),
        ({"APCA_API_KEY_ID": KEYS["APCA_API_KEY_ID"]}, (), r"APCA_API_SECRET_KEY is missing, the other .*: set it"),
        (KEYS, ("--bars", "tape.csv"), r"--bars tape\.csv needs --dry-run: a tape is never traded with a real broker"),
        ({**KEYS, "RLTRADER_DESK__ACCOUNT": "live"}, (), r"trading_url is .*expected api\.alpaca\.markets, because"),
        ({**KEYS, "RLTRADER_CLOCK__RATE": "60"}, (), r"clock\.rate is 60.* simulated time is only for"),
        ({**KEYS, "APCA_API_SECRET_KEY": "two words"}, (), r"environment APCA_API_SECRET_KEY: this is no key"),
        ({**KEYS, "RLTRADER_POLICY__VERSION": "v9"}, (), r"v9"),
        ({**KEYS, "RLTRADER_POLICY__VERSION": "v9"}, ("--dry-run",), r"v9"),
        ({"RLTRADER_RISK__GAP_MINN": "1"}, ("--dry-run",), r"RISK__GAP_MINN .*did you mean RLTRADER_RISK__GAP_MIN\?"),
        ({}, ("--dry-run", "--speed", "0"), r"--speed is '0': expected max, or a number above 0"),
        ({}, ("--dry-run", "--speed", "-5"), r"--speed is '-5'"),
        ({}, ("--dry-run", "--speed", "nan"), r"--speed is 'nan'"),
        ({}, ("--dry-run", "--speed", "inf"), r"--speed is 'inf'"),
        ({}, ("--dry-run", "--speed", "fast"), r"--speed is 'fast'"),
        ({}, ("--dry-run", "--config", "none.toml"), r"none\.toml: no such file: check the path"),
        ({}, ("--dry-run", "--strategy", "scalper"), r"desk\.strategy is .scalper. \(from the command line\)"),
        ({"RLTRADER_PATHS__MODELS_DIR": "nowhere"}, ("--dry-run",), r"nowhere/option_scalper"),
        ({"RLTRADER_POLICY__VERSION": "v9"}, ("--dry-run",), r"v9"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_or_environment_is_refused(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    problem = refused(capsys, *arguments, "--state-dir", here / "state")
    assert re.search(message, problem), problem
    assert not any(secret in problem for secret in KEYS.values())
    assert list(here.iterdir()) == []


ROW = "SPY,1729603800000000000,500,501,499,500,10"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, r"gone\.csv: no such file; .*check the path"),
        ("t.csv", b"", r"t\.csv: the file is empty"),
        ("t.csv", f"{HEADER}\n".encode(), r"t\.csv: the file has a header and no row"),
        ("t.txt", b"x", r"t\.txt: unknown format; expected \.csv, \.csv\.gz or \.parquet"),
        ("t.csv", f"{HEADER.replace(',close', '')}\n{ROW}\n".encode(), r"the column close is missing; found symbol"),
        ("t.csv", f"{HEADER}\nQQQ{ROW[3:]}\n".encode(), r"no row of SPY; found QQQ"),
        ("t.csv", f"{HEADER}\nSPY,2024-10-22T13:30:00,1,1,1,1,1\n".encode(), r"the timestamps have no time zone"),
        ("t.csv", f"{HEADER}\nSPY,1729603800,1,1,1,1,1\n".encode(), r"before 1980 when read as nanoseconds"),
        ("t.csv", f"{HEADER}\n{ROW.replace('1729', '4729')}\n".encode(), r"bars from 2119-.*no session is known"),
        ("t.csv", f"{HEADER}\n{ROW},7,8\n".encode(), r"t\.csv: the file is truncated or malformed"),
        ("t.csv.gz", gzip.compress(f"{HEADER}\n{ROW}\n".encode() * 99)[:-9], r"gzip stream is truncated or damaged"),
        ("t.parquet", b"PAR1 and then nothing", r"t\.parquet: the file is truncated or malformed"),
    ],
)
def test_a_tape_that_cannot_be_used_is_refused_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (here / name).write_bytes(content)
    for check in ((), ("--check",)):
        problem = refused(capsys, "--dry-run", "--bars", here / name, "--state-dir", here / "state", *check)
        assert re.search(message, problem), problem
        assert not (here / "state").exists()


@pytest.mark.parametrize("damage", ["policy.onnx", "manifest.json"])
def test_a_damaged_model_is_refused_and_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    models = shutil.copytree(FREE_TRADING["RLTRADER_PATHS__MODELS_DIR"], here / "models")
    monkeypatch.setenv("RLTRADER_PATHS__MODELS_DIR", str(models))
    file = models / "option_scalper" / "fixture" / damage
    file.write_bytes(file.read_bytes()[:-5])
    assert "fixture" in refused(capsys, "--dry-run", "--state-dir", here / "state")
    assert not (here / "state").exists()


# --- refusals of a state directory that has another owner ---------------------------------------------------------


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE meta SET value = 'live' WHERE key = 'mode'", r"made with mode live, now replay is asked for"),
        ("UPDATE meta SET value = 'live' WHERE key = 'account'", r"made with account live, now paper is asked for"),
        ("UPDATE meta SET value = 'other' WHERE key = 'strategy'", r"made with strategy other, now option_scalper"),
        ("UPDATE meta SET value = 'cafe' WHERE key = 'tape_sha256'", r"made with tape tape\.csv \(cafe\), now"),
        (
            "UPDATE meta SET value = '3' WHERE key = 'schema'",
            r"written by a newer version \(schema 3, this one reads 1 and 2\)",
        ),
        ("UPDATE events SET payload = payload || ' ' WHERE id = (SELECT max(id) FROM events)", ""),
    ],
)
def test_a_state_directory_of_another_owner_is_refused_and_stays_as_it_was(
    here: Path, tape: Path, undisturbed: tuple[Path, Any], capsys: pytest.CaptureFixture[str], sql: str, message: str
) -> None:
    state = Path(shutil.copytree(undisturbed[0], here / "state"))
    execute(state, sql)
    if not message:  # a damaged event behind the newest snapshot
        execute(state, "DELETE FROM snapshots WHERE event_id = (SELECT max(event_id) FROM snapshots)")
        message = r"damaged at event row \d+ \(\w+\); run rltraderctl verify"
    before = content(state)
    problem = refused(capsys, "--dry-run", "--bars", tape, "--state-dir", state)
    assert re.search(message, problem), problem
    assert content(state)[FILE] == before[FILE]


def test_another_tape_of_the_same_name_is_refused(
    here: Path, undisturbed: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_tape(here / "tape.csv", tape_rows(2, 74))
    before = content(undisturbed[0])
    problem = refused(capsys, "--dry-run", "--bars", other, "--state-dir", undisturbed[0])
    assert re.search(r"resume with the tape it was made from, or use another --state-dir", problem)
    assert content(undisturbed[0]) == before


def test_a_file_that_is_no_journal_is_refused(here: Path, tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "state").mkdir()
    (here / "state" / FILE).write_text("no database\n" * 100)
    problem = refused(capsys, "--dry-run", "--bars", tape, "--state-dir", here / "state")
    assert re.search(r"journal\.sqlite: not a journal or damaged: .*fresh --state-dir", problem)


def test_a_read_only_state_directory_is_refused_and_stays_empty(tmp_path: Path, tape: Path) -> None:
    without: list[str] = []
    if os.geteuid() == 0:  # root writes anywhere, unless it gives that right up
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("needs setpriv to give up root's right to write anywhere")
        without = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    for name, mode in (("made", 0o500), ("parent", 0o500)):
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(mode)
        state = folder if name == "made" else folder / "state"
        finished = subprocess.run(
            [*without, *command("daemon", "--dry-run", "--bars", tape, "--state-dir", state)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 2, finished.stderr
        problem = log_of(finished.stderr)[-1]["problem"]
        assert problem == f"{state}: cannot use this state directory: Permission denied; check owner and disk"
        assert list(folder.iterdir()) == []
        folder.chmod(0o700)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_the_last_line_of_output_is_one_json_object(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    state, summary = undisturbed
    assert set(LAST_LINE) <= set(summary)
    assert summary["bars"] == 3 * 86 + 2 * 75
    assert summary["orders"] == len(table(state, "orders")) > 0
    assert summary["fills"] == len(table(state, "fills")) > 0
    assert summary["partial_fills"] > 0
    assert summary["journal_events"] == len(chained(state))
    assert summary["decisions"] == sum(1 for row in chained(state) if row[2] == "PolicyAnswered")
    assert verified(state).difference == ""


def test_bad_bars_are_rejected_counted_and_journaled_and_the_run_goes_on(tmp_path: Path) -> None:
    rows = tape_rows(2, 60)
    good = rows[-30].split(",")

    def bad(**values: str) -> str:
        names = HEADER.split(",")
        return ",".join(values.get(name, value) for name, value in zip(names, good, strict=True))

    spoilt = [
        bad(close="nan"),
        bad(open="inf"),
        bad(low="0"),
        bad(open="-1"),
        bad(high="1"),
        bad(volume="-5"),
        bad(timestamp=str(int(good[1]) + 7)),
        rows[-31],  # the tape is at this bar already
        rows[-40],
        "QQQ" + rows[-30][3:],
    ]
    rows[-30:-30] = spoilt
    path = write_tape(tmp_path / "tape.csv", rows)
    finished = rltraderd("--dry-run", "--bars", path, "--state-dir", tmp_path / "state", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    summary = summary_of(finished)
    assert summary["bars"] == len(rows) - len(spoilt)
    assert summary["bars_rejected"] == 9
    (left_out,) = [line for line in log_of(finished.stderr) if line["event"] == "rows_left_out"]
    assert left_out["other_symbols"] == 1
    assert sum(left_out["rejected"].values()) == 9
    assert {"not_finite", "not_positive", "high_below_low", "negative_volume", "off_grid", "out_of_order"} <= set(
        left_out["rejected"]
    )
    journaled = [json.loads(row[3]) for row in chained(tmp_path / "state") if row[2] == "BarRejected"]
    assert [event["reason"] for event in journaled].count("not_finite") == 2
    assert not re.search(
        r"\b(nan|inf)\b", "".join(row[3] for row in chained(tmp_path / "state") if row[2] == "BarClosed")
    )
    assert verified(tmp_path / "state").difference == ""


def test_without_a_tape_the_bundled_synthetic_one_is_named_as_synthetic(here: Path) -> None:
    finished = rltraderd("--dry-run", "--check", "--state-dir", here / "state", cwd=here)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"synthetic +yes: the bars are made up", finished.stdout)
    assert re.search(r"limits +from default: .*risk.stale_bar_s 90,", finished.stdout)
    assert json.loads(finished.stdout.splitlines()[-1]) == {"check": "ok"}
    assert list(here.iterdir()) == []


def test_a_check_of_a_tape_that_no_decision_can_come_of_says_so(here: Path) -> None:
    (here / "t.csv").write_text(f"{HEADER}\n{ROW}\n")
    finished = rltraderd("--dry-run", "--check", "--bars", here / "t.csv", "--state-dir", here / "state", cwd=here)
    assert finished.returncode == 0, finished.stderr
    short = r"too short +warn: the tape has 1 bars of a symbol, and option_scalper looks back on [0-9]+: its first"
    assert re.search(short, finished.stdout, re.IGNORECASE)


def log_until(process: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    """Read the log up to the first line of this event."""
    assert process.stderr is not None
    lines = []
    for text in process.stderr:
        lines.append(json.loads(text))
        if lines[-1]["event"] == event:
            return lines
    raise AssertionError(f"{event} never came: {lines}")


@pytest.fixture
def slow(tape: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A daemon that replays at 600 times real time: ten bars a second, an hour and a half for the whole tape."""
    process = subprocess.Popen(
        command("daemon", "--dry-run", "--bars", tape, "--state-dir", tmp_path / "state", "--speed", "600"),
        cwd=tmp_path,
        env=environment(RLTRADER_JOURNAL__GROUP_EVENTS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log_until(process, "session_started")
    yield process
    process.kill()
    process.communicate()


def test_speed_waits_for_each_bar_and_sigterm_stops_cleanly_and_resumes_to_the_same_end(
    slow: subprocess.Popen[str], tape: Path, tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    began = time.monotonic()
    state = tmp_path / "state"
    while len(table(state, "events")) < 30:
        time.sleep(0.05)
    slow.send_signal(signal.SIGTERM)
    out, err = slow.communicate(timeout=300)
    elapsed_s = time.monotonic() - began
    assert slow.returncode == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["stopped_by"] == "SIGTERM"
    assert 0 < summary["bars"] < undisturbed[1]["bars"]
    assert summary["bars"] <= 10 * (elapsed_s + 1)  # never early
    assert [line["event"] for line in log_of(err)][-4:] == ["stopping", "rows_left_out", "chain_head", "run_ended"]
    assert table(state, "snapshots")[-1][6] == summary["state_digest"]
    finished = rltraderd("--dry-run", "--bars", tape, "--state-dir", state, cwd=tmp_path)
    resumed = summary_of(finished)
    assert resumed["state_digest"] == undisturbed[1]["state_digest"]
    assert read_models(state) == read_models(undisturbed[0])
    assert verified(state).difference == ""


def test_beside_a_running_daemon_a_check_refuses_a_second_and_all_reading_commands_work(
    slow: subprocess.Popen[str], tape: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    second = rltraderd("--dry-run", "--bars", tape, "--state-dir", state, "--check", cwd=tmp_path)
    assert second.returncode == 2
    assert f"process {slow.pid}" in log_of(second.stderr)[-1]["problem"]
    status = rltraderctl("status", "--state-dir", state, cwd=tmp_path)
    assert f"runs as process {slow.pid}" in status.stdout
    events = rltraderctl("events", "--state-dir", state, "--limit", "1", "--json", cwd=tmp_path)
    assert json.loads(events.stdout)["seq"] > 0
    check = rltraderctl("verify", "--state-dir", state, cwd=tmp_path)
    assert (check.returncode, check.stdout.split(":")[0]) == (0, "identical")
    halt = rltraderctl("halt", "--state-dir", state, "--reason", "x", cwd=tmp_path)
    assert halt.returncode == 0
    assert "halted: operator: x (by control/" in halt.stdout
    assert slow.poll() is None


def test_check_prints_what_would_run_and_writes_nothing(
    tmp_path: Path, tape: Path, undisturbed: tuple[Path, Any]
) -> None:
    before = content(undisturbed[0])
    for state, word in ((tmp_path / "state", "new"), (undisturbed[0], "resumes")):
        finished = rltraderd("--dry-run", "--bars", tape, "--state-dir", state, "--check", cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
        lines = finished.stdout.splitlines()
        fields = dict(line.split("  ", 1) for line in lines[:-1])
        assert fields["strategy"].strip() == "option_scalper"
        assert fields["state_dir"].strip() == f"{state}: {word}"
        assert "fixture" in fields["model"]
        assert json.loads(lines[-1]) == {"check": "ok"}
    assert not (tmp_path / "state").exists()
    assert content(undisturbed[0]) == before


def test_planted_keys_appear_in_no_output_log_or_journal_byte(tmp_path: Path, tape: Path) -> None:
    env = environment(**KEYS, RLTRADER_LOG__LEVEL="debug")
    state = tmp_path / "state"
    finished = rltraderd("--dry-run", "--bars", tape, "--state-dir", state, cwd=tmp_path, env=env)
    assert finished.returncode == 0, finished.stderr
    (tmp_path / "config.toml").write_text(f'[desk]\napi_key_id = "{KEYS["APCA_API_KEY_ID"]}"\nnmae = "x"\n')
    failed = rltraderd("--dry-run", "--bars", tape, "--state-dir", state, cwd=tmp_path, env=env)
    assert failed.returncode == 2
    assert "is a secret" in failed.stderr
    everything = [text.encode() for run in (finished, failed) for text in (run.stdout, run.stderr)]
    everything += [file.read_bytes() for file in state.iterdir()]
    for secret in KEYS.values():
        assert not any(secret.encode() in text for text in everything)


def test_on_a_terminal_a_progress_bar_and_a_summary_appear(tmp_path: Path, tape: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("daemon", "--dry-run", "--bars", tape, "--state-dir", tmp_path / "state", "--speed", "40000000"),
        cwd=tmp_path,
        env=environment(TERM="xterm-256color", COLUMNS="140", LINES="40"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    output = b""
    while True:
        ready, _, _ = select.select([master], [], [], 300)
        assert ready, output
        try:
            piece = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        output += piece
    os.close(master)
    assert process.wait() == 0, output
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode(errors="replace"))  # two threads draw
    assert re.search(r"tape\.csv .*\d+/408 bars", text)
    for part in ("decisions", "denials by gate", "realised P&L", "equity", "decisions p50"):
        assert part in text, f"{part} is not in {text[-6000:]}"
    assert "{" not in text, "the line of JSON is for a file or a pipe"
    assert f"rltraderctl decisions --state-dir {tmp_path / 'state'}" in text


def test_a_log_that_nobody_reads_stops_no_run(tmp_path: Path, tape: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    finished = subprocess.run(
        command("daemon", "--dry-run", "--bars", tape, "--state-dir", tmp_path / "state"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        check=False,
    )
    os.close(writing)
    assert finished.returncode in (0, 120)  # 120: Python itself could not flush the log at its end
    assert summary_of(finished)["bars"] == 408


# --- trouble in the middle of a run -------------------------------------------------------------------------------

PLANTED_BUG = """
import sys
from daemon.core.events import BarClosed
from daemon.core.step import Core
made, start_ns = Core.__init__, int(sys.argv.pop(1))
def planting(core, *arguments):
    made(core, *arguments)
    handler = core.handlers[BarClosed]
    def planted(draft, event):
        if event.bar.start_ns == start_ns:
            raise ZeroDivisionError("planted")
        handler(draft, event)
    core.handlers[BarClosed] = planted
Core.__init__ = planting
from daemon.cli.daemon import main
sys.exit(main())
"""


def test_a_bug_ends_with_exit_code_1_once_and_the_second_start_goes_on_halted(tmp_path: Path, tape: Path) -> None:
    arguments = ["--dry-run", "--bars", str(tape), "--state-dir", str(tmp_path / "state")]
    start_ns = tape_rows(2, 75)[300].split(",")[1]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PLANTED_BUG, start_ns, *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    first = run()
    assert first.returncode == 1, first.stderr
    assert first.stdout == ""
    assert log_of(first.stderr)[-1]["event"] == "step_failed"
    assert "BarClosed at" in log_of(first.stderr)[-1]["problem"]
    assert table(tmp_path / "state", "events")[-1][5] == '{"raised":"ZeroDivisionError: planted"}'
    second = run()
    assert second.returncode == 0, second.stderr
    assert (summary_of(second)["halted"], summary_of(second)["bars"]) == ("quarantine", 407)
    assert table(tmp_path / "state", "orders") != []
    marked = [row[5] for row in table(tmp_path / "state", "events") if row[5].startswith("{")]
    assert marked == ['{"raised":"ZeroDivisionError: planted"}', '{"quarantined":"ZeroDivisionError: planted"}']
    third = run()
    assert summary_of(third)["state_digest"] == summary_of(second)["state_digest"]
    assert verified(tmp_path / "state").difference == ""
    result = rltraderctl(
        "events", "--state-dir", tmp_path / "state", "--kind", "BarClosed", "--limit", "500", cwd=tmp_path
    )
    assert "raised: ZeroDivisionError: planted" in result.stdout
    assert "quarantined: ZeroDivisionError: planted" in result.stdout


def test_a_file_that_may_not_grow_ends_with_exit_code_1_and_an_intact_journal(
    tmp_path: Path, tape: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    arguments = ("--dry-run", "--bars", tape, "--state-dir", tmp_path / "state")
    env = environment(RLTRADER_JOURNAL__GROUP_EVENTS="16", RLTRADER_JOURNAL__BALLAST_MIB="1")
    limit = 400 * 1024
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ballast").write_bytes(bytes(2**20))  # from an earlier run; giving it up does not help here
    failed = subprocess.run(
        command("daemon", *arguments), cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert failed.returncode == 1, failed.stderr
    assert failed.stdout == ""
    last = log_of(failed.stderr)[-1]
    assert last["event"] == "journal_failed"
    assert (
        "what was committed is intact; make room or mend the disk or the owner of its files, then start again"
        in last["problem"]
    )
    state = tmp_path / "state"
    rows = chained(state)
    assert 0 < len(rows) < len(chained(undisturbed[0]))
    assert verified(state).difference == ""
    finished = rltraderd(*arguments, cwd=tmp_path)
    assert summary_of(finished)["state_digest"] == undisturbed[1]["state_digest"]
    assert chained(state) == chained(undisturbed[0])


def test_a_full_disk_takes_the_ballast_halts_and_resumes_halted_when_there_is_room(tmp_path: Path, tape: Path) -> None:
    unshare = shutil.which("unshare")
    namespace = [unshare or "unshare", "-m" if os.geteuid() == 0 else "-rm"]
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=2500k tmpfs {disk}"
    if unshare is None or subprocess.run([*namespace, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare and the right to mount a small tmpfs")
    run = " ".join(command("daemon", "--dry-run", "--bars", tape, "--state-dir", disk / "state"))
    script = f"""
        {mount}
        {run} >first.out 2>first.err; echo $? >first.rc
        ls {disk}/state >first.ls
        mount -o remount,size=64m {disk}
        {run} >second.out 2>second.err; echo $? >second.rc
        cp -r {disk}/state {tmp_path}/state
    """
    env = environment(RLTRADER_JOURNAL__GROUP_EVENTS="16")
    subprocess.run([*namespace, "sh", "-c", script], cwd=tmp_path, env=env, check=True, timeout=120)

    def read(name: str) -> str:
        return (tmp_path / name).read_text()

    assert read("first.rc").strip() == "1", read("first.err")
    assert "ballast" not in read("first.ls")
    first = json.loads(read("first.out").splitlines()[-1])
    assert (first["stopped_by"], first["bars"] < 408) == ("disk_full", True)
    halts = [line for line in log_of(read("first.err")) if line["event"] == "halted"]
    assert "disk_full" in {line["reason"] for line in halts}
    second = json.loads(read("second.out").splitlines()[-1])
    assert read("second.rc").strip() == "0", read("second.err")
    assert (second["bars"], second["halted"]) == (408, "disk_full")
    state = tmp_path / "state"
    assert (state / "ballast").stat().st_size == 1024 * 1024
    halts = [json.loads(row[3]) for row in chained(state) if row[2] == "HaltRequested"]
    assert {halt["reason"] for halt in halts} == {"disk_full"}
    assert verified(state).difference == ""


def test_the_command_line_is_installed_as_a_program() -> None:
    assert 'rltraderd = "rltrader:main"' in (REPOSITORY / "pyproject.toml").read_text()


def test_a_resume_with_other_trading_rules_says_which_tables_changed(tmp_path: Path, tape: Path) -> None:
    arguments = ("--dry-run", "--bars", tape, "--state-dir", tmp_path / "state")
    assert "rules_changed" not in {line["event"] for line in log_of(rltraderd(*arguments, cwd=tmp_path).stderr)}
    resumed = rltraderd(*arguments, cwd=tmp_path, env=environment(RLTRADER_RISK__CONFIDENCE_MIN="0.7"))
    (entry,) = [line for line in log_of(resumed.stderr) if line["event"] == "rules_changed"]
    assert entry["tables"] == ["risk"]
