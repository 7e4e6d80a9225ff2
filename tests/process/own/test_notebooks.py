"""The notebooks: two are run by a kernel, with the checks that they hold; of the training, what reads its report."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.manuals import notebooks
from tests.support.paths import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"
SHIPPED = REPOSITORY / "onnx_models" / "daily_rebalancer"


def cells(name: str) -> list[dict[str, Any]]:
    document: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return document


def test_they_stand_in_the_repository_without_outputs() -> None:
    assert [path.stem for path in notebooks()] == ["journal", "strategy", "training"]
    code = [cell for path in notebooks() for cell in cells(path.stem) if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.parametrize(("name", "tables"), [("journal", 5), ("strategy", 1)])
def test_it_runs_from_its_first_cell_to_its_last(name: str, tables: int, tmp_path: Path) -> None:
    run = runpy.run_path(str(FOLDER / "run.py"))["executed"](FOLDER / f"{name}.ipynb", tmp_path)
    kinds = [kind for cell in run.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert kinds.count("text/html") == tables
    assert kinds.count("image/png") == 1


def test_what_reads_the_report_of_a_training_reads_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = (SHIPPED / "current").read_text().strip()
    to = tmp_path / "onnx_models" / "trend" / version
    shutil.copytree(SHIPPED / version, to)
    (to.parent / "current").write_text(f"{version}\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells("training"):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.startswith("!"):
            exec(compile(source, cell["id"], "exec"), names)
    report = json.loads((to / "report.json").read_text())
    assert names["table"]["net_return"].to_dict() == {
        player["name"]: player["figures"]["net_return"] for player in [report["policy"], *report["baselines"]]
    }
    baselines = {"always flat", "buy and hold", "equal weight monthly", "SPY", "random"}  # it trained no network
    assert set(names["lead"].index) == baselines
    assert report["verdict"] in capsys.readouterr().out
