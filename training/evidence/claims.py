"""Claims of a strategy's published source, with this study's figure beside each, and the caveats of the comparison."""

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
    """The published claims for a strategy, the differences in data and rules, and the bias of its choice of symbols."""

    claims: tuple[Claim, ...]
    differs: tuple[str, ...]
    survivorship: str
