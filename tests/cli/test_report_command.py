"""`rltraderctl report` beside a journal: table, page, CSV and JSON, and what it says where it cannot."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from daemon.cli import ctl
from daemon.cli.arguments import JournalConsole, NotFound
from daemon.engine.state_dir import open_state_dir
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from daemon.reports.tables import ORDER_COLUMNS
from tests.support.desks.desk_run import Desk, table, tape_rows, write_tape


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a replay of two sessions; its last one is Tuesday, 29 October 2024 by the tape."""
    folder = tmp_path_factory.mktemp("reported")
    assert Desk(write_tape(folder / "tape.csv", tape_rows(2, 90))).run(folder / "state").failure is None
    return folder / "state"


def report(state_dir: Path, *arguments: str) -> str:
    """Run it; what it printed."""
    options = ctl.parser("report").parse_args(["report", "--state-dir", str(state_dir), *arguments])
    screen = io.StringIO()
    assert options.run(options, Console(file=screen, width=200, highlight=False, markup=False)) == 0
    return screen.getvalue()


def newest(state_dir: Path) -> str:
    reader = JournalReader(state_dir / FILE)
    date = reader.query(
        "SELECT json_extract(payload, '$.session.date') AS date FROM events WHERE kind = 'SessionScheduled' "
        "ORDER BY id DESC LIMIT 1"
    )[0]["date"]
    reader.close()
    return str(date)


def test_it_prints_the_newest_session_and_writes_its_page(state: Path) -> None:
    output = report(state)
    page = state / "reports" / f"{newest(state)}.html"
    assert output.splitlines()[0].startswith("paper-1 · option_scalper · replay, paper account, tape tape.csv · ")
    assert output.splitlines()[1].startswith("On ")
    assert f"page: {page}" in output
    assert page.read_text().startswith("<!doctype html>")
    assert output.splitlines()[1] in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o640


def test_the_csv_and_the_json_have_every_order_of_the_session(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "orders.csv"
    assert (
        report(state, "--json", "--csv", str(place), "--html", str(tmp_path / "x.html"), "--day", newest(state)) == ""
    )
    document = json.loads(capsys.readouterr().out)
    lines = list(csv.DictReader(io.StringIO(place.read_text())))
    assert list(lines[0]) == list(ORDER_COLUMNS)
    assert [line["client_order_id"] for line in lines] == [order["client_order_id"] for order in document["orders"]]
    orders = {row[0]: row for row in table(state, "orders")}
    for line in lines:
        row = orders[line["client_order_id"]]
        assert (line["purpose"], line["status"], int(line["filled"])) == (row[2], row[8], row[9])
        assert Decimal(line["fees_usd"]) == Decimal(row[11])
    assert document["execution"]["orders"] == len(lines) > 0
    assert sum(Decimal(line["slippage_usd"] or 0) for line in lines) == Decimal(document["execution"]["slippage_usd"])
    assert document["ended"] is True


def test_it_reads_beside_a_daemon_that_holds_the_journal(state: Path, tmp_path: Path) -> None:
    reader = JournalReader(state / FILE)
    meta = {key: value for key, value in reader.meta().items() if key not in ("head", "schema", "epoch")}
    epoch = reader.meta()["epoch"]
    reader.close()
    state_dir = open_state_dir(state, meta, epoch)
    try:
        assert report(state, "--html", str(tmp_path / "page.html")).splitlines()[1].startswith("On ")
    finally:
        state_dir.journal.close()
        state_dir.close()


def test_a_day_that_is_not_there_and_a_text_that_is_no_day_are_refused(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JournalError, match="the session of 1999-01-04 is not in the journal"):
        report(state, "--day", "1999-01-04")
    with pytest.raises(SystemExit):
        report(state, "--day", "yesterday")
    assert "'yesterday' is no date; expected YYYY-MM-DD" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_names_the_option_that_helps(state: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"name another place with --html FILE"):
        report(state, "--html", str(tmp_path / "missing" / "page.html"))
    with pytest.raises(NotFound, match=r"name another place with --csv FILE"):
        report(state, "--html", str(tmp_path / "page.html"), "--csv", str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who may only read")
def test_a_state_directory_that_may_only_be_read_is_reported_elsewhere(state: Path) -> None:
    """A process of another user: reads the journal of a folder that it may not write, and says so."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        shutil.copy(state / FILE, place)
        (place / FILE).chmod(0o444)
        child = os.fork()
        if child == 0:  # no test outlives this: the process ends with what it found
            os._exit(_as_nobody(place))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _as_nobody(place: Path) -> int:
    """0 when all was read and only the page found no place."""
    try:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        report(place)
    except NotFound as error:
        return 0 if "name another place with --html FILE" in str(error) else 3
    except JournalError:
        return 4
    return 5


def test_a_folder_without_a_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal here; is this the right --state-dir"):
        report(tmp_path)


def test_what_a_journal_holds_reaches_no_terminal_as_a_control_code(capsys: pytest.CaptureFixture[str]) -> None:
    words, table = "[b]\x1b[31m\u202eno\nnext", Table(box=None, show_header=False, padding=0)
    table.add_row(words)
    console = JournalConsole(80)
    console.print(words)
    console.print(table)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [r"[b]\x1b[31m\u202eno", "next"] * 2
