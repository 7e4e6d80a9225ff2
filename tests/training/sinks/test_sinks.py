"""Sinks: how they are found, what they receive, and that one which raises stops nothing."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.paths import REPOSITORY
from training.sinks.sink import (
    GROUP,
    MetricsFile,
    Sink,
    Started,
    TrialSinks,
    anywhere,
    check_sinks,
    factory_of,
    figures_of,
)

OWN = """
from training.sinks.sink import Sink

class Book(Sink):
    def __init__(self, started):
        self.path = started.folder / "book.txt"
    def on_update(self, update, figures):
        with self.path.open("a") as file:
            file.write(f"update {update} {sorted(figures.items())}\\n")
    def on_look(self, update, figures):
        with self.path.open("a") as file:
            file.write(f"look {update} {sorted(figures.items())}\\n")

class Breaks(Sink):
    def on_look(self, update, figures):
        raise OSError("no route to host")

class Bare:
    def __init__(self, started):
        pass

class Ends(Sink):
    def on_update(self, update, figures):
        raise SystemExit("enough")

class Empties(Sink):
    def on_update(self, update, figures):
        figures.clear()
    on_look = on_update

NUMBER = 7
"""


@pytest.fixture
def own_sinks(tmp_path: Path) -> str:
    """A file with sinks of one's own."""
    (tmp_path / "mine.py").write_text(OWN)
    return str(tmp_path / "mine.py")


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the sinks that the project's own metadata offers."""
    table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    folder = tmp_path / "site" / "offered-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in table.items()), "own = no_such_package:Sink"]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(folder.parent))


def start_of(folder: Path, updates: int = 0) -> Started:
    return Started("run-1", "fold1-shares-seed1", "abcdef0123456789" * 4, folder, {"steps": 9}, updates)


def test_each_line_of_the_metrics_reaches_a_sink_of_one_s_own_and_one_that_raises_is_switched_off(
    own_sinks: str, tmp_path: Path
) -> None:
    warned: list[str] = []
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"steps":5}\n{"steps":10}\n')
    feed = TrialSinks([f"{own_sinks}:Breaks", f"{own_sinks}:Book"], start_of(tmp_path, 1), warned.append)
    with MetricsFile(path, 1, feed) as journal:
        journal.write({"steps": 10, "reward": 0.5, "agent": ""})
        journal.write({"steps": 15, "reward": 1, "validate_return": 0.25})
        journal.write({"steps": 20, "reward": 2, "validate_return": 0.5})
    assert [json.loads(line)["steps"] for line in path.read_text().splitlines()] == [5, 10, 15, 20]
    assert (tmp_path / "book.txt").read_text().splitlines() == [
        "update 2 [('reward', 0.5), ('steps', 10)]",
        "update 3 [('reward', 1), ('steps', 15)]",
        "look 3 [('steps', 15), ('validate_return', 0.25)]",
        "update 4 [('reward', 2), ('steps', 20)]",
        "look 4 [('steps', 20), ('validate_return', 0.5)]",
    ]
    assert warned == [
        f"fold1-shares-seed1: sink {own_sinks}:Breaks is off, training goes on: OSError: no route to host"
    ]  # at its first look, and never asked again


def test_no_sink_stops_the_training_or_changes_what_the_next_one_gets(own_sinks: str, tmp_path: Path) -> None:
    warned: list[str] = []
    feed = TrialSinks(
        [f"{own_sinks}:{name}" for name in ("Bare", "Ends", "Empties", "Book")], start_of(tmp_path), warned.append
    )
    feed.write({"steps": 5, "validate_return": 0.25})
    feed.close()
    assert (tmp_path / "book.txt").read_text().splitlines() == [
        "update 1 [('steps', 5)]",
        "look 1 [('steps', 5), ('validate_return', 0.25)]",
    ]
    assert [text.partition("training goes on: ")[2] for text in warned] == [
        "AttributeError: 'Bare' object has no attribute 'on_update'",
        "SystemExit: enough",
    ]


