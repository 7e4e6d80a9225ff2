"""The policies that answer: who answers when, the candidate's own memory, and when it is switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import ClockTicked, ModelPromoted, PolicyAnswered, ShadowAnswered, ShadowFailed
from daemon.core.limits import Trading
from daemon.core.state import Identity, ShadowState, State
from daemon.core.step import Core, Step
from daemon.models.runtime import SLOW_NS, STRIKES, Models, OnnxPolicy
from daemon.models.store import LoadedModel, load
from strategies.golden import golden_observations
from strategies.kit.contract import Observation
from strategies.registry import strategy as registered
from tests.support.models.daily_models import VERSION, put_models
from tests.support.models.swaps import publish
from tests.support.models.tiny_models import forward, weights

SCALPER = registered("option_scalper")
SEEN = golden_observations(SCALPER)[0]
QUESTION = AskPolicy(1, 10, SEEN)
Opened = tuple[OnnxPolicy, LoadedModel]


@pytest.fixture(scope="module")
def open_policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Opened]:
    store = tmp_path_factory.mktemp("store")
    policies = {}
    for seed, version in enumerate(("a", "b", "c")):
        publish(store, version, seed)
        model = load(store, SCALPER, version)
        policies[version] = (OnnxPolicy.open(model, SCALPER, "cpu", 1), model)
    return policies


@pytest.fixture
def state() -> State[Any]:
    identity = Identity("replay", "paper", "option_scalper", "0" * 10, "sip")
    return Core(SCALPER).start(identity, Trading())


def promoted(model: LoadedModel, **changes: str) -> ModelPromoted:
    fields = {"version": model.version, "digest": model.digest, **changes}
    return ModelPromoted(0, fields["version"], fields["digest"], promoted=True, feed="sip", previous="a")


def step_of(state: State[Any]) -> Step:
    return Step(state, (), ())


def test_the_staged_policy_answers_from_the_event_on_and_not_before(
    open_policies: dict[str, Opened], state: State[Any]
) -> None:
    models = Models(*open_policies["a"])
    models.stage(*open_policies["b"])
    before = models.answer(QUESTION, 5)
    models.observe(ClockTicked(1), step_of(state))
    assert models.answer(QUESTION, 5) == before
    models.observe(promoted(open_policies["b"][1]), step_of(state))
    after = models.answer(QUESTION, 5)
    assert isinstance(before, PolicyAnswered)
    assert isinstance(after, PolicyAnswered)
    assert (before.model, after.model) == ("a", "b")
    for seed, answer in ((0, before), (1, after)):
        assert answer.logits == pytest.approx(forward(weights(seed=seed), SEEN.array()), abs=1e-4)
    assert models.running is open_policies["b"][1]


@pytest.mark.parametrize("changes", [{"version": "c"}, {"digest": "0" * 64}])
def test_an_event_for_which_nothing_was_staged_is_a_bug(
    open_policies: dict[str, Opened], state: State[Any], changes: dict[str, str]
) -> None:
    models = Models(*open_policies["a"])
    models.stage(*open_policies["b"])
    with pytest.raises(RuntimeError, match="no such one was staged"):
        models.observe(promoted(open_policies["b"][1], **changes), step_of(state))


def test_the_event_of_what_runs_already_changes_nothing(open_policies: dict[str, Opened], state: State[Any]) -> None:
    models = Models(*open_policies["a"])
    models.observe(promoted(open_policies["a"][1]), step_of(state))
    assert models.running is open_policies["a"][1]


def test_nothing_answers_beside_where_there_is_no_candidate(
    open_policies: dict[str, Opened], state: State[Any]
) -> None:
    models = Models(*open_policies["a"])
    assert models.shadow_answer(QUESTION, state) is None
    models.set_candidate(*open_policies["b"])
    answer = models.shadow_answer(QUESTION, state)
    assert isinstance(answer, ShadowAnswered)
    assert (answer.decision, answer.model, answer.time_ns) == (1, "b", state.now_ns)
    assert answer.logits == pytest.approx(forward(weights(seed=1), SEEN.array()), abs=1e-4)
    models.drop_candidate()
    assert models.shadow_answer(QUESTION, state) is None


def ticking(steps: Iterator[int]) -> Callable[[], int]:
    """A clock that goes on by the next of `steps` at each second reading."""
    now, readings = [0], [0]

    def clock_ns() -> int:
        readings[0] += 1
        if readings[0] % 2 == 0:
            now[0] += next(steps)
        return now[0]

    return clock_ns


def test_a_candidate_that_is_slow_three_times_in_a_row_is_switched_off(
    open_policies: dict[str, Opened], state: State[Any]
) -> None:
    slow, quick = SLOW_NS + 1, SLOW_NS
    models = Models(*open_policies["a"], clock_ns=ticking(iter([slow, slow, quick, slow, slow, slow])))
    off: list[tuple[str, str]] = []
    models.on_shadow_off = lambda version, reason: off.append((version, reason))
    models.set_candidate(*open_policies["b"])
    for _ in range(5):
        assert models.shadow_answer(QUESTION, state) is not None
        assert off == []
    assert models.shadow_answer(QUESTION, state) is not None
    assert off == [("b", f"switched off after {STRIKES} in a row: 20 ms for an answer, expected at most 20")]
    assert models.shadow_answer(QUESTION, state) is None


def test_a_candidate_that_fails_three_times_in_a_row_is_switched_off_and_the_live_one_answers_on(
    open_policies: dict[str, Opened], state: State[Any]
) -> None:
    models = Models(*open_policies["a"])
    off: list[str] = []
    models.on_shadow_off = lambda version, _reason: off.append(version)
    models.set_candidate(*open_policies["b"])
    bad_question = AskPolicy(2, 10, Observation(b"\xff" * len(SEEN.data), SEEN.shape))  # NaN
    for _ in range(STRIKES):
        assert isinstance(models.shadow_answer(bad_question, state), ShadowFailed)
    assert off == ["b"]
    assert isinstance(models.answer(QUESTION, 0), PolicyAnswered)


def test_whatever_a_candidate_raises_is_an_event(open_policies: dict[str, Opened], state: State[Any]) -> None:
    models = Models(*open_policies["a"])
    models.set_candidate(*open_policies["b"])
    unusable: Any = "no bytes"
    answer = models.shadow_answer(AskPolicy(3, 10, Observation(unusable, SEEN.shape)), state)
    assert isinstance(answer, ShadowFailed)
    assert (answer.decision, answer.model) == (3, "b")


def test_a_memory_of_another_version_is_not_the_candidates(tmp_path: Path) -> None:
    switcher = registered("regime_switcher")
    model = load(put_models(tmp_path), switcher, VERSION)
    policy = OnnxPolicy.open(model, switcher, "cpu", 1)
    models = Models(policy, model)
    models.set_candidate(policy, model)
    observation = golden_observations(switcher)[0]
    identity = Identity("replay", "paper", "regime_switcher", "0" * 10, "sip")
    fresh = Core(switcher).start(identity, Trading())
    memory = bytes.fromhex("0000003f") * 128  # 0.5 in each place

    def answer_with(shadow: ShadowState) -> ShadowAnswered:
        answer = models.shadow_answer(AskPolicy(1, 10, observation), msgspec.structs.replace(fresh, shadow=shadow))
        assert isinstance(answer, ShadowAnswered)
        return answer

    zeros = answer_with(ShadowState())
    assert answer_with(ShadowState("another", memory)) == zeros
    assert answer_with(ShadowState(VERSION, memory)).hidden != zeros.hidden
