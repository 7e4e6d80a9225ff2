"""Wire format of served answers: the daemon's question, and the reply of the serving process.

Both are entries of Redis streams of the desk's journal. A question names its decision and the version that is to
answer; the reply repeats both, with a digest of the observation: after a copy or rollback of a journal another question
has the same number. Arrays travel as their bytes, numbers as 64-bit floats: nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TypeVar

import msgspec

from strategies.kit.contract import Answer, Observation

KEPT = 64  # newest entries of either stream; older ones are useless

Fields = Mapping[bytes, bytes]
Entry = TypeVar("Entry", "Question", "Reply")


class Question(msgspec.Struct, frozen=True):
    """One question. `version` is the model that answers at the desk, `digest` that of its graph ("": not given)."""

    decision: int
    version: str
    data: bytes
    shape: tuple[int, ...]
    hidden: bytes = b""
    digest: str = ""

    @property
    def observation(self) -> Observation:
        """The observation as the desk made it."""
        return Observation(self.data, self.shape, self.hidden)

    @property
    def seen(self) -> str:
        """A digest of the observation."""
        return sha256(b"%d " % len(self.data) + self.data + self.hidden).hexdigest()

    def is_answered_by(self, reply: Reply) -> bool:
        """Return whether the reply is to this question, and not to another one of the same number."""
        names = reply.decision, reply.version
        return names == (self.decision, self.version) and reply.seen in {"", self.seen}


class Reply(msgspec.Struct, frozen=True):
    """The answer to the question of `decision`, or why there is none. `seen` is the question's ("": not given)."""

    decision: int
    version: str
    answer: Answer | None = None
    failed: str = ""
    seen: str = ""


def questions_name(desk: str, epoch: str) -> str:
    """Return the stream of a journal's questions."""
    return f"rltrader:{desk}:{epoch}:questions"


def answers_name(desk: str, epoch: str) -> str:
    """Return the stream of the replies."""
    return f"rltrader:{desk}:{epoch}:answers"


def fields_of(entry: Question | Reply) -> dict[str, bytes]:
    """Return the fields of an entry."""
    return {"id": str(entry.decision).encode(), "body": msgspec.msgpack.encode(entry)}


def read_question(fields: Fields) -> Question:
    """Parse a question. Raises ValueError."""
    return _read(fields, Question)


def read_reply(fields: Fields) -> Reply:
    """Parse a reply. Raises ValueError."""
    return _read(fields, Reply)


def _read(fields: Fields, kind: type[Entry]) -> Entry:
    try:
        return msgspec.msgpack.decode(fields[b"body"], type=kind)
    except (KeyError, msgspec.DecodeError, RecursionError) as error:  # nested a thousand times
        raise ValueError(f"no {kind.__name__.lower()} of this release: {error}") from error
