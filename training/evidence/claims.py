"""What a strategy's reference claims, what a study found, and the caveats of comparing the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from training.evidence.findings import Findings
from training.study.study import Study


class Claim(NamedTuple):
    """A claim of a reference in words, and the function that gives this study's figure as text; a report shows both."""

    name: str
    claimed: str
    figure_text: Callable[[Findings, Study], str]


class StrategyClaims(NamedTuple):
    """What is claimed for a strategy, how data and rules differ, and what the choice of its symbols flatters."""

    claims: tuple[Claim, ...]
    differs: tuple[str, ...]
    survivorship: str
