"""How many examples a property test tries: HYPOTHESIS_PROFILE is `ci` (the default) or `deep`, twenty times as many."""

from __future__ import annotations

import os

from hypothesis import settings

DEEP = 20


def load_profile() -> None:
    """Load the profile that the environment names. Raises InvalidArgument for another one."""
    for name in ("ci", "deep"):  # no test asserts a wall-clock time
        settings.register_profile(name, deadline=None, print_blob=True, max_examples=_times(100, name))
    settings.load_profile(_profile())


def examples(count: int) -> int:
    """Return how many examples a test tries that tries `count` in every run of the suite."""
    return _times(count, _profile())


def _times(count: int, profile: str) -> int:
    return count * DEEP if profile == "deep" else count


def _profile() -> str:
    return os.environ.get("HYPOTHESIS_PROFILE", "ci")
