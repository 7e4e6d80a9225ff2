"""A strategy that lacks a method."""

from __future__ import annotations

from tests.support.planted.days import SPEC, Memory, Planted


class Forgetful:
    """A daily strategy that cannot remember."""

    spec, state_type = SPEC, Memory
    start, observe, decide = Planted.start, Planted.observe, Planted.decide
