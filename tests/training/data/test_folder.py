"""The folder of bars: taken in, fetched, read by span, with digests; and what it refuses.

Expected values: the bars that a file or the server was given, and the exchange's calendar as printed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import resource
import shlex
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from daemon.cli import daemon
from daemon.tapes.bars import open_bars, origin_of
from daemon.tapes.files import TapeError
from rltrader import module_command
from simulator.server import RunningServer
from strategies.kit.contract import Bar
from tests.support.desks.desk_run import rltraderd, summary_of
from tests.support.training.bar_folders import bars_file, data, digest, keys_of_environment, read, span
from tests.support.training.recorded_alpaca import (
    DATES,
    SESSIONS,
    Passing,
    alpaca,
    minutes,
    requested_dates,
    requests_so_far,
    session_of,
    spy,
)
from training.cli import train
from training.cli.options import with_span
from training.runs.prepared import loaded
from training.runs.settings import trading_of

FIRST, LAST = DATES[0], DATES[5]  # six sessions of June and July, a half day among them


def qqq() -> list[Bar]:
    return [bar for session in SESSIONS for bar in minutes("QQQ", session, 48_000)]


def until(bars: list[Bar], date: str) -> list[Bar]:
    return [bar for bar in bars if bar.start_ns < session_of(date).close_ns]


@dataclass(frozen=True, slots=True)
class Desk:
    """A folder of bars, and what the commands on it wrote to standard error."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *words: object, code: int = 0, clock: Passing | None = None) -> str:
        exit_code = data(self.folder, *words, clock=(clock or Passing()).clock)
        out, err = self.capture.readouterr()
        assert exit_code == code, err
        return out + err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path / "bars", capsys)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """An Alpaca with SPY on all sessions, and its keys in the environment."""
    with alpaca(spy()) as running:
        for name, value in keys_of_environment(running.data_url).items():
            monkeypatch.setenv(name, value)
        yield running


# --- what comes in is what is read ------------------------------------------------------------------------------------


def test_a_file_is_read_back_bar_for_bar_by_time_and_then_by_symbol(desk: Desk, tmp_path: Path) -> None:
    bars = [*spy(), *qqq()]
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", bars))
    by_time = sorted(until(bars, LAST), key=lambda bar: (bar.start_ns, bar.symbol))
    assert read(span(desk.folder, FIRST, LAST, "SPY,QQQ")) == by_time
    assert read(span(desk.folder, "2024-07-03", "2024-07-04")) == list(minutes("SPY", session_of("2024-07-03"), 54_500))


def test_alpaca_s_bars_are_read_back_and_a_second_command_asks_for_nothing(desk: Desk, server: RunningServer) -> None:
    desk.run("add", "SPY", "--from", FIRST, "--to", LAST)
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)
    before = requests_so_far(server)
    assert "1min bars are here already" in desk.run("add", "SPY", "--from", FIRST, "--to", LAST, "--no-actions")
    assert requests_so_far(server) == before


def test_the_list_tells_dates_holes_and_where_bars_are_from(desk: Desk, tmp_path: Path) -> None:
    lacking = [bar for bar in spy(skip=["2024-07-02"]) if bar.start_ns != SESSIONS[0].open_ns]
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", until(lacking, LAST)), "--feed", "sip")
    (row,) = json.loads(desk.run("list", "--json"))
    assert (row["symbol"], row["bars"], row["first"], row["last"]) == ("SPY", "1min", FIRST, LAST)
    assert (row["sessions"], row["rows"], row["holes"], row["missing_bars"]) == (
        5,
        4 * 390 + 210 - 1,
        ["2024-07-02"],
        1,
    )
    assert (row["feed"], row["adjustment"], row["actions_until"]) == ("sip", "raw", "")
    assert row["bytes"] > 0
    assert "1: 2024-07-02" in desk.run("list")


# --- the digest -------------------------------------------------------------------------------------------------------