def test_the_figures_of_one_of_several_agents_have_its_name() -> None:
    assert figures_of({"agent": "sac", "steps": 3, "Q mean": 1.5, "validate_trades": 2, "ok": True}) == (
        {"steps": 3, "sac/Q mean": 1.5},
        {"steps": 3, "sac/validate_trades": 2},
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "no sink is called 'nowhere'; installed: mlflow, own, wandb"),
        ("wandb", "the package wandb is not installed: pip install -c constraints.txt -e '.[wandb]'"),
        ("mlflow", "the package mlflow is not installed: pip install -c constraints.txt -e '.[mlflow]'"),
        ("own", "the package no_such_package is not installed: install it"),
        ("json:Missing", "AttributeError: module 'json' has no attribute 'Missing'"),
        ("gone.py:Sink", "gone.py: no such file"),
        ("mine.py:NUMBER", "found 7, expected a subclass of Sink"),
    ],
)
@pytest.mark.usefixtures("offered", "own_sinks")
def test_a_sink_that_is_not_there_is_refused_before_anything_begins(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for library in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match="--sink") as error:
        check_sinks([name])
    assert words in str(error.value)


def test_a_file_is_found_from_another_folder(own_sinks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert anywhere("mine.py:Book") == f"{own_sinks}:Book"
    assert (anywhere("wandb"), anywhere("some.module:Sink")) == ("wandb", "some.module:Sink")
    assert issubclass(factory_of(f"{own_sinks}:Book"), Sink)  # type: ignore[arg-type]


class Calls:
    """Stands for a library: every call is written down, and answers with itself."""

    def __init__(self) -> None:
        self.records: list[tuple[str, tuple[Any, ...], Mapping[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.records.append((name, arguments, options))
            return self

        return call


@pytest.mark.usefixtures("offered")
def test_weights_and_biases_gets_a_run_for_each_trial_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls()
    library = ModuleType("wandb")
    vars(library).update(init=calls.init, Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.delitem(sys.modules, "training.sinks.weights_biases", raising=False)
    feed = TrialSinks(["wandb"], start_of(tmp_path, 4), pytest.fail)
    feed.write({"steps": 10, "reward": 0.5, "validate_return": 0.25})
    feed.close()
    monkeypatch.delitem(sys.modules, "training.sinks.weights_biases")
    (_, _, init), *rest = calls.records
    assert (init["id"], init["resume"], init["group"]) == ("abcdef0123456789", "allow", "run-1")
    assert (init["config"], init["name"]) == ({"steps": 9}, "fold1-shares-seed1")
    assert rest == [
        ("log", ({"steps": 10, "reward": 0.5},), {"step": 5}),
        ("log", ({"steps": 10, "validate_return": 0.25},), {"step": 5}),
        ("finish", (), {}),
    ]


@pytest.mark.usefixtures("offered")
def test_mlflow_gets_a_run_for_each_trial_and_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Client:
        """What the sink uses of MLflow's client; a run of the key is there already."""

        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id=f"of {name}")

        def search_runs(self, experiments: list[str], query: str, max_results: int) -> Any:
            calls.append((experiments, query, max_results))
            return [SimpleNamespace(info=SimpleNamespace(run_id="r1"))]

        def update_run(self, run: str, status: str) -> None:
            calls.append((run, status))

        def log_batch(self, run: str, metrics: list[tuple[Any, ...]]) -> None:
            calls.append((run, [(name, value, step) for name, value, _, step in metrics]))

        def set_terminated(self, run: str, status: str) -> None:
            calls.append((run, status))

    parts: dict[str, dict[str, Any]] = {"mlflow": {}, "mlflow.tracking": {"MlflowClient": Client}}
    parts["mlflow.entities"] = {"Metric": lambda *arguments: arguments, "Param": lambda *arguments: arguments}
    for name, content in parts.items():
        vars(module := ModuleType(name)).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "training.sinks.mlflow_runs", raising=False)
    feed = TrialSinks(["mlflow"], start_of(tmp_path), pytest.fail)
    feed.write({"steps": 10, "reward": 0.5, "validate_return": 0.25})
    feed.close()
    monkeypatch.delitem(sys.modules, "training.sinks.mlflow_runs")
    assert calls == [
        (["of rltrader"], f"tags.`rltrader.key` = '{'abcdef0123456789' * 4}'", 1),
        ("r1", "RUNNING"),
        ("r1", [("steps", 10, 1), ("reward", 0.5, 1)]),
        ("r1", [("validate_return", 0.25, 1)]),
        ("r1", "FINISHED"),
    ]
