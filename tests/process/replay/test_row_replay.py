"""A desk whose symbols are rows and whose policy has heads: replayed, shown, verified, killed and gone on with."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from daemon.core.state import encode_state
from daemon.engine.follow import Follower
from daemon.engine.recover import recovered_desk
from daemon.host.own_files import StateDirError
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import strategy_of
from daemon.models.drift import measure
from daemon.models.store import load, other_symbols
from strategies.kit.manifest import Histogram, Reference
from strategies.registry import strategy
from tests.support.desks.desk_run import Crash, Desk, execute, table, verified
from tests.support.models.daily_models import write_days
from tests.support.models.row_models import VERSION, expected, put_row_model
from tests.support.models.tiny_models import manifest_of
from tests.support.toy.crowd import HISTORY_BARS, SHORT, SYMBOLS
from tests.support.toy.registered import registered

SESSIONS = 40


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with registered(toy_crowd="tests.support.toy.crowd"):
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_row_model(tmp_path_factory.mktemp("store"), strategy("toy_crowd"))


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up days of the toy's symbols; EEE begins later."""
    path = write_days(tmp_path_factory.mktemp("tape") / "days.csv", SYMBOLS, SESSIONS)
    lines = path.read_text().splitlines()
    late = [line for line in lines if line.startswith("EEE")][:10]
    path.write_text("\n".join(line for line in lines if line not in late) + "\n")
    return path


def desk_of(tape: Path, models: Path, **more: object) -> Desk:
    defaults: dict[str, object] = {
        "desk__strategy": "toy_crowd",
        "paths__models_dir": models,
        "policy__version": VERSION,
    }
    return Desk(tape, **defaults | more)


def records(state_dir: Path, name: str) -> list[sqlite3.Row]:
    """A read model's rows, oldest first."""
    with closing(JournalReader(state_dir / FILE)) as reader:
        return reader.query(f"SELECT * FROM {name} ORDER BY decision")


def matrix(row: bytes) -> npt.NDArray[np.float64]:
    """The journaled newest row of each symbol as an observation's: return and range at the end of the sequence."""
    newest = np.frombuffer(row, dtype="<f4").reshape(-1, 4)
    observation = np.zeros((len(newest), 8))
    observation[:, 4:6], observation[:, 6:] = newest[:, :2], newest[:, 2:]
    return observation


def test_the_heads_of_each_decision_are_kept_by_symbol_with_the_weights(
    tape: Path, models: Path, tmp_path: Path
) -> None:
    assert desk_of(tape, models).run(tmp_path).failure is None
    decisions, heads = records(tmp_path, "decisions"), records(tmp_path, "heads")
    assert len(decisions) == SESSIONS - HISTORY_BARS
    assert len(heads) == len(decisions) * len(SYMBOLS)
    trades = 0
    for decision in decisions:
        rows = {head["symbol"]: head for head in heads if head["decision"] == decision["decision"]}
        numpy = expected(matrix(decision["row"]))
        goals = {leg["symbol"]: leg["goal"] for leg in json.loads(decision["target"])}
        for place, symbol in enumerate(SYMBOLS):
            row, symbol_heads = rows[symbol], json.loads(rows[symbol]["heads"])
            assert json.loads(row["answer"]) == pytest.approx(numpy["final"][place], abs=1e-6)
            assert symbol_heads["probabilities"] == pytest.approx(numpy["probabilities"][place], abs=1e-6)
            assert symbol_heads["bold"] == pytest.approx(numpy["bold"][place], abs=1e-6)
            assert row["weight_before"] == pytest.approx(matrix(decision["row"])[place, 6], abs=1e-6)
            assert (row["weight_after"] == row["weight_before"]) == (symbol not in goals)
            trades += symbol in goals
    assert trades > 20
    assert {head["note"] for head in heads if head["symbol"] == "EEE"} == {SHORT, ""}
    assert {head["note"] for head in heads if head["symbol"] == "AAA"} == {""}
    assert verified(tmp_path).difference == ""


def test_a_changed_head_of_the_read_model_is_found(tape: Path, models: Path, tmp_path: Path) -> None:
    desk_of(tape, models).run(tmp_path)
    assert execute(tmp_path, "UPDATE heads SET weight_after = 0.5 WHERE decision = 7 AND symbol = 'BBB'") == 1
    assert "read model heads" in verified(tmp_path).difference


def test_killed_anywhere_it_ends_in_the_same_state_and_the_same_heads(tape: Path, models: Path, tmp_path: Path) -> None:
    desk = desk_of(tape, models)
    whole = desk.run(tmp_path / "whole")
    for _ in range(6):
        steps_left = 60

        def crash(_: str) -> None:
            nonlocal steps_left
            steps_left -= 1
            if steps_left == 0:
                raise Crash

        if desk.run(tmp_path / "torn", boundary=crash).failure is None:
            break
    last = desk.run(tmp_path / "torn")
    assert (last.failure, last.digest) == (None, whole.digest)
    assert table(tmp_path / "torn", "heads") == table(tmp_path / "whole", "heads")
    assert verified(tmp_path / "torn").difference == ""