def test_two_folders_that_were_filled_in_another_order_give_one_digest(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path / "other", desk.capture)
    whole = bars_file(tmp_path / "whole.csv", [*spy(), *qqq()])
    july = bars_file(tmp_path / "july.csv", [bar for bar in spy() if bar.start_ns >= SESSIONS[2].open_ns])
    june = bars_file(tmp_path / "june.csv", [bar for bar in spy() if bar.start_ns < SESSIONS[2].open_ns])
    desk.run("add", "--from-file", whole)
    for file in (july, june, bars_file(tmp_path / "qqq.csv", reversed(qqq()))):
        other.run("add", "--from-file", file)
    one, two = (digest(span(folder, FIRST, LAST, "SPY,QQQ")) for folder in (desk.folder, other.folder))
    assert one == two
    assert len({one, *(digest(span(desk.folder, FIRST, LAST, symbol)) for symbol in ("SPY", "QQQ"))}) == 3
    assert digest(span(desk.folder, FIRST, "2024-07-03")) != digest(span(desk.folder, FIRST, LAST))


def test_one_changed_bar_changes_the_digest_and_later_months_do_not(desk: Desk, tmp_path: Path) -> None:
    bars = until(spy(), "2024-07-02")
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", bars))
    before = digest(span(desk.folder, FIRST, "2024-07-01"))
    desk.run("add", "--from-file", bars_file(tmp_path / "more.csv", spy()))
    assert digest(span(desk.folder, FIRST, "2024-07-01")) == before
    bars[100] = msgspec.structs.replace(bars[100], volume=bars[100].volume + 1)
    other_file = bars_file(tmp_path / "changed.csv", bars)
    assert f"its bars of SPY on {FIRST} are not those of" in desk.run("add", "--from-file", other_file, code=2)
    assert digest(span(desk.folder, FIRST, "2024-07-01")) == before
    desk.run("add", "--from-file", other_file, "--again")
    assert digest(span(desk.folder, FIRST, "2024-07-01")) != before


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_hole_is_named_with_its_dates_and_the_command_that_mends_it(desk: Desk, server: RunningServer) -> None:
    desk.run("add", "SPY", "--from", FIRST, "--to", "2024-06-27")
    desk.run("add", "SPY", "--from", "2024-07-02", "--to", LAST)
    with pytest.raises(TapeError, match=r"no 1min bar in 2 of 6 sessions: 2024-06-28, 2024-07-01: ") as refused:
        read(span(desk.folder, FIRST, LAST))
    (cure,) = re.findall(r"rltrader data (.*) --data-dir", str(refused.value))
    assert cure == "add SPY --bars 1min --from 2024-06-28 --to 2024-07-01"
    desk.run(*shlex.split(cure))
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)


def test_a_session_that_the_source_does_not_have_is_a_hole_that_a_word_allows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with alpaca(spy(skip=["2024-07-02"])) as running:
        for name, value in keys_of_environment(running.data_url).items():
            monkeypatch.setenv(name, value)
        desk.run("add", "SPY", "--from", FIRST, "--to", LAST)
    with pytest.raises(TapeError, match=r"2024-07-02: .* --again .*had no bar on 2024-07-02: --allow-holes goes on"):
        read(span(desk.folder, FIRST, LAST))
    allowed = span(desk.folder, FIRST, LAST)
    assert read(allowed.with_name(allowed.name.replace(".span", "_holes.span"))) == until(spy(["2024-07-02"]), LAST)


def test_before_its_first_bar_a_share_was_not_listed_and_that_is_no_hole(desk: Desk, tmp_path: Path) -> None:
    listed = [bar for bar in qqq() if bar.start_ns >= session_of("2024-07-01").open_ns]
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", until([*spy(), *listed], LAST)))
    assert len(read(span(desk.folder, FIRST, LAST, "SPY,QQQ"))) == 5 * 390 + 210 + 3 * 390 + 210
    with pytest.raises(TapeError, match="there is no 1min bar of QQQ in these dates"):
        read(span(desk.folder, FIRST, "2024-06-28", "SPY,QQQ"))


