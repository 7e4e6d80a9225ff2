"""The toy desk's journals, and a Redis."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.core.share_bars import SPEC, ShareBars
from tests.support.desks.share_bar_run import Toy, toy_on
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import Logged, redis_anywhere
from tests.support.toy.registered import registered


@pytest.fixture(autouse=True, scope="package")
def toy_strategy() -> Iterator[None]:
    """The toy strategy's line in the registry, as long as these tests run: others look at the registry."""
    with registered(**{SPEC.name: ShareBars.__module__}):
        yield


@pytest.fixture(scope="package")
def toy(toy_strategy: None, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy_on(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="package")
def original(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run; not to be changed."""
    path = tmp_path_factory.mktemp("original") / "state"
    assert toy.run(path)
    return path


@pytest.fixture
def state(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "state"))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_anywhere() as running:
        yield running


@pytest.fixture
def logged() -> Logged:
    return Logged()
