"""Commands of a person, and findings of the process about itself."""

from __future__ import annotations

from daemon.core.events.base import Event


class HaltRequested(Event, frozen=True, tag=True):
    reason: str  # an alarm name of docs/OPERATIONS.md
    detail: str
    who: str
    strategy: bool = False  # it raised twice: it is not asked again until a resume


class ResumeRequested(Event, frozen=True, tag=True):
    """Ends a halt or a pause. `reason` must not be empty.

    `reset_limits`: the limits of loss and drawdown count from the present equity on; without it they count as before.
    """

    reason: str
    who: str
    reset_limits: bool = False


class PauseRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class FlattenRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class AcceptBrokerRequested(Event, frozen=True, tag=True):
    """Take over the broker's next report into the book: positions, cash, no order of ours. Halts."""

    reason: str
    who: str


class PanicNoticed(Event, frozen=True, tag=True):
    """A panic was run, which flattens the account without this journal: stand down, halted."""

    detail: str


class PanicFailed(Event, frozen=True, tag=True):
    """The panic is over, and did not report a flat account: close what is the desk's own."""

    detail: str


class StopRequested(Event, frozen=True, tag=True):
    """End the daemon cleanly: no new risk, working entries are cancelled, positions kept or left."""

    reason: str
    flatten: bool


class ClockReset(Event, frozen=True, tag=True):
    """The desk's time goes back to `time_ns`, verified by the broker's clock: the only event that can do so."""

    reason: str
    who: str


class ReloadRequested(Event, frozen=True, tag=True):
    """Check the model store now. The result is `ModelPromoted`, `CandidateRefused` or nothing."""

    reason: str
    who: str


class StatusRequested(Event, frozen=True, tag=True):
    """A status request came over the network; it changes nothing."""

    reason: str
    who: str


class CommandRefused(Event, frozen=True, tag=True):
    """A command was refused: not signed, not in time, repeated or unreadable."""

    channel: str  # where it came from
    reason: str


class CodeChanged(Event, frozen=True, tag=True):
    """This run's code took over events that it could not reproduce: other code wrote them, or the journal is damaged.

    They were applied as recorded, without the damaged ones; the effects that left the process then count as the desk's.
    """

    former: str  # digest of the code that wrote them
    events: int  # taken over
    differences: int  # among them where this code would have decided otherwise
    detail: str
    decision: int  # the highest decision number in the journal: none is used again
    damaged: bool = False  # rows of the journal were damaged and left out


class TroubleNoticed(Event, frozen=True, tag=True):
    """The shell noticed a problem that a person must know. `name` has a heading in docs/OPERATIONS.md."""

    name: str
    detail: str