def test_two_feeds_are_never_mixed(desk: Desk, server: RunningServer, tmp_path: Path) -> None:
    desk.run("add", "SPY", "--from", FIRST, "--to", LAST)
    refused = desk.run("add", "SPY", "--from", FIRST, "--to", LAST, "--feed", "iex", code=2)
    assert "the 1min bars of SPY have the feed 'sip', these have 'iex': bars of two are never mixed" in refused
    desk.run("add", "--from-file", bars_file(tmp_path / "q.csv", qqq()), "--feed", "iex")
    with pytest.raises(TapeError, match=r"the feed differs \(QQQ iex, SPY sip\)"):
        read(span(desk.folder, FIRST, LAST, "SPY,QQQ"))


@pytest.mark.parametrize("name", ["2024-06-*.parquet", "index.json"])
def test_a_file_that_was_edited_is_found_by_every_reader(desk: Desk, tmp_path: Path, name: str) -> None:
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", until(spy(), LAST)))
    assert "no fault" in desk.run("check")
    (file,) = (desk.folder / "1min" / "SPY").glob(name)
    if name == "index.json":
        file.write_text(file.read_text().replace('"rows": 780', '"rows": 781'))
    else:
        file.write_bytes(file.read_bytes().replace(b"SPY", b"QQQ"))
    with pytest.raises(TapeError, match=re.escape(str(file))):
        read(span(desk.folder, FIRST, LAST))
    assert str(file) in desk.run("check", code=1)


def test_an_index_that_names_a_file_that_is_gone_is_found(desk: Desk, tmp_path: Path) -> None:
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", spy()))
    (file,) = (desk.folder / "1min" / "SPY").glob("2024-06-*.parquet")
    file.unlink()
    with pytest.raises(TapeError, match=r"No such file or directory; the index names it"):
        read(span(desk.folder, FIRST, LAST))
    assert str(file) in desk.run("check", code=1)


def test_what_is_damaged_is_replaced_by_the_command_that_the_refusal_names(desk: Desk, server: RunningServer) -> None:
    desk.run("add", "SPY", "--from", FIRST, "--to", LAST)
    (file,) = (desk.folder / "1min" / "SPY").glob("2024-06-*.parquet")
    file.write_bytes(b"damaged")
    with pytest.raises(TapeError) as refused:
        read(span(desk.folder, FIRST, LAST))
    (cure,) = re.findall(r"rltrader data (.*) --data-dir", str(refused.value))
    desk.run(*shlex.split(cure))
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)
    (desk.folder / "1min" / "SPY" / "index.json").write_text("{}")
    assert "rltrader data remove takes it away" in desk.run("add", "SPY", "--from", FIRST, "--to", LAST, code=2)
    desk.run("remove", "SPY", "--bars", "1min")
    desk.run("add", "SPY", "--from", FIRST, "--to", LAST)
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)


def test_who_began_to_read_goes_on_with_what_it_was(desk: Desk, tmp_path: Path) -> None:
    bars = until(spy(), LAST)
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", bars))
    reader = open_bars(span(desk.folder, FIRST, LAST), ("SPY",))
    before = reader.digest()
    new_bars = [msgspec.structs.replace(bar, volume=1.0) for bar in bars]
    desk.run("add", "--from-file", bars_file(tmp_path / "c.csv", new_bars), "--again")
    assert reader.digest() == before
    assert digest(span(desk.folder, FIRST, LAST)) != before
    assert len(list((desk.folder / "1min" / "SPY").glob("*.parquet"))) == 4
    desk.run("update", "--to", LAST, code=2)  # without keys; it removes what was replaced
    assert len(list((desk.folder / "1min" / "SPY").glob("*.parquet"))) == 2


