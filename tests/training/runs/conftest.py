"""Small runs that the tests of a file share: each is trained once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.training.small_runs import StopAfter, Train, quiet, small_settings
from training.rl.pool import Flag
from training.runs.folder import code_version
from training.runs.prepared import Prepared, prepare
from training.runs.record import Outcome
from training.runs.run import train_and_export
from training.runs.settings import Settings, requests_of
from training.runs.tasks import train_one
from training.study.study import Trial


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of six updates, with a folder of the test file's own."""
    return small_settings(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def messages() -> list[object]:
    """What `whole` reported."""
    return []


@pytest.fixture(scope="module")
def whole(small: Settings, messages: list[object]) -> Outcome:
    """An undisturbed run."""
    return train_and_export(small, messages.append)


@pytest.fixture(scope="module")
def ready(small: Settings) -> Prepared:
    """What every trial on its bars needs."""
    return prepare((small, Path(), code_version()))


@pytest.fixture
def train_trial(ready: Prepared, tmp_path: Path) -> Train:
    """Train the first trial of settings in a folder of this test's, alone."""

    def train(settings: Settings, name: str = "run", stop: StopAfter | None = None) -> Trial:
        flag: Flag = stop or threading.Event()
        prepared = replace(ready, settings=settings, folder=tmp_path / name)
        return train_one(prepared, requests_of(settings)[0], flag, stop or quiet)

    return train
