"""The files of a recording: after a crash, beside a damaged minute, on a full disk, on a slow one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.tapes.files import TapeError
from daemon.tapes.quotes.minute_book import MinuteQuote
from daemon.tapes.quotes.reader import QuoteFile
from daemon.tapes.quotes.recording import MinuteRows, Recording, finish, left_in, write_minute
from strategies.kit.units import MINUTE_NS, SECOND_NS

OPEN_NS = 1_723_728_600 * SECOND_NS  # 2024-08-15, 13:30 UTC
DATE = "2024-08-15"
CALL = "SPY240816C00550000"


def minute(number: int, bid: float = 2.0) -> MinuteRows:
    """The `number`-th minute of the session, of one contract."""
    row = MinuteQuote(CALL, bid, bid + 0.1, 3, None, bid, bid, bid + 0.1, None)
    return MinuteRows(DATE, OPEN_NS + number * MINUTE_NS, 550.5, [row])


def recording(folder: Path, *, free_mib: int = 0, now_ns: Callable[[], int] = time.monotonic_ns) -> Recording:
    return Recording(folder, source="alpaca-opra", synthetic="", free_mib=free_mib, now_ns=now_ns)


def until(reached: Callable[[], object]) -> None:
    ends = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < ends
        time.sleep(0.005)


def rows(folder: Path) -> list[tuple[int, float]]:
    """Minute and bid of each row of the session's file."""
    (quotes,) = QuoteFile(folder / f"{DATE}.parquet").sessions()
    assert quotes.contracts.symbols == (CALL,)
    return [
        ((end - OPEN_NS) // MINUTE_NS, bid)
        for end, bid in zip(quotes.end_ns.tolist(), quotes.bid.tolist(), strict=True)
    ]


def test_a_session_becomes_one_file_of_the_schema(tmp_path: Path) -> None:
    recorder = recording(tmp_path)
    recorder.start()
    recorder.begin(DATE)
    for number in (2, 1):
        recorder.add(minute(number, 2.0 + number / 10))
    recorder.finish(DATE)
    recorder.stop(30)
    summary = recorder.finished.get()
    assert (summary.rows, summary.minutes, summary.damaged, recorder.problem) == (2, 2, 0, "")
    assert rows(tmp_path) == [(1, 2.1), (2, 2.2)]
    assert left_in(tmp_path) == []
    file = QuoteFile(summary.path)
    (quotes,) = file.sessions()
    assert (file.format, file.interval, file.synthetic, quotes.sources) == (
        "alpaca-opra",
        "minute",
        "",
        ("alpaca-opra",),
    )
    assert quotes.sizes.tolist() == [[3, 3], [-1, -1]]
    assert quotes.underlying.tolist() == [550.5, 550.5]
    assert quotes.extremes[:3].tolist() == [[2.1, 2.2], [2.1, 2.2], [2.2, 2.3]]


def test_a_recording_that_was_killed_goes_on_and_a_later_session_finishes_an_earlier_one(tmp_path: Path) -> None:
    write_minute(tmp_path, minute(1))  # by a process that was killed
    (tmp_path / f"{DATE}.part" / "9.parquet.part").write_bytes(b"half a minute")
    again = recording(tmp_path)
    again.start()
    again.begin(DATE)  # the same session goes on
    again.add(minute(2))
    until((tmp_path / f"{DATE}.part" / f"{minute(2).end_ns}.parquet").exists)
    assert not (tmp_path / f"{DATE}.parquet").exists()
    again.begin("2024-08-16")
    again.stop(30)
    assert [number for number, _ in rows(tmp_path)] == [1, 2]


def test_a_finished_file_keeps_its_minutes_when_more_come(tmp_path: Path) -> None:
    for number in (1, 2):
        write_minute(tmp_path, minute(number))
        finish(tmp_path, DATE, source="alpaca-opra", synthetic="")
    write_minute(tmp_path, minute(1, 9.0))  # as after a kill between the file and the removal of its minutes
    finish(tmp_path, DATE, source="alpaca-opra", synthetic="")
    assert rows(tmp_path) == [(1, 2.0), (2, 2.0)]


def flipped(data: bytes) -> bytes:
    """The file with one bit of its first page's values changed, which only the page's checksum shows."""
    return data[:40] + bytes([data[40] ^ 0x40]) + data[41:]


@pytest.mark.parametrize("damage", [lambda _: b"PAR1 torn", flipped])
def test_a_damaged_minute_costs_that_minute(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    for number in (1, 2):
        write_minute(tmp_path, minute(number))
    path = tmp_path / f"{DATE}.part" / f"{minute(1).end_ns}.parquet"
    path.write_bytes(damage(path.read_bytes()))
    summary = finish(tmp_path, DATE, source="alpaca-opra", synthetic="")
    assert summary is not None
    assert (summary.minutes, summary.damaged) == (1, 1)
    assert [number for number, _ in rows(tmp_path)] == [2]


def test_a_flipped_bit_of_a_sessions_file_is_never_read_as_a_price(tmp_path: Path) -> None:
    write_minute(tmp_path, minute(1))
    finish(tmp_path, DATE, source="alpaca-opra", synthetic="")
    path, refused = tmp_path / f"{DATE}.parquet", 0
    whole = path.read_bytes()
    for place in range(4, 400, 9):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            assert rows(tmp_path) == [(1, 2.0)]
        except TapeError as error:
            assert "damaged" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 20


def test_a_session_that_cannot_be_finished_is_reported_and_costs_no_other(tmp_path: Path) -> None:
    write_minute(tmp_path, minute(1))
    path = tmp_path / f"{DATE}.part" / f"{minute(1).end_ns}.parquet"
    path.write_bytes(flipped(path.read_bytes()))
    recorder = recording(tmp_path)
    recorder.start()
    recorder.begin("2024-08-16")
    recorder.add(minute(1441)._replace(date="2024-08-16"))
    recorder.finish("2024-08-16")
    recorder.stop(30)
    assert recorder.unfinished.get().endswith("all 1 files are damaged: remove the folder")
    assert (recorder.problem, recorder.finished.get().path.name) == ("", "2024-08-16.parquet")


def test_a_full_disk_stops_the_recording_until_the_next_session(tmp_path: Path) -> None:
    recorder = recording(tmp_path, free_mib=10**9)
    recorder.start()
    recorder.add(minute(1))
    until(lambda: recorder.problem)
    assert "expected record.free_mib" in recorder.problem
    recorder.begin("2024-08-16")
    assert recorder.problem == ""
    recorder.stop(30)
    assert not (tmp_path / f"{DATE}.parquet").exists()


def test_a_disk_that_hangs_stops_the_recording_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs: list[int] = [1]
    monkeypatch.setattr("daemon.tapes.quotes.recording.write_minute", lambda *_: until(lambda: not hangs))
    now = [1]
    recorder = recording(tmp_path, now_ns=lambda: now[0])
    recorder.start()
    recorder.add(minute(1))
    until(lambda: recorder._oldest_ns)
    now[0] += 59 * SECOND_NS
    recorder.add(minute(2))
    assert recorder.problem == ""
    now[0] += 2 * SECOND_NS
    recorder.add(minute(3))
    assert recorder.problem == "the disk is too slow: 1 minutes wait for it"
    hangs.clear()
    recorder.stop(30)