def test_two_commands_never_write_at_once(desk: Desk, tmp_path: Path) -> None:
    file = bars_file(tmp_path / "b.csv", spy())
    desk.folder.mkdir()
    with (desk.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another command writes into it" in desk.run("add", "--from-file", file, code=2)
    desk.run("add", "--from-file", file)


def test_a_disk_that_is_full_leaves_what_was_there(desk: Desk, tmp_path: Path) -> None:
    june = [bar for bar in spy() if bar.start_ns < SESSIONS[2].open_ns]
    desk.run("add", "--from-file", bars_file(tmp_path / "june.csv", june))
    before = digest(span(desk.folder, FIRST, "2024-06-28"))
    whole = bars_file(tmp_path / "whole.csv", until(spy(), LAST))

    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    words = ("data", "add", "--from-file", whole, "--data-dir", desk.folder)
    command = module_command("training", *words)
    full = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=no_room)
    assert full.returncode == 2
    assert "File too large: what is finished is kept" in full.stderr
    assert digest(span(desk.folder, FIRST, "2024-06-28")) == before
    assert "no fault" in desk.run("check")
    desk.run("add", "--from-file", whole)
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)


def test_adjusted_prices_bad_bars_and_unknown_symbols_do_not_come_in(desk: Desk, tmp_path: Path) -> None:
    bars = spy()
    bars[5] = msgspec.structs.replace(bars[5], low=0.0)
    refused = desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", bars), code=2)
    assert "SPY: the bar of 2024-06-27T13:35:00Z: a price is not above 0" in refused
    assert "no bar of QQQ; found SPY" in desk.run("add", "QQQ", "--from-file", tmp_path / "b.csv", code=2)
    nameless = tmp_path / "nameless.csv"
    nameless.write_text("timestamp,open,high,low,close,volume\n2024-06-27T13:30:00Z,1,1,1,1,100\n")
    assert "it has no column symbol: name its symbol" in desk.run("add", "--from-file", nameless, code=2)
    twice = bars_file(tmp_path / "twice.csv", [*spy(), spy()[0]])
    assert f"comes twice: mend that row of {twice}" in desk.run("add", "--from-file", twice, code=2)
    days = tmp_path / "days.csv"
    days.write_text("symbol,timestamp,open,high,low,close,volume\nSPY,2024-06-27T00:00:00-04:00,1,1,1,1,100\n")
    refused = desk.run("add", "--from-file", days, code=2)  # without --bars 1d
    assert f"{days}: of 1 rows of SPY, none is a 1min bar of regular hours: give the length" in refused
    small = tmp_path / "small.csv"
    small.write_text(days.read_text().replace("SPY", "spy"))
    assert "it has bars of spy: write symbols in capital letters" in desk.run("add", "--from-file", small, code=2)
    assert "no bars" in desk.run("list")


@pytest.mark.parametrize(
    "name",
    ["SPY.span", "SPY_1min_raw_2024-06-27.span", "SPY_2min_raw_2024-06-27_2024-06-28.span",
     "SPY_1min_raw_2024-06-28_2024-06-27.span", "_1min_raw_2024-06-27_2024-06-28.span"],
)  # fmt: skip
def test_a_name_that_is_no_span_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TapeError, match="it names no span; expected FOLDER/SPY,QQQ_1min_raw"):
        read(tmp_path / name)


# --- update -----------------------------------------------------------------------------------------------------------


def at(date: str, minutes_after_close: int) -> Passing:
    return Passing(session_of(date).close_ns + minutes_after_close * 60_000_000_000)


def test_an_update_appends_what_is_over_and_nothing_else(desk: Desk, server: RunningServer) -> None:
    desk.run("add", "SPY", "--from", FIRST, clock=at("2024-06-27", 60))
    assert read(span(desk.folder, FIRST, FIRST)) == until(spy(), FIRST)
    before = requests_so_far(server)
    desk.run("update", clock=at("2024-07-02", -30))  # that session still runs
    assert requested_dates(server, before)[:2] == ["2024-06-28", "2024-07-01"]
    (row,) = json.loads(desk.run("list", "--json"))
    assert row["last"] == "2024-07-01"
    desk.run("update", clock=at("2024-07-05", 60))
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)


