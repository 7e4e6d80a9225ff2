"""Answers of the models, and which model is live."""

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
    """The policy failed to answer: an exception, a NaN, a wrong shape."""

    decision: int
    reason: str


class ModelPromoted(Event, frozen=True, tag=True):
    """A verified version is live from here on, in place of `previous`. The model file says whether it is promoted."""

    version: str
    digest: str
    promoted: bool
    feed: str
    previous: str


class CandidateRefused(Event, frozen=True, tag=True):
    """A version that was to run, live or as a candidate, failed a check; the former one goes on."""

    version: str
    reason: str


class LadderMoved(Event, frozen=True, tag=True, omit_defaults=True):
    """A challenger took a step of the ladder, or ended a session on it; `share` of the size is its from here on."""

    version: str
    from_step: str  # proposed, replay, shadow, canary_10, canary_25, canary_50, canary_100
    to_step: str  # these, champion, refused or rolled_back
    champion: str
    share: float
    sessions: int  # on this step so far
    reason: str  # docs/LADDER.md, where it was refused or rolled back
    detail: str
    figures: dict[str, float] = msgspec.field(default_factory=dict)
    manifest: str = ""  # SHA-256 (hex) of the version's manifest when its card was judged; "" in older journals
    champion_manifest: str = ""  # of the champion's then


class ShadowAnswered(Event, frozen=True, tag=True, omit_defaults=True):
    """A candidate's answer to the question of `decision`. No order follows."""

    decision: int
    logits: tuple[float, ...]
    hidden: bytes
    model: str
    heads: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)


class ShadowFailed(Event, frozen=True, tag=True):
    """A candidate failed to answer the question of `decision`."""

    decision: int
    reason: str
    model: str
