"""Where coverage is measured: tracing doubles the cost of a test, and more."""

from __future__ import annotations

import coverage


def test_a_test_outside_of_the_covering_ones_runs_untraced() -> None:
    assert coverage.Coverage.current() is None
