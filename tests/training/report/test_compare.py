"""Finished runs side by side: what they were and earned, where their settings differ, and their updates."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.training.studies import example_study
from training.cli.main import main
from training.report.report import write_report


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with the same report; the second had other coefficients and one trial more."""
    home, folders = tmp_path_factory.mktemp("runs"), []
    for number, name in enumerate(("first", "second")):
        folder = home / name
        for trial in range(number + 1):
            (folder / "trials" / f"fold1-potential-seed{trial}").mkdir(parents=True)
            line = json.dumps({"steps": 256, "reward": 0.5 + trial}) + "\n"
            (folder / "trials" / f"fold1-potential-seed{trial}" / "metrics.jsonl").write_text(line)
        coefficients, rules = {"epochs": 4 + number, "batch": 128}, str(number) * 64
        settings = {"strategy": "option_scalper", "seeds": [1], "coefficients": coefficients, "rules": rules}
        (folder / "run.json").write_text(json.dumps(settings | {"made_with": {"cpu": name}}))
        folders.append(folder)
    write_report(example_study(), folders[0])
    shutil.copy(folders[0] / "report.json", folders[1])
    return folders


def test_runs_are_a_table_a_plot_and_the_settings_that_differ(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "c.html"), "--csv", str(tmp_path / "c.csv")]) == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(tmp_path / "c.html")
    line = next(line for line in output.err.splitlines() if line.startswith("net return"))
    first, second = line.removeprefix("net return").strip().split("  ")
    assert first == second
    assert "%" in first
    page = (tmp_path / "c.html").read_text()
    assert "first: policy" in page
    assert "All runs were tested on the same sessions" in page
    assert "All runs were tested on the same sessions" in output.err
    assert re.search(r"coefficients\.epochs</th>\s*<td>\s*4\s*</td>\s*<td>\s*5\s*</td>", page)
    assert re.search(r"rules</th>\s*<td>\s*000000000000", page)
    assert "made_with" not in page
    assert "coefficients.batch" not in page
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["trial"][-5:], row["reward"]) for row in rows] == [
        ("first", "seed0", "0.5"), ("second", "seed0", "0.5"), ("second", "seed1", "1.5"),
    ]  # fmt: skip


def test_figures_of_other_sessions_are_called_so_on_the_terminal_too(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    report = json.loads((other / "report.json").read_text())
    (other / "report.json").write_text(json.dumps(report | {"data_sha256": "0" * 64}))
    page = tmp_path / "c.html"
    assert main(["compare", str(runs[0]), str(other), "--out", str(page)]) == 0
    for text in (page.read_text(), capsys.readouterr().err):
        assert "their figures cannot be compared one to one" in text


def test_a_folder_without_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "give the folders of finished runs" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_folders_and_one_given_twice_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(runs[0], tmp_path / "others" / "first")
    arguments = ["compare", "--out", str(tmp_path / "c.html"), "--csv", str(tmp_path / "c.csv")]
    assert main([*arguments, str(runs[0]), str(other)]) == 0
    assert f"{runs[0].parent.name}/first" in (head := capsys.readouterr().err.splitlines()[0])
    assert "others/first" in head
    assert "others/first: policy" in (tmp_path / "c.html").read_text()
    with (tmp_path / "c.csv").open(newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {f"{runs[0].parent.name}/first", "others/first"}
    assert main([*arguments, str(other), str(runs[1]), str(tmp_path / "others" / ".." / "others" / "first")]) == 2
    assert f"{other} is given twice: expected each run once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b"[1, 2]"),
        ("run.json", b"\xff\xfe"),
        ("report.json", b"{}"),
        ("trials/fold1-potential-seed0/metrics.jsonl", b'{"steps": 1'),
        ("trials/fold1-potential-seed0/metrics.jsonl", b"7\n"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    file: str, content: bytes, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "broken")
    (folder / file).write_bytes(content)
    arguments = [
        "compare",
        str(runs[1]),
        str(folder),
        "--out",
        str(tmp_path / "c.html"),
        "--csv",
        str(tmp_path / "c.csv"),
    ]
    assert main(arguments) == 2
    assert f"{folder / file} cannot be read (" in capsys.readouterr().err


def test_the_plot_keeps_room_beside_the_longest_name_in_both_widths(runs: list[Path], tmp_path: Path) -> None:
    long = shutil.copytree(runs[0], tmp_path / ("a-run-of-" * 20 + "mine"))
    assert main(["compare", str(runs[1]), str(long), "--out", str(tmp_path / "c.html")]) == 0
    page = (tmp_path / "c.html").read_text()
    plots = re.findall(r'viewBox="0 0 ([0-9.]+) [0-9.]+".*?</svg>', page, re.DOTALL)
    assert plots == ["780", "340"]
    zeros = [float(x) for x in re.findall(r'<line[^>]* x1="([0-9.]+)"', page)]
    assert all(0 < x < 780 for x in zeros)
    assert "…" in page
