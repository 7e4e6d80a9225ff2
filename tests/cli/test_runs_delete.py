"""`rltrader runs delete` removes a run and nothing else: each test is an attempt to make it remove more."""

from __future__ import annotations

import fcntl
import io
import os
from pathlib import Path

import pytest

from daemon.cli.runs.change import removal
from daemon.cli.runs.command import main
from daemon.journal.journal import FILE
from daemon.library.library import LibraryError
from tests.support.library_runs import dry_run, play, training


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("delete"))


def delete(place: Path, *words: str) -> int:
    return main(["delete", "--yes", *words, "--runs-dir", str(place)])


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def refusal_of(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a deletion that is refused, and that leaves all as it was."""
    before = content(folder)
    assert delete(folder, name) == 2
    assert content(folder) == before
    return capsys.readouterr().err


def test_a_sweep_goes_whole_and_one_with_a_file_of_another_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text('{"strategy": "mine", "bars": "b.csv", "words": "w"}')
        for file in ("cells.jsonl", "sweep.html", ".lock", "lock"):
            (tmp_path / name / file).touch()
    (tmp_path / "two" / "notes.txt").touch()
    assert delete(tmp_path, "one") == 0
    assert "notes.txt" in refusal_of(tmp_path, "two", capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two"]


def test_a_run_goes_whole_and_its_neighbours_stay(
    replay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = training(tmp_path / "runs" / "one")
    trial = run / "trials" / "fold1-seed1"
    (trial / "tensorboard").mkdir(parents=True)
    for name in (
        "best.pt",
        "trial.json",
        "metrics.jsonl",
        ".best.pt.1234.part",
        "tensorboard/events.out.tfevents.1.host.2.0",
    ):
        (trial / name).write_text("x")
    (run / "tags.json").write_text('["a"]')
    dry = dry_run(replay, tmp_path / "runs" / "dry")
    for name in ("reports/2024-12-03.html", "rotated/000000000001-000000000009.sqlite", "archive/2024-12-03.sqlite"):
        (dry / name).parent.mkdir()
        (dry / name).write_text("x")
    (dry / ".tags.json.4711.part").write_text("[")  # of a process that was killed
    training(tmp_path / "runs" / "two")
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    assert delete(tmp_path / "runs", "one", "dry") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["notes.txt", "two"]
    assert "one: training of regime_switcher, etf.parquet" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "trials/mine.txt",
        "trials/t/best.pt.bak",
        "trials/t/tensorboard/mine.txt",
        "journal.sqlite",
        "report.html.old",
        "runs/x",
    ],
)
def test_a_foreign_file_keeps_a_training(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = training(tmp_path / "one")
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("mine")
    assert "is no run's: move it away first; nothing was deleted" in refusal_of(tmp_path, "one", capsys)


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "reports/mine.txt",
        "rotated/x/y.sqlite",
        "config.toml",
        "keys/APCA_API_KEY_ID",
        "first/journal.sqlite",
    ],
)
def test_a_foreign_file_keeps_a_dry_run(
    replay: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dry_run(replay, tmp_path / "one")
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("mine")
    assert "is no run's: move it away first; nothing was deleted" in refusal_of(tmp_path, "one", capsys)


def test_a_link_within_is_neither_followed_nor_removed(
    replay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "best.pt").write_text("mine")
    for name, link in (("one", "trials"), ("two", "report.html")):
        run = training(tmp_path / "runs" / name)
        (run / link).unlink(missing_ok=True)
        (run / link).symlink_to(tmp_path / "mine")
        assert "is no run's" in refusal_of(tmp_path / "runs", name, capsys)
    dry = dry_run(replay, tmp_path / "runs" / "dry")
    (dry / "rotated").symlink_to(tmp_path / "mine")
    assert "is no run's" in refusal_of(tmp_path / "runs", "dry", capsys)
    assert (tmp_path / "mine" / "best.pt").read_text() == "mine"


def test_a_link_to_a_run_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training(tmp_path / "elsewhere" / "one")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(tmp_path / "elsewhere" / "one")
    for name in ("one", str(tmp_path / "runs" / "one"), str(tmp_path / "elsewhere" / "one"), "../elsewhere/one"):
        assert delete(tmp_path / "runs", name) == 2
        assert "no run is called" in capsys.readouterr().err
    assert (tmp_path / "elsewhere" / "one" / "run.json").exists()


def test_a_folder_that_becomes_a_link_after_the_look_is_refused(tmp_path: Path) -> None:
    run, other = training(tmp_path / "one"), training(tmp_path / "other")
    run.rename(tmp_path / "aside")
    run.symlink_to(other)
    with pytest.raises(LibraryError, match="is reached by a link"), removal(run, "training"):
        pass
    assert (other / "run.json").exists()


def test_a_folder_above_that_is_a_link_is_refused(tmp_path: Path) -> None:
    training(tmp_path / "real" / "one")
    (tmp_path / "way").symlink_to(tmp_path / "real")
    with pytest.raises(LibraryError, match="is reached by a link"), removal(tmp_path / "way" / "one", "training"):
        pass


@pytest.mark.parametrize("mode", ["paper", "live", "gateway", ""])
def test_a_desk_s_journal_is_never_deleted(
    replay: Path, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dry_run(replay, tmp_path / "desk", mode or "paper")
    assert "no run is called" in refusal_of(tmp_path, "desk", capsys)
    with pytest.raises(LibraryError, match="is the journal of a desk in mode"), removal(run, "dry run"):
        pass
    assert (run / FILE).exists()


def test_a_journal_with_the_settings_of_a_training_beside_it_is_kept(
    replay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dry_run(replay, tmp_path / "desk", "live")
    (run / "run.json").write_text('{"strategy": "regime_switcher"}')
    assert "is no run's" in refusal_of(tmp_path, "desk", capsys)


def test_an_unreadable_run_is_left_to_a_person(
    replay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dry_run(replay, tmp_path / "one")
    (run / FILE).write_bytes(b"damaged" * 1000)
    assert "remove it by hand" in refusal_of(tmp_path, "one", capsys)


@pytest.mark.parametrize("kind", ["dry", "training"])
def test_a_running_run_is_never_deleted(
    replay: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dry_run(replay, tmp_path / "one") if kind == "dry" else training(tmp_path / "one")
    with (run / ("lock" if kind == "dry" else ".lock")).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "a process runs there" in refusal_of(tmp_path, "one", capsys)
    assert delete(tmp_path, "one") == 0


def test_no_process_begins_in_a_folder_while_it_is_asked_about(tmp_path: Path) -> None:
    run = training(tmp_path / "one")
    with removal(run, "training"), (run / ".lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_that_comes_meanwhile_stays(tmp_path: Path) -> None:
    run = training(tmp_path / "one")
    with removal(run, "training") as plan:
        (run / "mine.txt").write_text("mine")
        with pytest.raises(LibraryError, match=r"mine\.txt came into the folder meanwhile and stays"):
            plan.carry_out()
    assert content(run) == {"mine.txt": b"mine"}


def test_a_folder_that_is_exchanged_for_a_link_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    run = training(tmp_path / "one")
    (run / "trials" / "t").mkdir(parents=True)
    (run / "trials" / "t" / "best.pt").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "best.pt").write_text("mine")
    with removal(run, "training") as plan:
        (run / "trials" / "t").rename(run / "aside")
        (run / "trials" / "t").symlink_to(tmp_path / "mine")
        with pytest.raises(OSError, match="Not a directory"):
            plan.carry_out()
    assert (tmp_path / "mine" / "best.pt").read_text() == "mine"


def test_a_deletion_that_was_killed_can_be_asked_for_again(tmp_path: Path) -> None:
    run = training(tmp_path / "one")
    with removal(run, "training") as plan:
        names = [path for path, _ in plan.entries]
    assert set(plan.last) <= set(names)
    for name in set(names) - set(plan.last):  # as far as it came
        (run / name).unlink()
    assert delete(tmp_path, "one") == 0
    assert not run.exists()


def test_it_asks_and_keeps_without_a_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = training(tmp_path / "one")

    class Terminal:
        def __init__(self, text: str) -> None:
            self.text = text

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.text

    for text, code in (("\n", 1), ("", 1), ("n\n", 1), ("yes please\n", 1), ("Y\n", 0)):
        assert run.exists()
        monkeypatch.setattr("sys.stdin", Terminal(text))
        assert main(["delete", "one", "--runs-dir", str(tmp_path)]) == code
    assert not run.exists()
    training(tmp_path / "two")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["delete", "two", "--runs-dir", str(tmp_path)]) == 2
    assert "there is no terminal: give --yes" in capsys.readouterr().err
    assert (tmp_path / "two" / "run.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_root_deletes_as_the_owner_of_the_folder_alone(tmp_path: Path) -> None:
    """A folder of another user is refused unless this process became that user: `enter` did not."""
    run = training(tmp_path / "one")
    os.chown(run, 12345, 12345)
    with pytest.raises(OSError, match="it belongs to user 12345"), removal(run, "training"):
        pass
    assert (run / "run.json").exists()
