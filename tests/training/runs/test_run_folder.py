"""The folder of a run: whose it is, what a restart removes, and which code a trial was made by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY
from training.runs.folder import RunFolderError, _imported_files, code_version, open_run


def test_a_restart_removes_what_the_old_run_wrote(tmp_path: Path) -> None:
    open_run(tmp_path, {"seeds": [2]}, {"code": "a"})
    (tmp_path / "trials" / "fold1").mkdir(parents=True)
    (tmp_path / "report.html").touch()
    open_run(tmp_path, {"seeds": [5]}, {"code": "b"}, restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_bytes()) == {"seeds": [5], "made_with": {"code": "b"}}


def test_a_run_that_was_killed_at_its_first_write_begins_again(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from training.runs.folder import open_run\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_run(Path(sys.argv[1]), {'seeds': [2]}, {})"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=REPOSITORY, check=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    open_run(tmp_path, {"seeds": [2]}, {})
    assert json.loads((tmp_path / "run.json").read_bytes())["seeds"] == [2]


@pytest.mark.parametrize("files", [("run.json", "thesis.tex"), ("thesis.tex",)])
def test_a_restart_removes_nothing_where_something_is_no_run_s(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(RunFolderError, match=r"thesis\.tex in it is no run's|holds files but no run\.json"):
        open_run(tmp_path, {"seeds": [5]}, {"code": "b"}, restart=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_code_that_only_other_strategies_are_trained_by_throws_no_trial_away(tmp_path: Path) -> None:
    for name, content in (
        ("tasks", "from room.kinds import kind"),
        ("kinds", "KINDS = {'one': 'room.one:KIND', 'other': 'room.other:KIND'}"),
        ("one", "from room import shared"),
        ("other", "from room import shared, theirs"),
        ("shared", ""),
        ("theirs", ""),
    ):
        (tmp_path / "room").mkdir(exist_ok=True)
        (tmp_path / "room" / f"{name}.py").write_text(content)
    tasks, one, other = (tmp_path / "room" / f"{name}.py" for name in ("tasks", "one", "other"))
    assert {path.stem for path in _imported_files(tmp_path, {tasks, one})} == {"tasks", "kinds", "one", "shared"}
    assert len(_imported_files(tmp_path, {tasks, one, other})) == 6
    assert len({code_version("option_scalper"), code_version("daily_rebalancer"), code_version()}) == 3


@pytest.mark.parametrize(
    "source",
    [
        "import room.other\n",
        "def late() -> None:\n    from room import other\n",
        "try:\n    import room.other as it\nexcept ImportError:\n    pass\n",
        "from room import (\n    kinds,\n    other,  # the last one\n)\n",
        "from room import (  # both (of them)\n    kinds,\n    other,\n)\n",
        '"""\nimport it where it is needed\n"""\n\nimport room.other\n',
    ],
)
def test_an_import_is_found_wherever_it_stands(source: str, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    for name, content in (("one", source), ("kinds", ""), ("other", "")):
        (room / f"{name}.py").write_text(content)
    assert room / "other.py" in _imported_files(tmp_path, {room / "one.py"})


@pytest.mark.parametrize("content", ["", "[1]", "{", "7"])
def test_a_damaged_run_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"run\.json is damaged .*use another --run-dir, or --restart"):
        open_run(tmp_path, {"seeds": [5]}, {"code": "b"})
