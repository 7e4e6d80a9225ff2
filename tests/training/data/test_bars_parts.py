"""A download that broke goes on where it broke, and nothing is at --out before it is whole."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.server import RunningServer
from tests.support.desks.desk_run import environment
from tests.support.paths import REPOSITORY
from tests.support.training.recorded_alpaca import (
    AFTER_ALL_NS,
    KEYS,
    MINUTE_NS,
    SPAN,
    Passing,
    alpaca,
    bars_in,
    fetch,
    request_to,
    requested_dates,
    requests_so_far,
    spy,
)
from training.cli.download import download
from training.data.bars_request import DownloadError

# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_refusal_in_the_middle_keeps_the_finished_chunks_and_they_are_not_asked_for_again(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=1, where={"stream": "rest"}, status=403)
        with pytest.raises(DownloadError, match="HTTP 403: forbidden"):
            fetch(server, out, end="2024-08-01")
        assert requested_dates(server) == ["2024-06-27"]
        assert not out.exists()
        so_far = requests_so_far(server)
        summary = fetch(server, out, end="2024-08-01")
        assert requested_dates(server, so_far) == ["2024-07-01", "2024-08-01"]
    assert bars_in(out) == spy()
    assert summary.pages == 3


def test_a_download_that_was_killed_goes_on_with_the_next_chunk(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    arguments = ["--symbols", "spy", "--start", SPAN[0], "--end", SPAN[1], "--out", str(out)]
    program = [sys.executable, "-c", "import sys; from training.cli.download import main; sys.exit(main())", *arguments]
    with alpaca(spy()) as server:
        variables = environment() | {
            "APCA_API_KEY_ID": KEYS.key,
            "APCA_API_SECRET_KEY": KEYS.secret,
            "RLTRADER_ALPACA__DATA_URL": server.data_url,
        }
        server.faults.add("http_hang", after=1, where={"path": "/v2/stocks/bars"}, moment="before", seconds=1)
        killed = subprocess.Popen(program, env=variables, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        assert killed.stderr is not None
        with killed, killed.stderr as stderr:
            first = stderr.readline()
            killed.kill()
        assert "SPY-2024-06-27-2024-06-28: 780 bars in 1 page" in first
        assert not out.exists()
        so_far = requests_so_far(server)
        result = subprocess.run(program, env=variables, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert requested_dates(server, so_far) == ["2024-07-01"]
    assert "no session and no bar of regular hours is missing" in result.stdout
    assert KEYS.secret not in result.stdout + result.stderr + first
    assert len(bars_in(out)) == 5 * 390 + 210


def test_a_damaged_part_is_fetched_again(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=2, where={"stream": "rest"})
        with pytest.raises(DownloadError, match="HTTP 401"):
            fetch(server, out, end="2024-08-01")
        part = out.with_name("bars.parquet.part") / "SPY-2024-06-27-2024-06-28.parquet"
        data = bytearray(part.read_bytes())
        data[200] ^= 0xFF
        part.write_bytes(data)
        so_far = requests_so_far(server)
        fetch(server, out, end="2024-08-01")
        assert requested_dates(server, so_far) == ["2024-06-27", "2024-08-01"]
    assert bars_in(out) == spy()


def test_another_request_with_the_same_out_is_refused_with_what_differs(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=1, where={"stream": "rest"})
        with pytest.raises(DownloadError, match="HTTP 401"):
            fetch(server, out)
        with pytest.raises(DownloadError, match=r"holds parts of another download.*feed was 'sip', now 'iex'"):
            fetch(server, out, feed="iex")
        first = fetch(server, out)
        so_far = requests_so_far(server)
        with pytest.raises(DownloadError, match=r"exists already.*adjustment was 'raw', now 'split'"):
            fetch(server, out, adjustment="split")
        assert fetch(server, out) == first
        assert requests_so_far(server) == so_far
    (tmp_path / "note.parquet").write_text("no bars")
    with pytest.raises(DownloadError, match="another file stands there"):
        fetch(server, tmp_path / "note.parquet")


def test_parts_with_adjusted_prices_are_of_one_day(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=1, where={"stream": "rest"})
        with pytest.raises(DownloadError, match="HTTP 401"):
            fetch(server, out, adjustment="split")
        tomorrow = Passing(AFTER_ALL_NS + 24 * 60 * MINUTE_NS)
        with pytest.raises(DownloadError, match="as_of was '2024-08-30', now '2024-08-31'"):
            download(request_to(server, out, adjustment="split"), KEYS, lambda _: None, tomorrow.clock)


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningServer]:
    """A server with SPY on all sessions, for tests that leave no fault behind."""
    with alpaca(spy()) as server:
        yield server


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_an_out_that_cannot_be_written_is_said_before_anything_is_asked(shared: RunningServer, tmp_path: Path) -> None:
    so_far = requests_so_far(shared)
    with pytest.raises(DownloadError, match=r"missing/bars\.parquet cannot be written \(No such file or directory\)"):
        fetch(shared, tmp_path / "missing" / "bars.parquet")
    assert requests_so_far(shared) == so_far


@pytest.mark.parametrize("file_bytes", [12_000, 35_000], ids=["no part fits", "the parts fit, the whole does not"])
def test_a_full_disk_leaves_nothing_at_out_and_the_next_attempt_goes_on(
    shared: RunningServer, tmp_path: Path, file_bytes: int
) -> None:
    out = tmp_path / "bars.parquet"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))
    try:
        with pytest.raises(DownloadError, match=r"cannot be written \(.*File too large.*make room"):
            fetch(shared, out, end="2024-08-01")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not out.exists()
    names = {path.name for path in out.with_name("bars.parquet.part").glob("SPY-*.parquet")}
    assert len(names) == (0 if file_bytes == 12_000 else 3)
    so_far = requests_so_far(shared)
    assert fetch(shared, out, end="2024-08-01").bars == {"SPY": 6 * 390 + 210}
    assert requests_so_far(shared) - so_far == 3 - len(names)
