"""A desk that chooses an action for each symbol at each bar: replayed, shown, verified, killed and gone on with."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from daemon.config.load import ConfigError
from daemon.config.strategy import strategy_of
from daemon.engine.follow import Follower
from daemon.engine.recover import recovered_desk
from daemon.host.own_files import StateDirError
from daemon.journal import rows as universe
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.models.store import ModelError, load
from strategies.online_dqn.model_config import SHIPPED
from strategies.registry import strategy
from tests.support.desks.desk_run import (
    Crash,
    Desk,
    chained,
    execute,
    records,
    rltraderctl,
    settings,
    table,
    tape_rows,
    verified,
    write_tape,
)
from tests.support.models.online_models import NAME, VERSION, expected, put_momentum
from tests.support.trades import prove_trades

POSITION = strategy(NAME).spec.features.index("position")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_momentum(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(2, 60, stubs=2))


def desk_of(tape: Path, models: Path, **more: object) -> Desk:
    defaults: dict[str, object] = {"desk__strategy": NAME, "paths__models_dir": models, "policy__version": VERSION}
    return Desk(tape, **defaults | more)


@pytest.fixture(scope="module")
def state_dir(tape: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("played")
    assert desk_of(tape, models).run(path).failure is None
    return path


def test_it_trades_at_the_next_bars_open_and_verifies(tape: Path, state_dir: Path) -> None:
    opens = {}
    for line in tape.read_text().splitlines()[1:]:
        _, start, open_, *_ = line.split(",")
        opens[int(start)] = float(open_)
    fills = records(state_dir, "fills", "filled_ns")
    assert len(fills) > 20
    for fill in fills:
        assert float(fill["price"]) == opens[fill["filled_ns"] - 1]  # a nanosecond after the bar's start
    assert [fill["side"] for fill in fills] == [1, -1] * (len(fills) // 2) + [1] * (len(fills) % 2)
    assert verified(state_dir).difference == ""


def test_its_trades_are_those_of_its_fills_and_come_to_the_book(state_dir: Path) -> None:
    trades = prove_trades(state_dir)
    assert len(trades) > 10
    assert {trade.symbol for trade in trades} == {"SPY"}


def test_values_heads_and_choices_of_each_decision_are_kept(state_dir: Path) -> None:
    decisions = [row for row in records(state_dir, "decisions") if row["kind"] == "policy"]
    heads = {row["decision"]: row for row in records(state_dir, "heads")}
    choices = {row["decision"]: row for row in records(state_dir, "choices")}
    for decision in decisions:
        has_position = bool(np.frombuffer(decision["row"], dtype="<f4")[POSITION])
        numpy = expected(np.frombuffer(decision["row"], dtype="<f4").reshape(1, -1))
        row, choice = heads[decision["decision"]], choices[decision["decision"]]
        assert json.loads(row["answer"]) == pytest.approx(numpy["logits"][0], abs=1e-5)
        assert json.loads(row["heads"]) == pytest.approx(
            {"direction": numpy["direction"][0], "risk": numpy["risk"][0]}, abs=1e-6
        )
        wish = "BUY" if numpy["logits"][0, 1] > 0 else "SELL" if numpy["logits"][0, 2] > 0 else "HOLD"
        resolved = "HOLD" if wish == ("BUY" if has_position else "SELL") else wish
        assert (choice["greedy"], choice["drawn"], decision["action"]) == (resolved,) * 3
        assert json.loads(choice["behaviour"]) == [float(name == resolved) for name in ("HOLD", "BUY", "SELL")]
        assert json.loads(choice["allowed"]) == ["HOLD", "SELL" if has_position else "BUY"]
    assert {row["outcome"] for row in decisions} == {"hold", "ordered"}


def test_a_decision_is_shown_with_its_values_heads_and_probabilities(state_dir: Path) -> None:
    decision = next(row for row in records(state_dir, "decisions") if row["action"] == "BUY")
    result = rltraderctl("decisions", "--state-dir", state_dir, "--bar", decision["bar_ns"], cwd=state_dir)
    assert result.returncode == 0, result.stderr
    for words in ("value of BUY", "probability of SELL", "direction", "risk", "HOLD BUY", "ROCP(1)"):
        assert words in " ".join(result.stdout.split()), result.stdout


def test_a_changed_choice_of_the_read_model_is_found(tape: Path, models: Path, tmp_path: Path) -> None:
    desk_of(tape, models).run(tmp_path)
    assert execute(tmp_path, "UPDATE choices SET drawn = 'NONE' WHERE decision = 3") == 1
    assert "read model choices" in verified(tmp_path).difference


def test_killed_anywhere_it_ends_in_the_same_state_and_the_same_choices(
    tape: Path, models: Path, state_dir: Path, tmp_path: Path
) -> None:
    desk = desk_of(tape, models)
    for _ in range(5):
        steps_left = 120

        def crash(_: str) -> None:
            nonlocal steps_left
            steps_left -= 1
            if steps_left == 0:
                raise Crash

        if desk.run(tmp_path, boundary=crash).failure is None:
            break
    assert desk.run(tmp_path).failure is None
    assert chained(tmp_path) == chained(state_dir)
    for name in ("choices", "heads", "decisions", "fills"):
        assert table(tmp_path, name) == table(state_dir, name)
    assert verified(tmp_path).difference == ""


# --- the model configuration ----------------------------------------------------------------------------------------


def test_a_journal_holds_its_model_configuration_whole(state_dir: Path) -> None:
    with closing(JournalReader(state_dir / FILE)) as reader:
        meta = reader.meta()
        machine = recovered_desk(reader).machine
    assert meta["model_config"] == strategy(NAME).spec.config == machine.state.identity.config
    assert universe.strategy_of(meta).spec == strategy(NAME).spec == machine.core.desk.spec
    follower = Follower(state_dir)
    while follower.advance(1000) and not follower.caught_up:
        pass
    assert (follower.problem, follower.state) == ("", machine.state)


@pytest.fixture
def shorter(tmp_path: Path) -> Path:
    path = tmp_path / "shorter.yaml"
    path.write_text(SHIPPED.read_text().replace("window: 20\n", "window: 10\n"))
    return path


def test_another_file_is_another_contract_and_the_model_is_refused_by_name(
    tape: Path, models: Path, shorter: Path
) -> None:
    with pytest.raises(
        ModelError, match=r"was trained with window 20, this desk's model configuration has 10"
    ) as raised:
        desk_of(tape, models, desk__model_config=str(shorter))
    assert raised.value.check == "model configuration"


def test_a_model_of_the_other_file_runs_and_its_journal_is_bound_to_it(
    tape: Path, models: Path, shorter: Path, state_dir: Path, tmp_path: Path
) -> None:
    maker = strategy_of(settings(tmp_path, desk__strategy=NAME, desk__model_config=str(shorter)))
    assert maker.spec.window == 10
    store = put_momentum(tmp_path / "store", maker)
    desk = desk_of(tape, store, desk__model_config=str(shorter))
    assert desk.run(tmp_path / "state").failure is None
    assert verified(tmp_path / "state").difference == ""
    with pytest.raises(
        StateDirError, match=r"made with model_config [0-9a-f]{12}, now [0-9a-f]{12} is asked for: set desk"
    ):
        desk.fresh_state(state_dir)
    assert desk.replay.epoch() != desk_of(tape, models).replay.epoch()
    with pytest.raises(ModelError, match="was trained with window 10"):
        load(store, strategy(NAME), VERSION)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            None,
            r"desk.model_config \(from the command line\): .*none.yaml cannot be read \(No such file or directory\)",
        ),
        ("version: 1\nwindw: 3", "'windw' is unknown: did you mean window"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_mistake_of_the_configuration(
    text: str | None, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "none.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        strategy_of(settings(tmp_path, desk__strategy=NAME, desk__model_config=str(path)))


def test_a_strategy_without_a_model_configuration_takes_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'desk.model_config is "x.yaml" .* expected "": option_scalper has no model'):
        settings(tmp_path, desk__model_config="x.yaml")
    with pytest.raises(ConfigError, match=r'exploration.kind is "epsilon" .* expected "none": option_scalper draws no'):
        settings(tmp_path, exploration__kind="epsilon")
    with pytest.raises(ValueError, match="option_scalper has no model configuration, found one given to it"):
        strategy("option_scalper", (), "{}")


# --- exploration ------------------------------------------------------------------------------------------------------


def test_exploration_is_journaled_verified_and_the_same_again(
    tape: Path, models: Path, state_dir: Path, tmp_path: Path
) -> None:
    desk = desk_of(tape, models, exploration__kind="epsilon", exploration__epsilon=0.3)
    assert desk.run(tmp_path / "one").failure is None
    assert desk.run(tmp_path / "two").failure is None
    rows = table(tmp_path / "one", "choices")
    assert rows == table(tmp_path / "two", "choices") != table(state_dir, "choices")
    assert verified(tmp_path / "one").difference == ""
    choices = records(tmp_path / "one", "choices")
    strayed = [row for row in choices if row["drawn"] != row["greedy"]]
    assert 0.05 < len(strayed) / len(choices) < 0.3
    for row in choices:
        allowed, shares = json.loads(row["allowed"]), json.loads(row["behaviour"])
        by_name = dict(zip(("HOLD", "BUY", "SELL"), shares, strict=True))
        assert sum(shares) == pytest.approx(1.0)
        assert {name for name, share in by_name.items() if share} == set(allowed)
        assert row["drawn"] in allowed
        best = row["greedy"] if row["greedy"] in allowed else "HOLD"
        assert by_name[best] == pytest.approx(0.7 + 0.3 / len(allowed))


def test_a_buy_that_the_gates_deny_is_never_drawn(tape: Path, models: Path, tmp_path: Path) -> None:
    desk = desk_of(tape, models, exploration__kind="softmax", risk__no_entry_after_open_min=30)
    assert desk.run(tmp_path).failure is None
    early = [row for row in records(tmp_path, "choices") if "BUY" not in json.loads(row["allowed"])]
    assert len(early) >= 58
    assert {row["drawn"] for row in early} <= {"HOLD", "SELL"}
    assert {row["outcome"] for row in records(tmp_path, "decisions")} <= {"hold", "ordered"}
