"""A desk whose store has no model yet waits for the first one; one with a journal does not."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.app.live.model_choice import wait_for_first
from daemon.config.load import DeskSettings
from daemon.experience.learning import LearningFile
from daemon.host.service import Service
from daemon.models.ladder.cards import HoldReasons, write_holds
from daemon.models.pointer import CURRENT, changes
from tests.support.desks.desk_run import Desk, settings, tape_rows, write_tape
from tests.support.models.online_models import NAME, VERSION, put_momentum
from tests.support.outside.stream import Logged


class Waits:
    """Stands for the time between two looks: at each one the next step is done."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps, self.count = list(steps), 0

    def __call__(self, _: float) -> None:
        self.count += 1
        self._steps.pop(0)()


def of_store(tmp_path: Path, **more: Any) -> DeskSettings:
    (tmp_path / "store").mkdir(exist_ok=True)
    defaults: dict[str, Any] = {"desk__strategy": NAME, "policy__version": CURRENT, "policy__wait_for_first": True}
    return settings(tmp_path / "state", paths__models_dir=tmp_path / "store", **defaults | more)


def put_version(store: Path, version: str) -> None:
    """A version as a trainer leaves it: no pointer names it."""
    put_momentum(store, version=version)
    (store / NAME / CURRENT).unlink()


def test_the_first_version_becomes_current_and_the_desk_starts(tmp_path: Path) -> None:
    logged, models, store = Logged(), of_store(tmp_path), tmp_path / "store"
    waits = Waits(lambda: None, lambda: put_version(store, "b"))
    wait_for_first(models, logged.log, Service(), pause=waits)
    assert waits.count == 2
    assert (store / NAME / CURRENT).read_text() == "b\n"
    assert [(change.who, change.after) for change in changes(store / NAME)][-1] == ("rltraderd", "b")
    assert [line["event"] for line in logged.lines()] == ["no_model", "first_model"]
    assert "its trainer makes the first one" in logged.lines("no_model")[0]["reason"]


def test_of_several_the_oldest_that_passes_the_checks_is_taken(tmp_path: Path) -> None:
    logged, store = Logged(), tmp_path / "store"
    models = of_store(tmp_path)
    for version in ("broken", "z", "a"):
        put_version(store, version)
    (store / NAME / "broken" / "policy.onnx").write_bytes(b"broken")
    wait_for_first(models, logged.log, Service(), pause=Waits())
    assert (store / NAME / CURRENT).read_text() == "z\n"


def test_a_version_that_is_refused_is_named_once_and_waited_over(tmp_path: Path) -> None:
    logged, store = Logged(), tmp_path / "store"
    models = of_store(tmp_path)
    put_version(store, "broken")
    (store / NAME / "broken" / "policy.onnx").write_bytes(b"broken")
    waits = Waits(lambda: None, lambda: put_version(store, "good"))
    wait_for_first(models, logged.log, Service(), pause=waits)
    (line,) = logged.lines("no_model")
    assert "policy digest" in line["reason"]
    assert (store / NAME / CURRENT).read_text() == "good\n"


def alarm_program(tmp_path: Path) -> dict[str, Any]:
    """Setting of a program that keeps each alarm's line in a file."""
    program = tmp_path / "alarm"
    program.write_text(f"#!/bin/sh\ncat >> {tmp_path / 'told'}\n")
    program.chmod(0o755)
    return {"alarms__command": (str(program),)}


def alarms_told(tmp_path: Path) -> list[tuple[str, str]]:
    lines = map(json.loads, (tmp_path / "told").read_text().splitlines())
    return [(line["alarm"], line["detail"]) for line in lines]


def test_a_trainer_that_gives_no_sign_and_no_model_is_an_alarm_once(tmp_path: Path) -> None:
    """Nobody else tells: the desk looks alive, and trades nothing for ever."""
    logged, models, now_s = Logged(), of_store(tmp_path, **alarm_program(tmp_path)), iter(range(0, 10**6, 60))
    waits = Waits(*[lambda: None] * 100, lambda: put_version(tmp_path / "store", "a"))
    wait_for_first(models, logged.log, Service(), pause=waits, steady=lambda: next(now_s))
    ((alarm, detail),) = alarms_told(tmp_path)
    assert alarm == "trainer_problem"
    assert "no trainer gave a sign" in detail
    assert "waits for its first model" in detail


