"""What the library finds: each run by its folder, whatever was moved, deleted or damaged by hand."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from daemon.engine.state_dir import LOCK_FILE
from daemon.journal.journal import FILE
from daemon.library.compare import compare
from daemon.library.library import LibraryError, chosen_run, course, library_of, look_again, parameters
from daemon.library.listed import course_of, different, dotted_settings
from daemon.library.run_files import Progress, write_progress, write_tags
from strategies.registry import entry
from tests.support.library_runs import dry_run, training


def ids(*places: Path) -> list[str]:
    return [run.id for run in library_of(places).runs]


def test_a_dry_run_is_listed_with_what_its_journal_has(state_dir: Path, tmp_path: Path) -> None:
    dry_run(state_dir, tmp_path / "runs" / "first")
    with closing(sqlite3.connect(state_dir / FILE)) as db:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        (payload,) = db.execute("SELECT payload FROM events WHERE kind = 'RunStarted'").fetchone()
        last, first = (
            db.execute(f"SELECT equity_usd FROM equity ORDER BY time_ns {way} LIMIT 1").fetchone()[0]
            for way in ("DESC", "ASC")
        )
    (run,) = library_of([tmp_path / "runs"]).runs
    assert (run.id, run.kind, run.state, run.strategy) == ("first", "dry run", "finished", "option_scalper")
    assert (run.data, run.data_sha256, run.version) == (meta["tape"], meta["tape_sha256"], "fixture")
    assert run.code == json.loads(payload)["code"]
    assert run.changed["paper.contracts_per_minute"] == "3"
    assert "paper.half_spread" not in run.changed
    assert run.figures is not None
    assert run.figures.share == pytest.approx(float(last) / float(first) - 1.0)
    assert course(run).shares[-1] == pytest.approx(run.figures.share)
    assert parameters(run)["paper.half_spread"] == "0.004"


def test_a_key_that_is_off_by_default_is_a_change_and_another_way_to_write_an_amount_is_none(
    state_dir: Path, tmp_path: Path
) -> None:
    folder = dry_run(state_dir, tmp_path / "trailing")
    (before,) = library_of([tmp_path]).runs
    with closing(sqlite3.connect(folder / FILE)) as db:
        (payload,) = db.execute("SELECT payload FROM events WHERE kind = 'RunStarted'").fetchone()
        fields = json.loads(payload)
        fields["trading"]["sizing"]["trailing_stop"] = 0.2
        fields["trading"]["paper"]["commission_usd"] += "0"
        db.execute("UPDATE events SET payload = ? WHERE kind = 'RunStarted'", (json.dumps(fields),))
        db.commit()
    (run,) = library_of([tmp_path]).runs
    assert run.changed == {**before.changed, "sizing.trailing_stop": "0.2"}


def test_the_model_configuration_that_is_shipped_is_no_change_and_of_another_what_differs_alone_is_one(
    state_dir: Path, tmp_path: Path
) -> None:
    folder = dry_run(state_dir, tmp_path / "dqn")
    usual = json.loads(entry("online_dqn").make().spec.config)

    def changes(strategy: str, symbols: str, config: object) -> set[str]:
        keys = {"strategy": strategy, "symbols": symbols, "model_config": json.dumps(config)}
        with closing(sqlite3.connect(folder / FILE)) as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", keys.items())
            db.commit()
        (run,) = library_of([tmp_path]).runs
        return {f"{key}={value}" for key, value in run.changed.items() if key.startswith("desk.")}

    assert changes("online_dqn", "SPY", usual) == set()
    assert changes("online_dqn", "QQQ", {**usual, "window": 7}) == {"desk.symbols=QQQ", "desk.model_config.window=7"}
    assert changes("own", "", {"fast": 20}) == {"desk.parameters.fast=20"}


def test_a_start_that_was_refused_is_not_when_the_run_began(state_dir: Path, tmp_path: Path) -> None:
    folder = dry_run(state_dir, tmp_path / "first")
    os.utime(folder / FILE, (2_000.0, 2_000.0))
    for lock, began in ((1_000.0, 1_000.0), (3_000.0, 2_000.0)):  # the second one wrote nothing
        (folder / LOCK_FILE).touch()
        os.utime(folder / LOCK_FILE, (lock, lock))
        (run,) = library_of([tmp_path]).runs
        assert (run.began_s, run.ended_s) == (began, 2_000.0)


def test_a_desk_that_trades_at_a_broker_is_no_run(state_dir: Path, tmp_path: Path) -> None:
    for mode in ("paper", "live", "gateway"):
        dry_run(state_dir, tmp_path / mode, mode)
    assert ids(tmp_path) == []


def test_a_training_is_listed_with_its_report_and_its_course(tmp_path: Path) -> None:
    training(tmp_path / "whole")
    training(tmp_path / "sums", compounds=False)
    training(tmp_path / "begun", report=False)
    training(tmp_path / "search", report=False, space=[])
    training(tmp_path / "killed", report=False, space=[])
    (tmp_path / "search" / "search.json").write_text("{}")
    runs = {run.id: run for run in library_of([tmp_path]).runs}
    assert {name: (run.kind, run.state) for name, run in runs.items()} == {
        "begun": ("training", "stopped"),
        "killed": ("study", "stopped"),
        "search": ("study", "finished"),
        "sums": ("training", "finished"),
        "whole": ("training", "finished"),
    }
    assert runs["whole"].code == "0123456789ab"
    assert runs["whole"].changed == {"steps": "1000", "coefficients.clip": "0.2"}
    assert runs["begun"].figures is None
    assert course(runs["begun"]).times == ()
    whole, sums = course(runs["whole"]), course(runs["sums"])
    assert whole.shares == pytest.approx((0.0, 0.01, 1.01 * 0.978 - 1, 1.01 * 0.978 * 1.005 - 1))
    assert max(whole.falls) == pytest.approx(0.022)
    assert sums.shares == pytest.approx((0.0, 0.01, -0.012, -0.007))
    assert max(sums.falls) == pytest.approx(0.022)
    assert whole.times[1] == 1709586000.0  # 2024-03-04, 16:00 in New York


def test_a_sweep_and_a_rule_s_search_are_studies_with_what_was_varied_and_no_figures(tmp_path: Path) -> None:
    common = {"strategy": "mine", "bars": "days.csv", "words": "The best of many flatters."}
    sets = [{"risk.gap": 0.1, "parameters.fast": n} for n in (5, 40, 20, 10)]
    sweep, search = tmp_path / "sweep-mine-1", tmp_path / "search-mine"
    for folder, name, content in (
        (sweep, "sweep.json", {"version": "v1", "cells": [{"rules": one} for one in sets]}),
        (search, "trials.json", {"trials": [{"values": {}}, *({"values": {"parameters.fast": n}} for n in range(9))]}),
    ):
        folder.mkdir()
        (folder / name).write_text(json.dumps(common | content))
    (sweep / "cells.jsonl").touch()
    write_tags(sweep, ("kept",))
    by_name = {run.id: run for run in library_of([tmp_path]).runs}
    assert {name: (run.kind, run.state, run.strategy, run.data, run.version) for name, run in by_name.items()} == {
        "sweep-mine-1": ("study", "finished", "mine", "days.csv", "v1"),
        "search-mine": ("study", "finished", "mine", "days.csv", ""),
    }
    one, other = by_name["sweep-mine-1"], by_name["search-mine"]
    assert one.changed == parameters(one) == {"risk.gap": "0.1", "parameters.fast": "5, 10, 20, 40"}
    assert other.changed == parameters(other) == {"parameters.fast": "0, …, 8"}
    assert (one.tags, one.verdict, one.figures, one.brief[0]) == (("kept",), common["words"], None, "4 sets")
    assert (course(one).times, look_again(other)) == ((), other)
    (search / "trials.json").write_text("{")
    with pytest.raises(ValueError, match=r"trials\.json cannot be read"):
        parameters(other)
    damaged = {run.id: run for run in library_of([tmp_path]).runs}["search-mine"]
    assert (damaged.kind, damaged.state) == ("study", "unreadable")


def test_a_run_that_is_moved_or_deleted_by_hand_is_found_where_it_is_or_not_at_all(tmp_path: Path) -> None:
    training(tmp_path / "runs" / "one")
    training(tmp_path / "runs" / "two")
    (before,) = (run for run in library_of([tmp_path]).runs if run.id == "one")
    write_tags(tmp_path / "runs" / "one", ("kept",))
    (tmp_path / "runs" / "deep").mkdir()
    (tmp_path / "runs" / "one").rename(tmp_path / "runs" / "deep" / "renamed")
    shutil.rmtree(tmp_path / "runs" / "two")
    (run,) = library_of([tmp_path / "runs"]).runs
    assert (run.id, run.tags) == ("renamed", ("kept",))
    with pytest.raises(LibraryError, match="holds this run no more"):
        look_again(before)


def test_what_cannot_be_read_is_named_and_the_others_are_listed(state_dir: Path, tmp_path: Path) -> None:
    training(tmp_path / "good")
    for name in ("text", "list", "empty"):
        training(tmp_path / name)
    (tmp_path / "text" / "run.json").write_bytes(b"\xff{")
    (tmp_path / "list" / "run.json").write_text("[]")
    (tmp_path / "empty" / "report.json").write_text("")
    dry_run(state_dir, tmp_path / "journal")
    (tmp_path / "journal" / FILE).write_bytes(b"no journal" * 1000)
    training(tmp_path / "tagged")
    (tmp_path / "tagged" / "tags.json").write_text('["No Tag"]')
    (tmp_path / "tagged" / "progress.json").write_text("{")
    runs = {run.id: run for run in library_of([tmp_path]).runs}
    assert {name for name, run in runs.items() if run.state == "unreadable"} == {"text", "list", "empty", "journal"}
    assert "run.json" in runs["text"].problem
    assert "report.json" in runs["empty"].problem
    assert FILE in runs["journal"].problem
    assert (runs["tagged"].state, runs["tagged"].tags) == ("finished", ())
    assert "tags.json holds no tags" in runs["tagged"].problem
    assert runs["good"].problem == ""


BAD = (
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"strategy": 1e400}', b'{"strategy": "\\ud800"}', b"[" * 100_000,
    b'{"strategy": ' + b'{"a":' * 50_000, b'{"verdict": 1}', b'{"policy": {"figures": {"sessions": "many"}}}',
    b"\x00" * 4096, b'{"capital_usd": 0, "trials": [], "chosen": [7]}',
    b'{"capital_usd": 0, "trials": [{"test": {"sessions": [{"date": "soon", "pnl_usd": 1}]}}], "chosen": [0]}',
)  # fmt: skip


@pytest.mark.parametrize("name", ["run.json", "report.json", "study.json", "progress.json", "tags.json"])
@pytest.mark.parametrize("content", BAD, ids=range(len(BAD)))
def test_no_content_of_a_file_breaks_the_list(tmp_path: Path, name: str, content: bytes) -> None:
    training(tmp_path / "good")
    (training(tmp_path / "bad") / name).write_bytes(content)
    library = library_of([tmp_path])
    assert [run.id for run in library.runs] == ["bad", "good"]
    msgspec.json.encode(library)
    bad, good = library.runs
    assert (good.state, good.problem) == ("finished", "")
    with contextlib.suppress(LibraryError, ValueError):  # which the command and the page report
        compare([bad, good])


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\x00" + b"\xff" * 9000, b"text"], ids=["empty", "torn", "text"]
)
def test_no_journal_breaks_the_list(state_dir: Path, tmp_path: Path, content: bytes) -> None:
    (dry_run(state_dir, tmp_path / "bad") / FILE).write_bytes(content)
    (run,) = library_of([tmp_path]).runs
    assert run.state == "unreadable"


def test_meta_and_names_that_are_no_text_are_named(state_dir: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(dry_run(state_dir, tmp_path / "meta") / FILE)) as db:
        db.execute("UPDATE meta SET value = CAST(x'ff' AS TEXT) WHERE key = 'tape'")
        db.commit()
    training(tmp_path / os.fsdecode(b"odd\xff"))
    training(tmp_path / "new\nline")
    library = library_of([tmp_path])
    msgspec.json.encode(library)
    assert {run.id: run.state for run in library.runs} == {"meta": "unreadable", "new\nline": "finished"}
    assert "its name is no text" in library.remarks[0]


def test_links_are_not_followed_and_are_named(tmp_path: Path) -> None:
    training(tmp_path / "elsewhere" / "one")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "circle").symlink_to(tmp_path)
    library = library_of([tmp_path / "runs"])
    assert library.runs == ()
    assert [str(tmp_path / "runs" / name) in "".join(library.remarks) for name in ("link", "circle")] == [True, True]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_this_user_may_not_enter_is_named(tmp_path: Path) -> None:
    training(tmp_path / "closed" / "one")
    (tmp_path / "closed").chmod(0)
    try:
        library = library_of([tmp_path])
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert "closed: cannot be read" in "".join(library.remarks)


def test_a_run_below_the_state_directory_of_another_one_is_listed_too(state_dir: Path, tmp_path: Path) -> None:
    dry_run(state_dir, tmp_path / "state")
    dry_run(state_dir, tmp_path / "state" / "first")
    assert ids(tmp_path / "state") == ["state", "first"]
    assert ids(tmp_path / "state", tmp_path) == ["state", "first"]
    assert ids(tmp_path / "nowhere") == []


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    for name in ("a/same", "b/same", "b/other"):
        training(tmp_path / name)
    library = library_of([tmp_path])
    assert [run.id for run in library.runs] == ["a/same", "other", "b/same"]
    assert chosen_run(library, "b/same").folder == str(tmp_path / "b" / "same")
    assert chosen_run(library, str(tmp_path / "a" / "same")).id == "a/same"
    with pytest.raises(LibraryError, match=r"same names 2 runs: .*/a/same, .*/b/same"):
        chosen_run(library, "same")
    with pytest.raises(LibraryError, match="did you mean other"):
        chosen_run(library, "othr")
    for name in ("", "/", "..", "."):
        with pytest.raises(LibraryError, match="no run is called"):
            chosen_run(library, name)


def test_a_training_runs_while_its_process_holds_the_folder(tmp_path: Path) -> None:

    folder = training(tmp_path / "one", report=False)
    write_progress(folder, Progress(stage="trials", done=30, total=120, unit="steps", process=os.getpid()))
    assert library_of([tmp_path]).runs[0].state == "stopped"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (run,) = library_of([tmp_path]).runs
        assert (run.state, run.progress.share if run.progress else None) == ("running", 0.25)
    write_progress(folder, Progress(done=1, total=1, process=os.getpid(), ended_s=5.0, version="v1"))
    (run,) = library_of([tmp_path]).runs
    assert (run.state, run.version) == ("finished", "v1")


def test_a_look_imports_no_strategy_and_takes_no_part_in_the_registry(state_dir: Path, tmp_path: Path) -> None:
    """The place of a strategy of one's own in one journal must not lead the desk of another to its file."""
    folder = dry_run(state_dir, tmp_path / "own")
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    with closing(sqlite3.connect(folder / FILE)) as db:
        db.execute("UPDATE meta SET value = 'evil' WHERE key = 'strategy'")
        db.execute("INSERT INTO meta VALUES ('strategy_from', ?)", (str(tmp_path / "evil.py"),))
        db.commit()
    (run,) = library_of([tmp_path]).runs
    assert (run.state, run.strategy, "evil" in sys.modules) == ("finished", "evil", False)
    assert course(run).shares


def test_settings_differ_by_dotted_key() -> None:
    one = dict(dotted_settings({"a": {"b": 1}, "sha": "0" * 64, "same": [1]}))
    other = dict(dotted_settings({"a": {"b": 2}, "same": [1]}))
    assert different([one, other]) == [("a.b", "1", "2"), ("sha", "000000000000", "–")]


def test_a_fall_is_measured_from_the_highest_value_so_far() -> None:
    assert course_of((1, 2, 3), (0.0, 1.0, 0.5)).falls == (0.0, 0.0, 0.25)
    assert course_of((1, 2, 3), (0.0, 1.0, 0.5), compounds=False).falls == (0.0, 0.0, 0.5)
    assert course_of((1,), (-0.1,)).falls == pytest.approx((0.1,))


def test_a_training_that_never_traded_has_no_sharpe_ratio(tmp_path: Path) -> None:
    file = training(tmp_path / "run") / "report.json"
    report = json.loads(file.read_text())
    report["policy"]["figures"].update(net_return=0.0, sharpe_annual=0.0, trades=0)
    file.write_text(json.dumps(report))
    (run,) = library_of([tmp_path / "run"]).runs
    assert run.figures is not None
    assert (run.figures.trades, run.figures.sharpe) == (0, None)