def test_an_update_that_was_interrupted_goes_on(desk: Desk, server: RunningServer) -> None:
    desk.run("add", "SPY", "--from", FIRST, "--to", "2024-06-27")
    server.call(server.server.requests.clear)
    index = desk.folder / "1min" / "SPY" / "index.json"
    words = ["data", "update", "--data-dir", desk.folder, "--to", LAST, "--calls-per-minute", "1"]
    process = subprocess.Popen(module_command("training", *words), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # June came; the next call waits a minute
        if "rate limit" in line:
            break
    process.kill()
    process.communicate()
    assert "2024-06-28" in index.read_text()
    before = requests_so_far(server)
    desk.run("update", "--to", LAST)
    assert requested_dates(server, before)[0] == "2024-07-01"
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)
    assert "no fault" in desk.run("check")


def test_an_update_makes_longer_bars_of_the_new_minutes_and_asks_for_splits(desk: Desk, server: RunningServer) -> None:
    desk.run("add", "SPY", "--from", FIRST, "--to", "2024-06-28")
    desk.run("resample", "1d")
    desk.run("update", "--to", LAST)
    assert [bar.volume for bar in read(span(desk.folder, FIRST, LAST, bars="1d"))] == [
        float(sum(range(1000, 1000 + count))) for count in (390, 390, 390, 390, 210, 390)
    ]
    assert (
        len(read(span(desk.folder, FIRST, LAST, adjustment="all"))) == 5 * 390 + 210
    )  # there was none, and it is known
    assert {row["actions_until"] for row in json.loads(desk.run("list", "--json"))} == {LAST}
    assert "no fault" in desk.run("check")


def test_bars_of_a_file_are_not_updated_and_that_is_told(desk: Desk, server: RunningServer, tmp_path: Path) -> None:
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", until(spy(), "2024-07-02")))
    assert "not updated: SPY 1min, of files" in desk.run("update", "--to", LAST)
    assert requests_so_far(server) == 0


def test_of_bars_that_came_with_others_of_unknown_origin_nobody_says_where_they_are_from(
    desk: Desk, server: RunningServer, tmp_path: Path
) -> None:
    june = bars_file(tmp_path / "june.csv", until(spy(), "2024-06-27"))
    desk.run("add", "--from-file", june, "--feed", "sip")
    desk.run("add", "SPY", "--from", "2024-06-28", "--to", "2024-07-01")
    whole = span(desk.folder, FIRST, "2024-07-01")
    assert (origin_of(whole), read(whole)) == ("", until(spy(), "2024-07-01"))
    desk.run("update", "--to", LAST)
    assert read(span(desk.folder, FIRST, LAST)) == until(spy(), LAST)
    other = Desk(tmp_path / "other", desk.capture)
    other.run("add", "SPY", "--from", FIRST, "--to", "2024-07-01")
    assert origin_of(span(other.folder, FIRST, "2024-07-01")) == "Alpaca /v2/stocks/bars"


def test_a_symbol_that_alpaca_does_not_have_leaves_nothing_behind(desk: Desk, server: RunningServer) -> None:
    assert f"no bar of SPZ from {FIRST} to {LAST} on feed sip" in desk.run(
        "add", "SPZ", "--from", FIRST, "--to", LAST, code=2
    )
    assert "no bars" in desk.run("list")


def test_what_is_removed_is_gone(desk: Desk, tmp_path: Path) -> None:
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", [*spy(), *qqq()]))
    desk.run("remove", "QQQ", "--bars", "1min")
    assert [row["symbol"] for row in json.loads(desk.run("list", "--json"))] == ["SPY"]
    assert "there are no 1min bars of QQQ" in desk.run("remove", "QQQ", "--bars", "1min", code=2)


def test_a_command_that_writes_leaves_files_of_others_alone(desk: Desk, tmp_path: Path) -> None:
    foreign_files = [
        desk.folder / name for name in ("mine/results/run.parquet", "mine/results/.a.part", "1min/SPY/own.parquet")
    ]
    for path in foreign_files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of another program")
    leftovers = [desk.folder / "1min/QQQ" / name for name in ("2024-06-0123456789ab.parquet", ".index.json.17.part")]
    leftovers[0].parent.mkdir()
    for path in leftovers:
        path.write_text("of a command that was killed before its first index")
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", spy()))
    assert [path for path in foreign_files + leftovers if path.exists()] == foreign_files


