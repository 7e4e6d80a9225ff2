"""Facts about a process that takes a journal over. They stay outside of the hash chain."""

from __future__ import annotations

import msgspec

from daemon.core.events.base import Event
from daemon.core.limits import Trading


class RunStarted(Event, frozen=True, tag=True):
    """A process took over this journal. `trading` holds from here on; `code` is the digest of the deciding code."""

    mode: str
    account: str
    strategy: str
    epoch: str
    code: str
    feed: str
    trading: Trading
    account_number: str = ""  # as configured; "" where it is not
    # source -> dotted keys of `trading` that it gave; others are defaults
    origins: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    libraries: str = ""  # versions of the libraries that the deciding code computes with; "" when not noted


class ModelVerified(Event, frozen=True, tag=True):
    """The model store loaded a model whose hash, digest and golden outputs are right."""

    version: str
    digest: str
    promoted: bool
    feed: str  # the feed whose bars it was trained on


class ModelRefused(Event, frozen=True, tag=True):
    reason: str
