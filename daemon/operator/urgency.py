"""The one table of how urgent each halt and alarm is, for every queue that may have to drop one.

Grave: money or the way out is at stake, and a person must act now. It goes first and is never dropped. A warning waits
for the person's next look. A note is a single event that the desk dealt with. Every heading of docs/OPERATIONS.md is in
this table (a test compares them); any other name is a warning.
"""

from __future__ import annotations

from enum import IntEnum


class Urgency(IntEnum):
    """How soon a person should know: the higher, the sooner."""

    NOTE = 0
    WARNING = 1
    GRAVE = 2


_HALTS = """
operator daily_loss drawdown reject_rate reconciliation fill_mismatch order_mismatch foreign_order wrong_account
no_model configuration account_blocked blind blind_hold shares_from_exercise flatten disk_full history_missing
quarantine code_changed journal_damaged fenced panic short_position accept_broker cash_difference
"""
_ALARMS: dict[Urgency, str] = {
    Urgency.GRAVE: """
exit_stuck exit_held_up exit_unconfirmed not_flat no_bid panic_failed blind account_blocked margin_deficit
excess_filled unprotected cancel_stuck order_lost unreconciled broker_lost trade_stream_unauthorized clock_ahead
desk_silent guard_acts guard_unprotected gateway_halted gateway_differs gateway_main_short
gateway_desk_short gateway_blocked
""",
    Urgency.WARNING: """
foreign_order position_changed trade_corrected unknown_status broker_accepted cash_unexplained settled_without_ledger
unknown_activity ledger_amended owner_unknown split_awaited market_closed market_open policy_failed policy_late
served_late model_refused ladder_rolled_back command_refused drift claim_broken wal_large disk_low stream_refused
subscription_refused trainer_refused trainer_problem stop_removed guard_acted guard_silent desk_heard guard_unheard
guard_blind guard_doubts guard_account guard_keys guard_configuration guard_clock gateway_line_unowned
gateway_line_amended gateway_fill_amended
gateway_exercised gateway_exit_called gateway_exit_waits gateway_sells_out gateway_order_unreadable
gateway_stream_failed
feed_silent quotes_silent basket_missed basket_unfinished rebalance_refused symbols_missing symbol_refused clock_skew
clock_leap clock_wrong clock_stepped_back calendar_ends job_failed account_too_small strategy_ended
""",
    Urgency.NOTE: """
bar_rejected order_rejected order_denied cash_adjusted cash_explained symbols_masked shares_renamed candidate_refused
ladder_refused resume_refused stream_busy trading_status repair_abandoned history_short clock_reset snapshot_passed_over
volatility_unknown fraction_beside
""",
}
_BY_HALT = dict.fromkeys(_HALTS.split(), Urgency.GRAVE)
_BY_ALARM = {name: urgency for urgency, names in _ALARMS.items() for name in names.split()}
URGENCY: dict[str, Urgency] = _BY_HALT | _BY_ALARM
"""Urgency of halts and alarms by name, the headings of docs/OPERATIONS.md."""
HALTED = _BY_HALT.keys() - _BY_ALARM.keys()
"""Names that only a desk has that is halted."""


def urgency_of(name: str, *, halts: bool | None = False) -> Urgency:
    """Return how urgent an alarm is; `halts`: a halt began with it, None where that is not known."""
    may_halt = halts is None and name in _BY_HALT
    return Urgency.GRAVE if halts or may_halt else URGENCY.get(name, Urgency.WARNING)
