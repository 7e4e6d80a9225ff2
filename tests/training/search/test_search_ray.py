"""A search through a real Ray on this machine: the same trials as without it, on loopback, and nothing left behind."""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.core.events import BarClosed
from tests.support.training.made_up import drifting, write_csv
from tests.support.training.ray_processes import LOOPBACK, left, listening, mark
from training.rl.coefficients import Coefficients
from training.rl.dimensions import Dimension
from training.rl.ray_cluster import LOCAL_ENVIRONMENT
from training.runs.ledger import Ledger, ledger_path
from training.runs.settings import Settings
from training.studies.search import ray as search_ray
from training.studies.search.search import Results, run_search
from training.studies.search.trials import Search, TrialResult, TrialTraining, make_ready, open_book

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[scale]'")
SMALL = Coefficients(environments=32, rollout_steps=64, batch=512, epochs=4, learning_rate=1e-3)
FEW = (Dimension("learning_rate", "", 8e-4, 2e-3, log=True), Dimension("epochs", "", 4, 5, whole=True))


@pytest.fixture
def search(tmp_path: Path) -> Search:
    bars = write_csv(tmp_path / "drift.csv", [event.bar for event in drifting(29) if isinstance(event, BarClosed)])
    run = Settings(
        "option_scalper", bars, tmp_path / "store", steps=12_288, train_sessions=3, validate_sessions=1,
        test_sessions=1, purge_sessions=1, plan=SMALL, processes=1, run_folder=tmp_path / "study",
    )  # fmt: skip
    return Search(run, trials=2, space=FEW, ray="local")


@needs_ray
def test_ray_finds_what_a_search_without_it_finds_listens_on_loopback_and_leaves_no_process(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark_dir = str(tmp_path)
    mark(monkeypatch, mark_dir)
    messages: list[TrialResult] = []
    addresses: dict[str, str] = {}

    def listen(news: str | TrialResult) -> None:
        if isinstance(news, TrialResult):
            messages.append(news)
            addresses.update(listening(mark_dir))

    results, folder = run_search(search, listen)
    assert len(addresses) >= 3  # of Ray's servers
    assert set(addresses.values()) <= LOOPBACK
    assert left(mark_dir) == []
    alone = replace(search, ray="", run=replace(search.run, run_folder=tmp_path / "b", out=tmp_path / "store_b"))
    expected, _ = run_search(alone, lambda _: None)
    assert [_without_speed(trial) for trial in results.trials] == [_without_speed(trial) for trial in expected.trials]
    assert [trial.number for trial in messages] == [0, 1]
    assert msgspec.json.decode((folder / "search.json").read_bytes(), type=Results) == results
    assert _ledger(tmp_path / "store") == _ledger(tmp_path / "store_b")
    again: list[Any] = []
    assert run_search(search, again.append)[0] == results  # all trials are done: nothing is started
    assert again[-1].startswith("2 trials of 1 trainings, 2 of them done")


def _without_speed(trial: TrialResult) -> TrialResult:
    return msgspec.structs.replace(trial, steps_per_s=0.0)


def _ledger(store: Path) -> list[tuple[str, str, str, float | None, str]]:
    lines = Ledger(ledger_path(store, "option_scalper")).read().lines
    return sorted((line.note, line.first, line.last, line.sharpe, line.study) for line in lines)


def test_what_ray_gives_up_is_pruned_and_counted_what_it_loses_is_taken_up_again(
    search: Search, tmp_path: Path
) -> None:
    search = replace(search, run=replace(search.run, seeds=(1, 2)))
    ready = make_ready(search, "")
    stop = threading.Event()
    messages: list[str | TrialResult] = []

    def asking(first: int) -> search_ray.Asking:
        book = open_book(search, tmp_path, ready)
        book.take_up()
        return search_ray.Asking(book, iter(range(first, 4)), messages.append, stop)

    state = {
        "trainings": 1,
        "training": msgspec.json.encode(TrialTraining(0, 1, (0.01, 0.03), 0.04, 100, 200, 2.0)).decode(),
    }
    ray = asking(0)
    first, second, third = ray.ask("a"), ray.ask("b"), ray.ask("c")
    assert first == {"coefficients": {"learning_rate": 1e-3, "epochs": 4}, "returns": []}  # what is searched of `SMALL`
    assert second is not None
    assert third is not None
    ray.hear("a", state)
    ray.hear("a", state)  # begun anew elsewhere, it reports the same again
    ray.end("a", state)  # stopped by ASHA
    ray.hear("b", state)
    ray.end("b", None)  # its machine was lost
    stop.set()
    ray.hear("c", state)
    ray.end("c", state)  # ended because the search shall stop
    assert [(trial.number, trial.state, trial.trainings) for trial in messages if isinstance(trial, TrialResult)] == [
        (0, "pruned", 1)
    ]
    assert len(_ledger(tmp_path / "store")) == 1
    stop.clear()
    later = asking(1)
    assert [later.ask("d"), later.ask("e")] == [{**second, "returns": [0.04]}, {**third, "returns": [0.04]}]
    assert later.ask("f") is not None
    assert later.ask("g") is None  # four trials in all


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_an_address_where_nobody_answers_is_told_at_once(search: Search, address: str) -> None:
    with pytest.raises(RuntimeError, match=rf"no Ray cluster at '{address}' .*: give host:port of its head"):
        run_search(replace(search, ray=address), lambda _: None)


@needs_ray
def test_a_missing_cluster_is_told_in_one_line(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray raises without a cluster; another user's may run on this machine, and `auto` would join it."""

    def missing(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    for (
        name,
        value,
    ) in LOCAL_ENVIRONMENT.items():  # read when ray is imported: here, in a first test
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ray.init", missing)
    with pytest.raises(RuntimeError, match=r"no Ray cluster at 'auto' .*: start one, or use --ray local"):
        run_search(replace(search, ray="auto"), lambda _: None)


def test_without_ray_the_cure_is_named(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(RuntimeError, match=r"pip install .*'\.\[scale\]'"):
        run_search(search, lambda _: None)
