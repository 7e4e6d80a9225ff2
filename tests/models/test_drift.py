"""Drift over a journal of decisions made by hand: what is measured, what is an alarm, and what follows from it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from daemon.core.records import DecisionRow
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import CommitBatch
from daemon.models.drift import DriftLimits, DriftWatch, breaches, measure
from strategies.kit.manifest import Histogram, Manifest, Reference
from strategies.registry import strategy
from tests.support.core.desk import DAY, MONDAY
from tests.support.models.tiny_models import manifest_of

LIMITS = DriftLimits(window=2000, least=100, feature_psi_max=0.25, action_psi_max=0.25)
HALVES = (0.5, 0.5)
EVEN = Histogram("even", (0.5,), HALVES, columns=(0,))
DESK = Histogram("position_side", (0.5,), HALVES, columns=(20,), of_the_desk=True)
ACTIONS = Histogram("actions", (0.5, 1.5, 2.5, 3.5, 4.5), (0.5, 0.5, 0.0, 0.0, 0.0, 0.0))


def manifest(*features: Histogram, actions: Histogram = ACTIONS) -> Manifest:
    reference = Reference(100_000, features, actions)
    return manifest_of(strategy("option_scalper"), b"", (), reference=reference)


def journal(
    folder: Path, first: list[float], desk: list[float], actions: list[int], *, model: str = "v1", day: int = 0
) -> Path:
    """A journal with a decision for each value of the columns 0 and 20, oldest first."""
    path = folder / FILE
    file = Journal.create(path, {}) if not path.exists() else Journal(path)
    batch = CommitBatch()
    for number, (value, side, action) in enumerate(zip(first, desk, actions, strict=True), start=1 + 10_000 * day):
        row = np.zeros(23, dtype="<f4")
        row[0], row[20] = value, side
        batch.rows.append(
            DecisionRow(
                decision=number,
                kind="policy",
                bar_ns=MONDAY.open_ns + day * DAY + number,
                time_ns=0,
                logits=msgspec.json.encode([float(place == action) for place in range(6)]).decode(),
                outcome="hold",
                model=model,
                row=row.tobytes(),
            )
        )
    file.commit(batch)
    file.close()
    return path


def steady(folder: Path, count: int = 400, **options: Any) -> Path:
    """Values, sides and actions that are half and half, as the reference says."""
    halves = [float(number % 2) for number in range(count)]
    return journal(folder, halves, halves, [number % 2 for number in range(count)], **options)


def test_what_is_as_in_training_has_an_index_of_nothing(tmp_path: Path) -> None:
    drift = measure(steady(tmp_path), manifest(EVEN, DESK), 2000, 100)
    assert drift is not None
    assert [(feature.name, feature.psi) for feature in drift.features] == [("even", 0.0), ("position_side", 0.0)]
    assert (drift.model, drift.decisions, drift.actions.psi, breaches(drift, LIMITS)) == ("v1", 400, 0.0, ())


def test_a_shift_is_measured_by_the_formula_and_alarmed_largest_first(tmp_path: Path) -> None:
    path = journal(tmp_path, [0.0] * 360 + [1.0] * 40, [0.0] * 400, [0] * 320 + [1] * 80)
    drift = measure(path, manifest(EVEN, DESK), 2000, 100)
    assert drift is not None
    even = next(feature for feature in drift.features if feature.name == "even")
    assert even.psi == pytest.approx(0.4 * np.log(0.9 / 0.5) - 0.4 * np.log(0.1 / 0.5))  # 0.8789
    assert drift.actions.psi == pytest.approx(0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5))  # 0.4159
    assert [feature.name for feature in drift.features] == ["position_side", "even"]  # the desk's own comes first here
    assert breaches(drift, LIMITS) == ("even 0.88", "actions 0.42")  # and is never alarmed


def test_more_than_three_features_are_counted(tmp_path: Path) -> None:
    path = journal(tmp_path, [0.0] * 400, [0.0] * 400, [0, 1] * 200)
    drift = measure(path, manifest(*(msgspec.structs.replace(EVEN, name=f"f{n}") for n in range(5))), 2000, 100)
    assert drift is not None
    assert breaches(drift, LIMITS)[-1] == "2 more features"


def test_what_parts_of_the_training_showed_as_well_is_no_alarm(tmp_path: Path) -> None:
    path = journal(tmp_path, [0.0] * 360 + [1.0] * 40, [0.0] * 400, [0, 1] * 200)
    for level, alarmed in ((0.87, ("even 0.88",)), (0.89, ())):
        usual = msgspec.structs.replace(EVEN, within=((250, level), (500, 0.0)))
        drift = measure(path, manifest(usual), 2000, 100)
        assert drift is not None
        assert breaches(drift, LIMITS) == alarmed


def test_a_limit_below_what_chance_does_is_not_alarmed_on(tmp_path: Path) -> None:
    path = journal(tmp_path, [0.0] * 54 + [1.0] * 46, [0.0] * 100, [0, 1] * 50)
    drift = measure(path, manifest(EVEN), 2000, 100)
    assert drift is not None
    assert drift.features[0].psi == pytest.approx(0.0064, abs=1e-4)
    assert drift.features[0].by_chance == pytest.approx(6.635 / 100, rel=0.01)  # chi-square with one degree of freedom
    assert breaches(drift, msgspec.structs.replace(LIMITS, feature_psi_max=0.001)) == ()


def test_only_the_newest_decisions_of_the_running_model_are_looked_at(tmp_path: Path) -> None:
    journal(tmp_path, [1.0] * 300, [1.0] * 300, [1] * 300)
    steady(tmp_path, day=1)
    path = journal(tmp_path, [1.0] * 300, [1.0] * 300, [1] * 300, model="v0", day=2)
    drift = measure(path, manifest(EVEN), 400, 100)
    assert drift is not None
    assert (drift.decisions, drift.features[0].psi) == (400, 0.0)
    assert (drift.first_ns, drift.last_ns) == (MONDAY.open_ns + DAY + 10_001, MONDAY.open_ns + DAY + 10_400)


def test_too_few_decisions_and_a_manifest_without_a_reference_say_nothing(tmp_path: Path) -> None:
    path = steady(tmp_path, 99)
    assert measure(path, manifest(EVEN), 2000, 100) is None
    assert measure(path, manifest_of(strategy("option_scalper"), b"", ()), 2000, 1) is None


def test_rows_of_another_strategy_are_refused(tmp_path: Path) -> None:
    path = steady(tmp_path)
    other = msgspec.structs.replace(manifest(EVEN), strategy="regime_switcher")
    with pytest.raises(ValueError, match="expected rows of 256 bytes"):
        measure(path, other, 2000, 1)


def test_values_of_a_continuous_policy_are_compared_as_they_are(tmp_path: Path) -> None:
    file = Journal.create(tmp_path / FILE, {})
    batch, spec = CommitBatch(), strategy("daily_rebalancer").spec
    for number in range(100):
        batch.rows.append(
            DecisionRow(
                decision=number, kind="policy", bar_ns=number, time_ns=0, outcome="hold", model="v1",
                logits=msgspec.json.encode([-0.5] * 25 + [0.5] * 25).decode(), row=bytes(4 * 803),
            )
        )  # fmt: skip
    file.commit(batch)
    file.close()
    reference = Reference(1000, (), Histogram("actions", (0.0,), (0.25, 0.75)))
    manifest = manifest_of(strategy("daily_rebalancer"), b"", (), reference=reference)
    assert len(spec.actions) == 50
    drift = measure(tmp_path / FILE, manifest, 2000, 1)
    assert drift is not None
    assert drift.actions.found == (0.5, 0.5)


# --- the watch ----------------------------------------------------------------------------------------------------


class Heard:
    """What a watch tells and asks for."""

    def __init__(self) -> None:
        self.log: list[tuple[str, dict[str, object]]] = []
        self.pauses: list[str] = []

    def tell(self, name: str, **fields: object) -> None:
        self.log.append((name, fields))

    async def pause(self, reason: str) -> None:
        self.pauses.append(reason)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.log]


def watch(path: Path, running: Manifest | None, record: Heard, *, pause: bool = False) -> DriftWatch:
    return DriftWatch(
        path, lambda: running, LIMITS, every_min=60, log=record.tell, pause=record.pause if pause else None
    )


async def test_a_look_without_drift_is_one_line_of_the_log(tmp_path: Path) -> None:
    record = Heard()
    looking = watch(steady(tmp_path), manifest(EVEN, DESK), record, pause=True)
    await looking.look()
    measurement = {"model": "v1", "decisions": 400, "features_psi_max": 0.0, "feature": "even", "action_psi": 0.0}
    measurement |= {"beyond": 0}
    assert (record.log, record.pauses) == ([("drift_measured", measurement)], [])
    assert looking.last is not None


async def test_drift_is_an_alarm_once_for_the_same_decisions_and_a_pause_once_a_model_and_day(tmp_path: Path) -> None:
    record = Heard()
    path = journal(tmp_path, [0.0] * 400, [0.0] * 400, [0, 1] * 200)
    looking = watch(path, manifest(EVEN), record, pause=True)
    await looking.look()
    await looking.look()
    assert record.names == ["drift_measured", "drift"]  # over night nothing is decided, and nothing logged again
    assert record.log[0][1]["beyond"] == 1
    assert record.log[1][1] == {"model": "v1", "detail": "index over 400 decisions: even 4.60"}
    assert record.pauses == ["drift of v1: index over 400 decisions: even 4.60"]
    journal(tmp_path, [0.0] * 400, [0.0] * 400, [0, 1] * 200, day=1)
    await looking.look()
    assert record.names == ["drift_measured", "drift"] * 2
    assert len(record.pauses) == 2


async def test_a_restart_pauses_no_desk_again_that_a_person_resumed_that_day(tmp_path: Path) -> None:
    path, pauses = journal(tmp_path, [0.0] * 400, [0.0] * 400, [0, 1] * 200), []
    with closing(sqlite3.connect(path)) as file:
        last_ns = file.execute("SELECT max(bar_ns) FROM decisions").fetchone()[0]
    for row, (day, model) in enumerate(((-2, "v1"), (0, "v2"), (0, "v1")), start=1):
        at_ns = last_ns + day * 24 * 3600 * 10**9
        event = {"type": "PauseRequested", "time_ns": at_ns, "reason": f"drift of {model}: index", "who": "drift"}
        with closing(sqlite3.connect(path)) as file:
            values = (row, at_ns, "PauseRequested", json.dumps(event), "[]", b"")
            file.execute(
                "INSERT INTO events (id, time_ns, kind, payload, effects, hash) VALUES (?, ?, ?, ?, ?, ?)", values
            )
            file.commit()
        record = Heard()
        await watch(path, manifest(EVEN), record, pause=True).look()
        assert record.names == ["drift_measured", "drift"]
        pauses.append(len(record.pauses))
    assert pauses == [1, 1, 0]  # for another day, for another version, for this one


async def test_without_the_word_nothing_is_paused(tmp_path: Path) -> None:
    record = Heard()
    await watch(journal(tmp_path, [0.0] * 400, [0.0] * 400, [0, 1] * 200), manifest(EVEN), record).look()
    assert record.names == ["drift_measured", "drift"]


async def test_a_model_without_a_reference_is_told_once(tmp_path: Path) -> None:
    record = Heard()
    looking = watch(steady(tmp_path), manifest_of(strategy("option_scalper"), b"", ()), record)
    await looking.look()
    await looking.look()
    assert record.names == ["drift_unmeasured"]


async def test_before_there_is_a_model_or_enough_of_it_nothing_is_said(tmp_path: Path) -> None:
    record = Heard()
    await watch(steady(tmp_path, 99), manifest(EVEN), record).look()
    await watch(tmp_path / "nothing", None, record).look()
    assert record.log == []


async def test_a_watch_that_never_looks_ends_at_once(tmp_path: Path) -> None:
    record = Heard()
    await DriftWatch(tmp_path, lambda: None, LIMITS, every_min=0, log=record.tell).run()
    assert record.log == []
