"""Runs on more than one process: many trials side by side, and one network that two processes train."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from strategies.kit.synthetic import synthetic_sessions
from tests.support.training.made_up import sessions, write_csv
from tests.support.training.small_runs import UPDATE, StopAfter, quiet, same, weights
from training.desks.trial import News, Request
from training.evidence.findings import Findings
from training.rl.pool import Flag, Stopped
from training.rl.process_group import ProcessGroup, run_group
from training.runs.folder import code_version
from training.runs.ledger import Ledger, ledger_path
from training.runs.prepared import Prepared, prepare, prepare_same
from training.runs.run import train_and_export
from training.runs.settings import Settings, requests_of
from training.runs.tasks import run_member, train_one
from training.study.study import Study, Trial


def test_folds_seeds_and_rewards_share_the_processes_and_every_trial_is_in_the_ledger(
    small: Settings, tmp_path: Path
) -> None:
    walk = write_csv(tmp_path / "longer.csv", synthetic_sessions(4, sessions(30)))
    many = replace(
        small, bars=walk, out=tmp_path / "store", run_folder=tmp_path / "run", folds=2, train_sessions=3,
        validate_sessions=1, test_sessions=1, purge_sessions=1, seeds=(1, 2),
        rewards=("potential", "reference"), steps=2 * UPDATE, processes=2,
    )  # fmt: skip
    messages: list[object] = []
    result = train_and_export(many, messages.append)
    study = msgspec.json.decode((result.run_folder / "study.json").read_bytes(), type=Study)
    assert [(t.fold, t.reward, t.seed) for t in study.trials] == [
        (fold, reward, seed) for fold in (0, 1) for reward in ("potential", "reference") for seed in (1, 2)
    ]
    # 2024-06-20 is the first session with a volatility; one session lies between spans, and the last is tested
    assert [(f.train, f.validate, f.test) for f in study.folds] == [
        (("2024-06-20", "2024-06-21", "2024-06-24", "2024-06-25"), ("2024-06-27",), ("2024-07-01",)),
        (("2024-06-20", "2024-06-21", "2024-06-24", "2024-06-25", "2024-06-26"), ("2024-06-28",), ("2024-07-02",)),
    ]
    assert all(study.trials[index].reward == "potential" for index in study.chosen)
    assert sum(isinstance(news, Trial) for news in messages) == 8
    lines = Ledger(ledger_path(many.out, "option_scalper")).read().lines
    assert [line.kind for line in lines].count("trial") == 10  # and the mean of the seeds of each fold
    assert [(line.first, line.last) for line in lines if line.kind == "opening"] == [
        ("2024-07-01", "2024-07-01"), ("2024-07-02", "2024-07-02"),
    ]  # fmt: skip
    assert isinstance(result.findings, Findings)
    alone = replace(prepare((many, Path(), code_version())), folder=tmp_path / "alone")
    for request in requests_of(many)[1:6:4]:  # one of each fold
        train_one(alone, request, threading.Event(), quiet)
        name = f"trials/{request.name}"
        assert same(weights(tmp_path / "alone", name), weights(tmp_path / "run", name))
    flag = threading.Event()

    def until_compared(news: object) -> None:
        assert not isinstance(news, News)  # everything is there: nothing is trained
        if str(news).startswith("comparing"):
            flag.set()

    with pytest.raises(Stopped):
        train_and_export(replace(many, processes=1), until_compared, flag)
    assert Ledger(ledger_path(many.out, "option_scalper")).read().lines == lines  # and none is counted twice


def member(loaded: Path, group: ProcessGroup, prepare: Callable[[], Prepared], request: Request) -> None:
    """A further member of a group, which writes down what it has loaded."""
    run_member(group, prepare, request)
    loaded.write_text(" ".join(sys.modules))


def test_two_processes_train_one_network_the_same_way_every_time(
    small: Settings, ready: Prepared, tmp_path: Path
) -> None:
    group = replace(small, processes=2, steps=4 * UPDATE)
    request = requests_of(group)[0]

    def train(name: str, stop: StopAfter | None = None) -> None:
        flag: Flag = stop or threading.Event()
        prepared = replace(ready, settings=group, folder=tmp_path / name)

        def first(processes: ProcessGroup) -> Trial:
            return train_one(prepared, request, flag, stop or quiet, processes)

        sha256 = ready.data.info.sha256
        further = functools.partial(prepare_same, (group, tmp_path / name, ready.version), sha256)
        run_group(2, first, functools.partial(member, tmp_path / "loaded"), further, request)

    with pytest.raises(Stopped):
        train("stopped", StopAfter(2))
    train("stopped")
    train("whole")
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    modules = set((tmp_path / "loaded").read_text().split())
    assert "torch.optim.adam" in modules
    assert not {"torch._dynamo", "ray"} & modules  # PyTorch's compiler takes a second of every process