def test_drift_pools_the_rows_of_all_symbols(tape: Path, models: Path, tmp_path: Path) -> None:
    desk_of(tape, models).run(tmp_path)
    base = load(models, strategy("toy_crowd"), VERSION).manifest
    tradable = Histogram("tradable", (0.5,), (0.5, 0.5), columns=(3,))
    final = Histogram("actions", (0.0,), (0.5, 0.5))
    manifest = msgspec.structs.replace(base, reference=Reference(1000, (tradable,), final))
    drift = measure(tmp_path / FILE, manifest, 2000, 1)
    assert drift is not None
    decisions = records(tmp_path, "decisions")
    flags = np.concatenate([matrix(decision["row"])[:, 7] for decision in decisions])
    assert drift.features[0].found == pytest.approx((1 - flags.mean(), flags.mean()), abs=1e-6)
    answers = np.concatenate([json.loads(decision["logits"]) for decision in decisions])
    assert drift.actions.found[1] == pytest.approx((answers > 0).mean(), abs=1e-6)


# --- the symbols are a configuration --------------------------------------------------------------------------------

OTHERS = ("BBB", "DDD", "ZZZ")


def test_the_configured_symbols_are_those_of_the_whole_journal(tape: Path, models: Path, tmp_path: Path) -> None:
    days = write_days(tmp_path / "others.csv", OTHERS, SESSIONS)
    assert desk_of(days, models, desk__symbols=OTHERS).run(tmp_path / "state").failure is None
    state_dir = tmp_path / "state"
    heads = records(state_dir, "heads")
    assert len(heads) == 3 * (SESSIONS - HISTORY_BARS)
    assert {head["symbol"] for head in heads} == set(OTHERS)
    assert {fill[3] for fill in table(state_dir, "fills")} == set(OTHERS)
    assert verified(state_dir).difference == ""
    with closing(JournalReader(state_dir / FILE)) as reader:
        assert reader.meta()["symbols"] == "BBB,DDD,ZZZ"
        assert strategy_of(reader.meta()).spec.symbols == OTHERS
        machine = recovered_desk(reader).machine
    assert machine.state.identity.symbols == machine.core.desk.spec.symbols == OTHERS
    follower = Follower(state_dir)
    while follower.advance(1000) and not follower.caught_up:
        pass
    assert follower.problem == ""
    assert follower.state == machine.state


def test_no_symbol_is_wanted_beyond_the_largest_weight(tape: Path, models: Path, tmp_path: Path) -> None:
    assert desk_of(tape, models, basket__weight_max=0.05).run(tmp_path).failure is None
    weights = [row["weight_after"] for row in records(tmp_path, "heads")]
    assert 0.04 < max(weights) < 0.06  # what is left alone may have risen


def test_a_journal_of_other_symbols_is_refused_with_the_cure(tape: Path, models: Path, tmp_path: Path) -> None:
    desk_of(tape, models).run(tmp_path)
    other_desk = desk_of(tape, models, desk__symbols=("AAA", "BBB"))
    with pytest.raises(StateDirError, match="with symbols AAA,BBB,CCC,DDD,EEE, now AAA,BBB is asked for: set"):
        other_desk.fresh_state(tmp_path)
    assert other_desk.replay.epoch() != desk_of(tape, models).replay.epoch()
    same = desk_of(tape, models, desk__symbols=SYMBOLS)
    assert same.run(tmp_path).failure is None


def test_symbols_that_the_model_was_not_trained_on_are_a_warning() -> None:
    manifest = manifest_of(strategy("toy_crowd"), b"", (), symbols=SYMBOLS)
    assert other_symbols(manifest, strategy("toy_crowd").spec) == ""
    few = strategy("toy_crowd", ("AAA", "BBB", "CCC")).spec
    assert other_symbols(manifest, few) == (
        "it was trained on 5 symbols, this desk has 3: 2 of its own are left out (DDD, EEE)"
    )
    many = strategy("toy_crowd", (*SYMBOLS, *(f"N{n}" for n in range(7)))).spec
    assert other_symbols(manifest, many) == (
        "it was trained on 5 symbols, this desk has 12: 7 that it never saw (N0, N1, N2, N3, N4, ...)"
    )
    assert other_symbols(manifest_of(strategy("regime_switcher"), b"", ()), strategy("regime_switcher").spec) == ""


def test_475_symbols_replay_and_verify_and_their_state_is_small(models: Path, tmp_path: Path) -> None:
    many = tuple(f"S{n:03}" for n in range(475))
    days = write_days(tmp_path / "many.csv", many, 10)
    desk = desk_of(days, models, desk__symbols=many, basket__band=0.0)
    run = desk.run(tmp_path / "state")
    assert run.failure is None
    assert len(records(tmp_path / "state", "heads")) == 475 * (10 - HISTORY_BARS)
    assert verified(tmp_path / "state").difference == ""
    assert run.engine is not None
    assert len(encode_state(run.engine.machine.state)) < 2 * 2**20
