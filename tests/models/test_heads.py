"""Policies with named heads that answer row by row: what is bound, checked, answered, tried and refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered, PolicyFailed
from daemon.journal.rows import decode_event, encode_event
from daemon.models import child, trial
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import ModelError, load
from strategies.golden import GOLDEN_SYMBOLS, contract_hash, golden_observations
from strategies.kit.contract import Observation
from strategies.kit.manifest import Golden
from strategies.registry import strategy
from tests.support.models.row_models import NAMES, VERSION, expected, golden_of, put_row_model, row_policy
from tests.support.toy.registered import registered

MANY = tuple(f"S{n:03}" for n in range(475))


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    with registered(toy_crowd="tests.support.toy.crowd"):
        yield


def open_policy(models_dir: Path, symbols: tuple[str, ...] = ()) -> OnnxPolicy:
    maker = strategy("toy_crowd", symbols)
    return OnnxPolicy.open(load(models_dir, maker, VERSION), maker, "cpu")


def ask(rows: int, seed: int = 3) -> AskPolicy:
    values = (np.random.default_rng(seed).standard_normal((rows, 8)) * 0.02).astype("<f4")
    return AskPolicy(5, 99, Observation(values.tobytes(), values.shape))


def refusal(models_dir: Path, policy: bytes, golden: Golden | None = None) -> tuple[str, str]:
    maker = strategy("toy_crowd")
    put_row_model(models_dir, maker, policy, golden=golden or golden_of(maker, row_policy()))
    with pytest.raises(ModelError) as caught:
        open_policy(models_dir)
    return caught.value.check, caught.value.text


@pytest.mark.parametrize("symbols", [(), ("ONE",), MANY])
def test_an_answer_has_a_number_and_heads_for_each_symbol(tmp_path: Path, symbols: tuple[str, ...]) -> None:
    policy = open_policy(put_row_model(tmp_path, strategy("toy_crowd")), symbols)
    question = ask(len(symbols) or 5)
    event = policy.answer(question, 7)
    assert isinstance(event, PolicyAnswered)
    numpy = expected(question.observation.array())
    assert event.logits == pytest.approx(numpy["final"], abs=1e-6)
    assert list(event.heads) == ["probabilities", "confidence", "bold", "final"]
    for name, values in event.heads.items():
        assert values == pytest.approx(numpy[name].reshape(-1), abs=1e-6), name
    assert len(event.heads["probabilities"]) == 3 * (len(symbols) or 5)


def test_heads_are_journaled_and_an_answer_without_any_keeps_its_bytes(tmp_path: Path) -> None:
    event = open_policy(put_row_model(tmp_path, strategy("toy_crowd"))).answer(ask(5), 7)
    assert decode_event(encode_event(event)) == event
    plain = PolicyAnswered(7, 5, (0.5,), b"", "v1")
    assert encode_event(plain) == (
        '{"type":"PolicyAnswered","time_ns":7,"decision":5,"logits":[0.5],"hidden":"","model":"v1"}'
    )


def test_an_observation_of_other_symbols_is_a_failure(tmp_path: Path) -> None:
    event = open_policy(put_row_model(tmp_path, strategy("toy_crowd"))).answer(ask(4), 7)
    assert isinstance(event, PolicyFailed)
    assert "observation of shape (4, 8), expected (5, 8)" in event.reason


def test_a_head_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    maker, divides = strategy("toy_crowd"), row_policy(divides=True)
    policy = open_policy(put_row_model(tmp_path, maker, divides, golden=golden_of(maker, divides)))
    values = np.ones((5, 8), dtype="<f4")
    values[2, 4:6] = 0.0  # 0 / 0
    event = policy.answer(AskPolicy(5, 99, Observation(values.tobytes(), values.shape)), 7)
    assert isinstance(event, PolicyFailed)
    assert "bold holds NaN or infinity" in event.reason


@pytest.mark.parametrize(
    "outputs",
    [
        NAMES[:-1],  # a head is missing
        (*NAMES, "trust"),  # one too many
        ("actions", "confidence", "probabilities", "bold", "final"),  # in another order
    ],
)
def test_a_graph_with_other_heads_is_refused(tmp_path: Path, outputs: tuple[str, ...]) -> None:
    check, text = refusal(tmp_path, row_policy(outputs))
    assert check == "graph outputs"
    assert "export the model again" in text


def test_golden_heads_must_be_those_of_the_manifest(tmp_path: Path) -> None:
    golden = golden_of(strategy("toy_crowd"), row_policy())
    heads = [dict(answer) for answer in golden.heads]
    heads[2]["confidence"] = tuple(value + 0.01 for value in heads[2]["confidence"])
    check, text = refusal(tmp_path / "a", row_policy(), golden=msgspec.structs.replace(golden, heads=tuple(heads)))
    assert check == "golden output"
    assert "2 differs on CPUExecutionProvider: confidence: found" in text
    check, text = refusal(tmp_path / "b", row_policy(), golden=msgspec.structs.replace(golden, heads=()))
    assert (check, "there are 0 answers of heads, expected 6" in text) == ("golden output", True)
    del heads[4]["bold"]
    check, text = refusal(tmp_path / "c", row_policy(), golden=msgspec.structs.replace(golden, heads=tuple(heads)))
    assert check == "golden output"


def test_golden_answers_and_the_contract_are_the_same_whatever_symbols_are_configured() -> None:
    plain, other = strategy("toy_crowd"), strategy("toy_crowd", MANY)
    assert golden_observations(plain)[3].data == golden_observations(other)[3].data
    assert golden_observations(other)[0].shape == (len(GOLDEN_SYMBOLS), 8)
    assert contract_hash(plain) == contract_hash(other)


def test_a_trial_runs_the_heads_and_times_an_answer_about_all_symbols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = "from strategies.registry import STRATEGIES; STRATEGIES['toy_crowd'] = 'tests.support.toy.crowd'; "
    before, _, after = child._START.partition("from {module}")
    monkeypatch.setattr(child, "_START", f"{before}{toy}from {{module}}{after}")
    model = load(put_row_model(tmp_path, strategy("toy_crowd")), strategy("toy_crowd"), VERSION)
    trial.try_model(model)
    trial.try_model(model, symbols=MANY)
    never = "import daemon.models.trial as trial; trial.ROW_CPU_S = 0.0; "
    monkeypatch.setattr(child, "_START", f"{before}{toy}{never}from {{module}}{after}")
    with pytest.raises(ModelError, match="expected less than 0:"):
        trial.TrialProcess(answer_cpu_s=0.0).run(model, MANY)
