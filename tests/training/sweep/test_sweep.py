"""A policy under many rules: each cell is a dry run, all are judged together, and the ledger counts each cell once."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from daemon.cli import daemon
from daemon.core.session import new_york_text
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.trades import Wanted, read_trades
from strategies.kit.manifest import decode, encode
from strategies.kit.synthetic import synthetic_sessions
from tests.support.paths import REPOSITORY
from tests.support.training.made_up import sessions, write_csv
from training.cli.main import main
from training.export.shelf import VersionError, read_version
from training.rl.pool import Stopped
from training.runs.ledger import Ledger, ledger_path
from training.studies.grid import GridCell, Swept, axis_of
from training.studies.sweep import SweepRequest, run_sweep, sessions_of

NAME = "option_scalper"
NO_ENTRY, COMMISSION = "risk.no_entry_after_open_min", "paper.commission_usd"


@pytest.fixture(scope="module")
def sweep_request(tmp_path_factory: pytest.TempPathFactory) -> SweepRequest:
    """Entries at all times or never, with and without a commission, for the policy that trades all day."""
    home = tmp_path_factory.mktemp("sweep")
    shutil.copytree(REPOSITORY / "tests/fixture_policy/onnx_models" / NAME, home / "store" / NAME)
    bars = write_csv(home / "walk.csv", synthetic_sessions(3, sessions(27)))
    axes = (axis_of(f"{NO_ENTRY}=0,390"), axis_of(f"{COMMISSION}=0,3"))
    return SweepRequest(
        NAME, bars, home / "store", axes, first="2024-06-26", processes=1, together=2, folder=home / "out"
    )


@pytest.fixture(scope="module")
def swept(sweep_request: SweepRequest) -> Swept:
    """The sweep, which was stopped after its second cell and given again."""
    flag, cells = threading.Event(), list[GridCell]()

    def stop(news: object) -> None:
        if isinstance(news, GridCell):
            cells.append(news)
            if len(cells) == 2:
                flag.set()

    with pytest.raises(Stopped):
        run_sweep(sweep_request, stop, flag)
    later: list[object] = []
    result, _ = run_sweep(sweep_request, later.append)
    assert sum(isinstance(news, GridCell) for news in later) == 3  # of five: one as configured, four cells
    return result


def test_each_cell_is_played_by_its_own_rules(swept: Swept) -> None:
    cells = {(cell.rules[NO_ENTRY], cell.rules[COMMISSION]): cell for cell in swept.cells}
    assert list(cells) == [(0, "0"), (0, "3"), (390, "0"), (390, "3")]
    assert (swept.sessions, swept.seen) == (2, 0)
    free, costly = cells[0, "0"], cells[0, "3"]
    assert free.returns == swept.configured.returns  # these are the defaults
    assert free.trades == swept.configured.trades > 0
    assert costly.net_return < free.net_return
    for never in (cells[390, "0"], cells[390, "3"]):
        assert (never.trades, never.returns) == (0, (0.0, 0.0))
        assert never.denials["near_open"] > 0


def test_a_sweep_and_a_dry_run_of_one_span_close_the_same_trades(
    sweep_request: SweepRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over sessions in which losses in a row, a daily loss and a drawdown end the trading, also beyond a session."""
    bars = write_csv(tmp_path / "walk.csv", synthetic_sessions(3, sessions(30)))
    axes = (axis_of(f"{COMMISSION}=0.65,3"),)
    store = shutil.copytree(sweep_request.store, tmp_path / "store")  # whose ledger gets lines
    cells = replace(sweep_request, bars=bars, store=store, axes=axes, first="2000-01-01", folder=tmp_path / "out")
    swept, _ = run_sweep(cells, lambda _: None)
    state = tmp_path / "state"
    line = ["--dry-run", "--bars", str(bars), "--state-dir", str(state), "--models-dir", str(store)]
    capsys.readouterr()
    assert daemon.main(line) == 0
    dry = json.loads(capsys.readouterr().out.splitlines()[-1])
    with closing(JournalReader(state / FILE)) as reader:
        close_dates = [
            new_york_text(t.left_ns)[:10] for t in read_trades(reader, Wanted()).trades if t.left_ns is not None
        ]
    assert min(close_dates) == swept.first  # before it no option had a quote
    assert (swept.configured.trades, dry["halted"]) == (len(close_dates), "daily_loss")
    unquoted = dry["denials"].pop("no_quote")  # of the sessions before
    assert (swept.configured.denials, unquoted > 0) == (dry["denials"], True)
    assert {"consecutive_losses", "drawdown", "halted"} <= dry["denials"].keys()
    assert swept.configured.net_return == pytest.approx(dry["equity_usd"] / 10_000 - 1)


