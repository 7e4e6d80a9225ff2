"""The trial in a child: good models pass, each bad one is refused by name, and the parent neither grows nor waits."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.models import child
from daemon.models.child import environment
from daemon.models.store import LoadedModel, ModelError, load
from daemon.models.trial import TrialProcess, try_model
from strategies.option_scalper import OptionScalper
from strategies.registry import strategy
from tests.support.models.daily_models import VERSION, put_models
from tests.support.models.layers import LAYERS, plain
from tests.support.models.malicious_models import MALICIOUS, stuffed
from tests.support.models.tiny_models import manifest_of, mlp
from tests.support.paths import REPOSITORY

IN_A_CHILD = ("an endless Loop", "a constant of 2^40 elements", "thousands of levels")
"""What would hurt most if it ran here; `test_graph_check` has the others."""


def of(policy: bytes) -> LoadedModel:
    """A loaded model of these bytes."""
    return plain(policy)


def refusal(model: LoadedModel, deadline_s: float = 60.0) -> ModelError:
    with pytest.raises(ModelError) as caught:
        try_model(model, deadline_s)
    return caught.value


def test_what_the_store_ships_passes() -> None:
    try_model(load(REPOSITORY / "onnx_models", strategy("option_scalper")))


def test_a_recurrent_policy_passes(tmp_path: Path) -> None:
    try_model(load(put_models(tmp_path), strategy("regime_switcher"), VERSION))


def test_the_child_goes_without_pandas_as_the_daemon_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes as long as all else of a trial; TA-Lib asks for it."""
    start, _, module = child._START.partition("from {module}")
    ends = "import os; sys.addaudithook(lambda kind, of: kind == 'import' and of[0] == 'pandas.core' and os._exit(9)); "
    monkeypatch.setattr(child, "_START", f"{start}{ends}from {{module}}{module}")
    try_model(load(REPOSITORY / "onnx_models", strategy("daily_rebalancer")))


@pytest.mark.parametrize("name", IN_A_CHILD)
def test_a_malicious_model_is_refused_in_the_child_and_the_parent_does_not_grow(name: str) -> None:
    data, check = MALICIOUS[name]
    before, model = resource.getrusage(resource.RUSAGE_SELF), of(data)
    assert refusal(model).check == check
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) / 1024 < 64
    assert after.ru_utime - before.ru_utime < 1.0  # processor time of this process


def test_sixty_mebibytes_are_refused_in_the_child_and_the_parent_holds_them_once() -> None:
    model = of(stuffed())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(model).check == "graph size"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 16


def test_golden_answers_are_asked_for_in_the_child() -> None:
    manifest = manifest_of(OptionScalper(), mlp(LAYERS), tuple((0.0,) * 6 for _ in plain().manifest.golden.logits))
    assert refusal(replace(plain(), manifest=manifest)).check == "golden output"


def test_a_model_that_takes_too_long_is_ended_at_the_deadline_with_all_that_it_started() -> None:
    error = refusal(plain(), deadline_s=0.01)
    assert error.check == "trial"
    assert "0.01 s" in error.text


def test_a_trial_that_was_given_up_ends_and_starts_nothing_more() -> None:
    trial = TrialProcess()
    trial.kill()
    with pytest.raises(ModelError, match="given up"):
        trial.run(plain())


def test_a_policy_for_whose_answers_the_trading_loop_would_wait_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        TrialProcess(answer_cpu_s=0.0).run(plain())
    assert caught.value.check == "speed"


def test_the_child_knows_no_secret_of_its_parent_and_may_write_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APCA_API_SECRET_KEY", "not-for-children")
    looked = (
        "import os, resource, sys; sys.path.insert(0, sys.argv[1]); import daemon.models.trial;"
        "print([k for k in os.environ if 'APCA' in k], resource.getrlimit(resource.RLIMIT_FSIZE))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", looked, str(REPOSITORY)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert result.stdout.startswith("[] ")
    assert os.environ["APCA_API_SECRET_KEY"] not in result.stdout
