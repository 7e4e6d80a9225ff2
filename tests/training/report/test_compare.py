"""Finished runs side by side: what they were and earned, where their settings differ, and their updates."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.support.training.example_study import example_study
from training.cli.main import main
from training.report.report import write_report


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with the same report; the second had other coefficients and one trial more."""
    home, found = tmp_path_factory.mktemp("runs"), []
    for number, name in enumerate(("first", "second")):
        folder = home / name
        for trial in range(number + 1):
            (folder / "trials" / f"fold1-potential-seed{trial}").mkdir(parents=True)
            line = json.dumps({"steps": 256, "reward": 0.5 + trial}) + "\n"
            (folder / "trials" / f"fold1-potential-seed{trial}" / "metrics.jsonl").write_text(line)
        settings = {"strategy": "option_scalper", "seeds": [1], "coefficients": {"epochs": 4 + number}}
        (folder / "run.json").write_text(json.dumps(settings | {"made_with": {"cpu": name}}))
        found.append(folder)
    write_report(example_study(), found[0])
    shutil.copy(found[0] / "report.json", found[1])
    return found


def test_runs_are_a_table_a_plot_and_the_settings_that_differ(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "c.html"), "--csv", str(tmp_path / "c.csv")]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "c.html")
    line = next(line for line in told.err.splitlines() if line.startswith("net return"))
    first, second = line.removeprefix("net return").strip().split("  ")
    assert first == second
    assert "%" in first
    page = (tmp_path / "c.html").read_text()
    assert "first: policy" in page
    assert "All runs were tested on the same sessions" in page
    assert "{&#34;epochs&#34;: 5}" in page
    assert "made_with" not in page
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["trial"][-5:], row["reward"]) for row in rows] == [
        ("first", "seed0", "0.5"), ("second", "seed0", "0.5"), ("second", "seed1", "1.5"),
    ]  # fmt: skip


def test_a_folder_without_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "give the folders of finished runs" in capsys.readouterr().err