def test_a_trainer_that_works_on_the_first_model_is_none(tmp_path: Path) -> None:
    logged, models, now_s = Logged(), of_store(tmp_path, **alarm_program(tmp_path)), iter(range(0, 10**6, 60))
    (tmp_path / "store" / NAME).mkdir(parents=True)
    file, minutes = LearningFile(tmp_path / "store" / NAME), iter(range(10**6))
    waits = Waits(
        *[lambda: file.write(now_ns=next(minutes), stream="", row=0)] * 100,
        lambda: put_version(tmp_path / "store", "a"),
    )
    wait_for_first(models, logged.log, Service(), pause=waits, steady=lambda: next(now_s))
    assert not (tmp_path / "told").exists()


def test_a_first_version_that_is_refused_is_an_alarm_once_and_one_that_a_person_holds_back_is_none(
    tmp_path: Path,
) -> None:
    logged, store, models = Logged(), tmp_path / "store", of_store(tmp_path, **alarm_program(tmp_path))
    put_version(store, "broken")
    (store / NAME / "broken" / "policy.onnx").write_bytes(b"broken")
    put_version(store, "held")
    write_holds(store / NAME, HoldReasons(held={"held": "it loses (by ann)"}))
    waits = Waits(*[lambda: None] * 20, lambda: put_version(store, "good"))
    wait_for_first(models, logged.log, Service(), pause=waits)
    ((alarm, detail),) = alarms_told(tmp_path)
    assert alarm == "model_refused"
    assert "policy digest" in detail


def test_a_full_store_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    logged, store = Logged(), tmp_path / "store"
    models = of_store(tmp_path)
    put_version(store, "good")
    with monkeypatch.context() as patch:
        patch.setattr("daemon.models.pointer.write_whole", full)
        wait_for_first(models, logged.log, Service(), pause=Waits(patch.undo))
    assert "No space left" in logged.lines("no_model")[0]["reason"]
    assert (store / NAME / CURRENT).read_text() == "good\n"


def test_a_version_that_a_person_holds_back_is_not_the_first(tmp_path: Path) -> None:
    logged, store = Logged(), tmp_path / "store"
    models = of_store(tmp_path)
    put_version(store, "bad")
    write_holds(store / NAME, HoldReasons(held={"bad": "it loses (by ann)"}))
    waits = Waits(lambda: put_version(store, "good"))
    wait_for_first(models, logged.log, Service(), pause=waits)
    assert "bad: it loses (by ann)" in logged.lines("no_model")[0]["reason"]
    assert (store / NAME / CURRENT).read_text() == "good\n"


def test_a_named_version_is_waited_for_and_no_pointer_is_written(tmp_path: Path) -> None:
    logged, store = Logged(), tmp_path / "store"
    models = of_store(tmp_path, policy__version="wanted")
    put_version(store, "other")
    wait_for_first(models, logged.log, Service(), pause=Waits(lambda: put_version(store, "wanted")))
    assert "has no version wanted yet" in logged.lines("no_model")[0]["reason"]
    assert not (store / NAME / CURRENT).exists()


def test_without_the_setting_or_with_a_pointer_nothing_is_waited_for(tmp_path: Path) -> None:
    logged = Logged()
    wait_for_first(of_store(tmp_path, policy__wait_for_first=False), logged.log, Service(), pause=Waits())
    put_momentum(tmp_path / "store", version="one")
    wait_for_first(of_store(tmp_path), logged.log, Service(), pause=Waits())
    assert logged.lines() == []


def test_a_desk_with_a_journal_does_not_wait(tmp_path: Path) -> None:
    """Its start reports the missing model: positions may be open."""
    store = put_momentum(tmp_path / "store")
    tape = write_tape(tmp_path / "tape.csv", tape_rows(1, 5, stubs=1))
    desk = Desk(tape, desk__strategy=NAME, paths__models_dir=store, policy__version=VERSION)
    assert desk.run(tmp_path / "state").failure is None
    (store / NAME / CURRENT).unlink()
    wait_for_first(of_store(tmp_path), Logged().log, Service(), pause=Waits())
    assert not (store / NAME / CURRENT).exists()
