"""Commands of a person, and what the process noticed about itself."""

from __future__ import annotations

from daemon.core.events.base import Event


class HaltRequested(Event, frozen=True, tag=True):
    reason: str  # an alarm name of docs/OPERATIONS.md
    detail: str
    who: str


class ResumeRequested(Event, frozen=True, tag=True):
    """Ends a halt or a pause. `reason` must not be empty."""

    reason: str
    who: str


class PauseRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class FlattenRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class AcceptBrokerRequested(Event, frozen=True, tag=True):
    """The book shall take over what the broker's next report says: positions, cash, no order of ours. Halts."""

    reason: str
    who: str


class PanicNoticed(Event, frozen=True, tag=True):
    """Somebody ran the panic, which flattens the account without this journal: stand down, halted."""

    detail: str


class StopRequested(Event, frozen=True, tag=True):
    """The daemon shall end cleanly: no new risk, working entries are cancelled, positions kept or left."""

    reason: str
    flatten: bool


class ClockReset(Event, frozen=True, tag=True):
    """The desk's time is led back to `time_ns`, which the broker's clock verified: the one event that can do so."""

    reason: str
    who: str


class ReloadRequested(Event, frozen=True, tag=True):
    """Look at the model store now. What comes of it is `ModelPromoted`, `CandidateRefused` or nothing."""

    reason: str
    who: str


class StatusRequested(Event, frozen=True, tag=True):
    """Somebody asked over the network what the desk is; it changes nothing."""

    reason: str
    who: str


class CommandRefused(Event, frozen=True, tag=True):
    """A command came that is not signed, not in time, repeated or unreadable. It was not carried out."""

    channel: str  # where it came from
    reason: str


class CodeChanged(Event, frozen=True, tag=True):
    """This run's code took over events that it could not prove: other code or libraries wrote them, it decides
    otherwise, or the journal is damaged. They were taken as they happened, damaged ones left out; what left the process
    then is what the desk sent.
    """

    former: str  # digest of the code that wrote them
    events: int  # taken over
    differences: int  # among them where this code would have done something else
    detail: str
    decision: int  # the highest number of a decision in the journal: none is given again
    damaged: bool = False  # rows of the journal were, and were left out


class TroubleNoticed(Event, frozen=True, tag=True):
    """The shell noticed something that a person must know. `name` has a heading in docs/OPERATIONS.md."""

    name: str
    detail: str
