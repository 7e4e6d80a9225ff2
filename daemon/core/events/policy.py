"""What the models answered, and which of them answers."""

from __future__ import annotations

import msgspec

from daemon.core.events.base import Event


class PolicyAnswered(Event, frozen=True, tag=True, omit_defaults=True):
    """The raw answer. `heads` are the numbers of each of the spec's heads; a policy without heads journals none."""

    decision: int
    logits: tuple[float, ...]
    hidden: bytes
    model: str
    heads: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)


class PolicyFailed(Event, frozen=True, tag=True):
    """The policy gave no usable answer: an exception, a NaN, a wrong shape."""

    decision: int
    reason: str


class ModelPromoted(Event, frozen=True, tag=True):
    """A verified version answers from here on, in the place of `previous`. Promoted or not says the model itself."""

    version: str
    digest: str
    promoted: bool
    feed: str
    previous: str


class CandidateRefused(Event, frozen=True, tag=True):
    """A version that was to run, or to answer beside, failed a check; what ran before goes on."""

    version: str
    reason: str


class ShadowAnswered(Event, frozen=True, tag=True, omit_defaults=True):
    """What a candidate answered to the question of `decision`, beside the live model. Nothing is ordered for it."""

    decision: int
    logits: tuple[float, ...]
    hidden: bytes
    model: str
    heads: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)


class ShadowFailed(Event, frozen=True, tag=True):
    """A candidate gave no usable answer to the question of `decision`."""

    decision: int
    reason: str
    model: str