@pytest.mark.parametrize("name", ["..", ".", "SPY/..", "/"])
def test_what_is_no_symbol_removes_nothing(desk: Desk, tmp_path: Path, name: str) -> None:
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", spy()))
    before = sorted(desk.folder.rglob("*"))
    name = name if name != "/" else str(desk.folder / "1min")
    assert f"there are no 1min bars of {name}" in desk.run("remove", name, "--bars", "1min", code=2)
    assert sorted(desk.folder.rglob("*")) == before


# --- who reads it -----------------------------------------------------------------------------------------------------


def test_the_dry_run_reads_a_span_and_its_journal_has_the_span_s_digest(desk: Desk, tmp_path: Path) -> None:
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", until(spy(), LAST)), "--feed", "sip")
    words = ("--dry-run", "--bars", desk.folder, "--symbols", "SPY", "--from", FIRST, "--to", "2024-07-03")
    state = tmp_path / "state"
    finished = rltraderd(*words, "--state-dir", state, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (summary_of(finished)["bars"], summary_of(finished)["tape"]) == (
        4 * 390 + 210,
        "SPY_1min_raw_2024-06-27_2024-07-03.span",
    )
    with contextlib.closing(sqlite3.connect(state / "journal.sqlite")) as journal:
        meta = dict(journal.execute("select key, value from meta"))
    assert meta["tape_sha256"] == digest(span(desk.folder, FIRST, "2024-07-03"))
    options = ("--bars", bars_file(tmp_path / "f.csv", until(spy(), "2024-07-03")), "--state-dir", tmp_path / "other")
    file = rltraderd("--dry-run", *options, cwd=tmp_path)
    assert summary_of(file)["decisions"] == summary_of(finished)["decisions"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--bars", "{folder}", "--from", FIRST), "--from needs --to too: New York dates"),
        (
            ("--bars", "{folder}", "--from", "2024-06-28", "--to", "2024-01-02"),
            "--from 2024-06-28 is after --to 2024-01-02: exchange them",
        ),
        (("--bars", "{folder}"), "a folder; expected a tape of bars: .* a folder of bars needs --from and --to"),
        (
            ("--bars", "{file}", "--from", FIRST, "--to", LAST),
            "--from goes with a folder of bars, and --bars .* is a file",
        ),
        (
            ("--bars", "{folder}", "--from", "2024-07-33", "--to", LAST),
            "--from 2024-07-33 is no date: expected YYYY-MM-DD, such as 2024-01-02",
        ),
        (
            ("--bars", "{folder}/none", "--from", FIRST, "--to", LAST),
            "no such folder of bars: make it with rltrader data",
        ),
        (("--bars", "{folder}", "--from", FIRST, "--to", LAST, "--symbols", "QQQ"), "there are no 1min bars of QQQ"),
        (("--symbols", "SPY"), "--symbols SPY goes with --from and --to"),
    ],
)
def test_a_command_line_that_names_no_span_gets_one_line(
    desk: Desk, tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    file = bars_file(tmp_path / "b.csv", until(spy(), LAST))
    desk.run("add", "--from-file", file)
    arguments = [word.format(folder=desk.folder, file=file) for word in words]
    assert daemon.main(["--dry-run", "--state-dir", str(tmp_path / "s"), *arguments]) == 2
    assert re.search(complaint, desk.capture.readouterr().err)


def test_training_reads_the_span_of_its_strategy_and_knows_its_feed(desk: Desk, tmp_path: Path) -> None:
    desk.run("add", "--from-file", bars_file(tmp_path / "b.csv", until(spy(), LAST)), "--feed", "iex")
    words = ["--strategy", "option_scalper", "--bars", str(desk.folder), "--from", FIRST, "--to", LAST]
    options = train.parser().parse_args(words)
    settings = with_span(train.settings_from(options), options)
    assert (settings.bars, settings.feed) == (span(desk.folder, FIRST, LAST), "iex")
    assert f"--bars {span(desk.folder, FIRST, LAST).name} " in settings.command()
    assert loaded(settings, trading_of("option_scalper", None)).info.sha256 == digest(settings.bars)