def test_cells_after_a_line_that_a_kill_cut_off_are_kept_and_those_of_other_code_are_not(
    sweep_request: SweepRequest, swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep_request.folder is not None
    sweep_request = replace(sweep_request, folder=shutil.copytree(sweep_request.folder, tmp_path / "again"))
    assert sweep_request.folder is not None
    book = sweep_request.folder / "cells.jsonl"
    *whole, last = book.read_bytes().splitlines()
    for torn in range(2):
        book.write_bytes(b"\n".join([*whole[:3], last[:40]]) if not torn else book.read_bytes())
        messages: list[object] = []
        assert run_sweep(sweep_request, messages.append)[0] == swept
        assert sum(isinstance(news, GridCell) for news in messages) == (0 if torn else 2)
    monkeypatch.setattr("training.studies.sweep.code_version", lambda _: "another")
    run_sweep(sweep_request, messages.append)
    assert sum(isinstance(news, GridCell) for news in messages) == 5


def test_all_cells_are_judged_together_and_each_is_counted_once(sweep_request: SweepRequest, swept: Swept) -> None:
    assert (swept.deflated.trials, swept.overfitting.trials) == (4, 4)
    assert swept.overfitting.probability is None  # two sessions are too few
    assert "No configuration was changed." in swept.words
    ledger = Ledger(ledger_path(sweep_request.store, NAME))
    notes = [line.note for line in ledger.read().lines]
    assert [note.partition(": ")[2] for note in notes] == [
        f"{NO_ENTRY} {minutes}, {COMMISSION} {usd}" for minutes in (0, 390) for usd in (0, 3)
    ]
    assert len(ledger.prior([swept.first])[0]) == 4  # what a later deflated Sharpe ratio is deflated by
    assert sweep_request.folder is not None
    page = (sweep_request.folder / "sweep.html").read_text()
    assert "shade-8" in page
    assert "as configured" in page
    content = msgspec.json.decode((sweep_request.folder / "sweep.json").read_bytes(), type=Swept)
    assert content == swept


def test_the_command_prints_the_page_s_path_and_refuses_a_value_out_of_bounds(
    sweep_request: SweepRequest, swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "sweep",
        "--strategy",
        NAME,
        "--bars",
        str(sweep_request.bars),
        "--models-dir",
        str(sweep_request.store),
    ]
    again = [*arguments, "--set", f"{NO_ENTRY}=0,390", "--set", f"{COMMISSION}=0,3", "--first", sweep_request.first]
    assert main([*again, "--out", str(sweep_request.folder), "--processes", "1"]) == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(sweep_request.folder / "sweep.html" if sweep_request.folder else "")
    assert swept.words in output.err
    assert main([*arguments, "--set", "risk.confidence_min=0.5,1.5"]) == 2
    assert "risk.confidence_min" in capsys.readouterr().err


def test_sessions_are_the_policy_s_tests_or_all_after_its_last_one(sweep_request: SweepRequest) -> None:
    version = read_version(sweep_request.store, NAME)
    manifest, days = version.manifest, ["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05"]
    training = msgspec.structs.replace(
        manifest.training, file_sha256="a" * 64, last_session="2024-01-03", splits={"test": (days[1], days[2])}
    )
    manifest = msgspec.structs.replace(manifest, training=training)
    assert sessions_of(days, "a" * 64, manifest) == tuple(days[1:3])
    assert sessions_of(days, "b" * 64, manifest) == tuple(days[2:])
    assert sessions_of(days, "a" * 64, manifest, last=days[0]) == (days[0],)
    with pytest.raises(ValueError, match="no session from 2024-02-01 to the last"):
        sessions_of(days, "a" * 64, manifest, first="2024-02-01")
    with pytest.raises(ValueError, match="--first 2024-01-05 is after --last 2024-01-02: exchange them"):
        sessions_of(days, "a" * 64, manifest, first=days[3], last=days[0])


def test_a_version_whose_graph_was_changed_is_refused(sweep_request: SweepRequest, tmp_path: Path) -> None:
    store = shutil.copytree(sweep_request.store, tmp_path / "store")
    version = read_version(store, NAME)
    with version.policy.open("ab") as graph:
        graph.write(b"\0")
    with pytest.raises(VersionError, match="restore the version's folder"):
        read_version(store, NAME, version.folder.name)
    with pytest.raises(VersionError, match=f"expected one of {version.folder.name}"):
        read_version(store, NAME, "nowhere")


def test_a_version_of_another_strategy_of_this_name_is_not_played(sweep_request: SweepRequest, tmp_path: Path) -> None:
    store = shutil.copytree(sweep_request.store, tmp_path / "store")
    manifest = read_version(store, NAME).folder / "manifest.json"
    other = structs.replace(decode(manifest.read_bytes()), contract_hash="11" * 32)
    manifest.write_bytes(encode(other))
    with pytest.raises(VersionError, match=f"has the contract 1{{12}}, {NAME} has .*: its answers mean something else"):
        run_sweep(replace(sweep_request, store=store, folder=tmp_path / "out"), lambda _: None)
