"""Everything that can happen, in the past tense. Frozen, JSON-encodable, times in integer nanoseconds UTC.

An event is journaled before it is acted on. Events carry no NaN and no infinity. `STARTUP_EVENTS` differ between
an undisturbed and a restarted run and therefore stay outside of the journal's hash chain; all others are chained.
"""

from __future__ import annotations

from daemon.core.events.account import (
    Activity,
    BrokerLost,
    BrokerPosition,
    BrokerReported,
    BrokerSnapshot,
    CashTransferred,
    ContractExpired,
    Funds,
)
from daemon.core.events.base import Event
from daemon.core.events.market import (
    BarClosed,
    BarCorrected,
    BarRejected,
    ClockTicked,
    Contract,
    ContractsListed,
    HistoryAdjusted,
    Price,
    PricesPrinted,
    Quote,
    QuotesReceived,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.events.operator import (
    AcceptBrokerRequested,
    ClockReset,
    CodeChanged,
    CommandRefused,
    FlattenRequested,
    HaltRequested,
    PanicFailed,
    PanicNoticed,
    PauseRequested,
    ReloadRequested,
    ResumeRequested,
    StatusRequested,
    StopRequested,
    TroubleNoticed,
)
from daemon.core.events.orders import (
    BrokerOrder,
    CancelRejected,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderFound,
    OrderMissing,
    OrderRejected,
    OrderUnknown,
    TradeCorrected,
)
from daemon.core.events.policy import (
    CandidateRefused,
    LadderMoved,
    ModelPromoted,
    PolicyAnswered,
    PolicyFailed,
    ShadowAnswered,
    ShadowFailed,
)
from daemon.core.events.start import ModelRefused, ModelVerified, RunStarted

__all__ = [
    "FEED_EVENTS",
    "STARTUP_EVENTS",
    "AcceptBrokerRequested",
    "Activity",
    "AnyEvent",
    "BarClosed",
    "BarCorrected",
    "BarRejected",
    "BrokerLost",
    "BrokerOrder",
    "BrokerPosition",
    "BrokerReported",
    "BrokerSnapshot",
    "CancelRejected",
    "CandidateRefused",
    "CashTransferred",
    "ClockReset",
    "ClockTicked",
    "CodeChanged",
    "CommandRefused",
    "Contract",
    "ContractExpired",
    "ContractsListed",
    "Event",
    "FlattenRequested",
    "Funds",
    "HaltRequested",
    "HistoryAdjusted",
    "LadderMoved",
    "ModelPromoted",
    "ModelRefused",
    "ModelVerified",
    "OrderAccepted",
    "OrderCanceled",
    "OrderExpired",
    "OrderFilled",
    "OrderFound",
    "OrderMissing",
    "OrderRejected",
    "OrderUnknown",
    "PanicFailed",
    "PanicNoticed",
    "PauseRequested",
    "PolicyAnswered",
    "PolicyFailed",
    "Price",
    "PricesPrinted",
    "Quote",
    "QuotesReceived",
    "RebalanceDue",
    "ReloadRequested",
    "ResumeRequested",
    "RunStarted",
    "SessionEnded",
    "SessionScheduled",
    "ShadowAnswered",
    "ShadowFailed",
    "StatusRequested",
    "StopRequested",
    "TradeCorrected",
    "TroubleNoticed",
]

AnyEvent = (
    RunStarted
    | ModelVerified
    | ModelRefused
    | BrokerSnapshot
    | SessionScheduled
    | ContractsListed
    | BarClosed
    | BarCorrected
    | BarRejected
    | QuotesReceived
    | PricesPrinted
    | RebalanceDue
    | HistoryAdjusted
    | ClockTicked
    | SessionEnded
    | PolicyAnswered
    | PolicyFailed
    | OrderAccepted
    | OrderRejected
    | OrderFilled
    | OrderCanceled
    | OrderExpired
    | CancelRejected
    | OrderUnknown
    | OrderFound
    | OrderMissing
    | TradeCorrected
    | BrokerLost
    | BrokerReported
    | ContractExpired
    | CashTransferred
    | HaltRequested
    | ResumeRequested
    | PauseRequested
    | FlattenRequested
    | AcceptBrokerRequested
    | PanicNoticed
    | PanicFailed
    | StopRequested
    | ClockReset
    | ReloadRequested
    | StatusRequested
    | CommandRefused
    | ModelPromoted
    | CandidateRefused
    | LadderMoved
    | ShadowAnswered
    | ShadowFailed
    | CodeChanged
    | TroubleNoticed
)

STARTUP_EVENTS: tuple[type[Event], ...] = (RunStarted, ModelVerified, ModelRefused, BrokerSnapshot)
"""Depend on how often a run was restarted, so the hash chain and the event count leave them out."""

FEED_EVENTS: tuple[type[Event], ...] = (
    SessionScheduled,
    BarClosed,
    BarCorrected,
    BarRejected,
    PricesPrinted,
    RebalanceDue,
    HistoryAdjusted,
    ClockTicked,
    SessionEnded,
)
"""Come from the market-data source in its order; a replay resumes by skipping as many as the journal holds."""
