"""A pytest plugin for `bench.mutants.sample`: trace every test, each as a context of its own, and note its seconds.

`make test` traces only the tests of the pure code. Which lines a test passes, and how long it takes, goes into the
folder of the environment's `MUTANTS_FOLDER`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

FOLDER = Path(os.environ["MUTANTS_FOLDER"])
_seconds: dict[str, float] = {}
_tracer = coverage.Coverage(
    data_file=str(FOLDER / "lines.coverage"), source=["daemon/core", "daemon/journal"], config_file=False
)


def pytest_sessionstart() -> None:
    """Trace from before the first import of the product on."""
    _tracer.start()


def pytest_collection_finish() -> None:
    """Let nothing pause it: the project's own tests are traced for another purpose."""
    import tests.conftest

    tests.conftest.untraced = contextlib.nullcontext  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Give what a test passes its name."""
    _tracer.switch_context(item.nodeid)
    result = yield
    _tracer.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up set-up, call and tear-down."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish(exitstatus: int) -> None:
    """Write both, where all tests passed."""
    _tracer.stop()
    if exitstatus != pytest.ExitCode.OK:
        return
    _tracer.save()
    (FOLDER / "seconds.json").write_text(json.dumps(_seconds), encoding="utf-8")
