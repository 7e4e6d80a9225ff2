"""`rltrader runs`: the list, its filters and order, one run, runs over each other, tags."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.cli.runs.command import main
from daemon.cli.runs.compare import draw_lines
from tests.support.desks.desk_run import FREE_TRADING, environment, tape_rows, write_tape
from tests.support.library_runs import dry_run, play, training


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("command"))


@pytest.fixture
def runs(replay: Path, tmp_path: Path) -> Path:
    """A dry run of today, and two trainings of earlier days."""
    folder = tmp_path / "runs"
    dry_run(replay, folder / "dry")
    for name, day, steps in (("old", 1_700_000_000, 10), ("new", 1_710_000_000, 20)):
        training(folder / name, steps=steps)
        os.utime(folder / name / "run.json", (day, day))
    return folder


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    assert main([*map(str, words), "--json"]) == 0
    return [run["id"] for run in json.loads(capsys.readouterr().out)["runs"]]


def test_the_list_is_filtered_and_sorted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--runs-dir", runs)
    assert listed(capsys, *place) == ["dry", "new", "old"]
    assert listed(capsys, *place, "--strategy", "regime_switcher") == ["new", "old"]
    assert listed(capsys, *place, "--kind", "dry run") == ["dry"]
    assert listed(capsys, *place, "--since", "2024-03-09") == ["dry", "new"]
    assert listed(capsys, *place, "--since", "2024-03-10") == ["dry"]
    assert listed(capsys, *place, "--sort", "name") == ["dry", "new", "old"]
    assert listed(capsys, *place, "--sort", "trades") == ["new", "old", "dry"]  # 3, 3, 0
    assert main(["tag", "old", "good", "first", *map(str, place)]) == 0
    assert capsys.readouterr().out == "old: first good\n"
    assert listed(capsys, *place, "--tag", "good", "--tag", "first") == ["old"]
    assert main(["tag", "old", "good", "--remove", *map(str, place)]) == 0
    capsys.readouterr()
    assert listed(capsys, *place, "--tag", "good") == []
    assert main(["--tag", "good", *map(str, place)]) == 0
    assert "3 do not fit the filters" in capsys.readouterr().err


def test_the_table_says_what_each_run_was(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "old" / "run.json").write_text("{")
    assert main(["--runs-dir", str(runs)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    lines = {row[1].strip(): " ".join(" ".join(row).split()) for row in rows}
    new = r"training, finished regime_switcher – etf\.parquet 2024-03-09 16:00 −0\.70 % −1\.50 −2\.20 % 3 0123456789ab"
    assert re.search(new, lines["new"])
    assert "steps=20" in lines["new"]
    assert re.search(r"dry run, finished.*option_scalper.*fixture.*tape\.csv", lines["dry"])
    assert "unreadable" in lines["old"]


@pytest.mark.parametrize("name", ["Good", "a b", "../x", "", "x" * 41, "-x"])
def test_a_bad_tag_is_refused(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tag", "--runs-dir", str(runs), "--", "old", name]) == 2
    assert "expected a to z" in capsys.readouterr().err
    assert not (runs / "old" / "tags.json").exists()


def test_one_run_is_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "new", "--runs-dir", str(runs)]) == 0
    text = capsys.readouterr().out
    for words in (
        str(runs / "new"),
        "3, 2024-03-04 to 2024-03-06",
        "−0.70 %",
        "Does not beat anything.",
        "coefficients.clip",
    ):
        assert words in text
    assert main(["show", "nwe", "--runs-dir", str(runs)]) == 2
    assert "did you mean new?" in capsys.readouterr().err


def test_runs_are_compared_on_the_terminal_as_json_and_as_a_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", "old", "new", "dry", "--runs-dir", str(runs), "--html", str(page)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("A old\nB new\nC dry\n")
    assert re.search(r"│ steps +│ 10 +│ 20 +│ – ", text)
    assert re.search(r"largest drawdown +│ −2\.20 % +│ −2\.20 %", text)
    assert "The runs are over different sessions" in text
    assert page.read_text().count("<polyline") == 12  # three runs, return and drawdown, in two widths
    assert main(["compare", "old", "new", "--runs-dir", str(runs), "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["differences"] == [["steps", "10", "20"]]
    assert comparison["courses"][0]["shares"][1] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("old",), "1 runs: expected 2 to 5"),
        (("old", "old"), "named twice"),
        (("old", "runs/old"), "named twice"),
        (("a", "b"), "no run is called"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    runs: Path, names: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *names, "--runs-dir", str(runs)]) == 2
    assert problem in capsys.readouterr().err


def test_six_runs_are_too_many(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        training(runs / f"n{number}")
    assert main(["compare", *(f"n{number}" for number in range(6)), "--runs-dir", str(runs)]) == 2
    assert "6 runs: expected 2 to 5" in capsys.readouterr().err


def test_lines_are_drawn_by_letters_from_their_first_to_their_last_value() -> None:
    rows = [text.plain for text in draw_lines([((0.0, 10.0), (0.0, 1.0)), ((10.0,), (-1.0,))], width=11, height=3)]
    assert rows[0].endswith("│          A")
    assert rows[1].endswith("│AAAAAAAAAA┄")
    assert rows[2].endswith("│          B")
    assert [text.plain for text in draw_lines([((), ())], width=11)] == ["nothing to draw yet"]


def start_run(folder: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rltrader", "runs", "start", *map(str, words)],
        cwd=folder, env=environment(**FREE_TRADING, **more), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_dry_run_that_is_started_here_stands_in_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = write_tape(tmp_path / "tape.csv", tape_rows(1, 30))
    process = start_run(tmp_path, "--name", "mine", "dry-run", "--bars", tape)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("run mine in runs/mine;")
    assert json.loads(process.stdout.splitlines()[-1])["bars"] > 30
    assert listed(capsys, "--runs-dir", tmp_path / "runs") == ["mine"]
    assert main(["watch", "mine", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.startswith("mine finished: return ")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("dry-run", "--state-dir", "x"), "--state-dir is chosen by --name"),
        (("training", "--run-dir=x"), "--run-dir is chosen by --name"),
        (("--name", "../x", "dry-run"), "--name is '../x'"),
        (("--name", "taken", "dry-run"), "is there already"),
        (("--name", "link", "training"), "is there already"),
    ],
)
def test_a_run_begins_in_a_new_folder_of_the_library_alone(
    tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "runs" / "link").symlink_to(tmp_path)
    process = start_run(tmp_path, *words)
    assert process.returncode == 2
    assert problem in process.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
