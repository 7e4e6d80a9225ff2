"""For each mended defect (`defects/`) the shortest life that meets it: desk, settings and a handful of happenings.

The world and the rules can express and see a defect if this schedule breaks a rule with it and none without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.chaos.desks.plan import FORECAST, ONLINE, REBALANCER, SCALPER, SWITCHER
from tests.years.schedule import Happening, Schedule

ANY = (SCALPER, REBALANCER, SWITCHER, FORECAST, ONLINE)
DAILY = (REBALANCER, SWITCHER, FORECAST)
SHARES = (*DAILY, ONLINE)
BY_BAR = (SCALPER, ONLINE)
FIRST = "2024-07-08"  # a Monday; no half day near it
PATIENT = ("world", "patient", True)
IGNORE = ("broker", "foreign_orders", "ignore")

Row = tuple[str, str, Any]


def _life(
    desk: str,
    days: int,
    *happenings: tuple[int, float, str] | tuple[int, float, str, int],
    tables: tuple[Row, ...] = (),
    nights: tuple[bool, ...] = (),
) -> Schedule:
    return Schedule(desk, 7, FIRST, days, tables, tuple(Happening(*it) for it in happenings), nights)


DESKS_OF: Mapping[str, tuple[str, ...]] = {
    "wide_quotes_shut_the_stop": (SCALPER,),
    "wide_quotes_hide_the_day_s_loss": (SCALPER,),
    "wide_quotes_are_no_blindness": (SCALPER,),
    "wide_quotes_sell_at_the_market": (SCALPER,),
    "split_goes_wholly_to_the_desk": SHARES,
    "dividend_is_earned_on_a_person_s_shares": SHARES,
    "renamed_shares_of_a_person_become_the_desk_s": SHARES,
    "person_s_exercise_gives_the_desk_shares": (SCALPER,),
    "shares_of_an_unknown_owner_are_the_desk_s": SHARES,
    "flatten_without_a_report_sells_twice": SHARES,
    "broker_s_call_sells_a_person_s_shares": SHARES,
    "shares_wait_for_a_report_without_end": SHARES,
    "broker_s_call_of_yesterday_is_a_stranger_s": SHARES,
    "expiring_contract_never_leaves": (SCALPER,),
    "last_exit_before_the_close_is_a_limit": (SCALPER,),
    "resume_forgets_the_day": ANY,
    "accepted_report_forgets_the_day": ANY,
    "status_counts_the_day_from_the_reset": ANY,
    "daily_desk_is_blind_in_silence": DAILY,
    "failed_panic_protects_nothing": ANY,
    "killed_panic_counts_as_alive": ANY,
    "flatten_that_does_nothing_says_done": ANY,
    "what_a_panic_left_is_named_by_nobody": ANY,
    "no_start_without_a_model": ANY,
    "no_start_with_a_mistaken_table": ANY,
    "no_start_without_its_ballast": ANY,
    "invested_desk_without_a_model_is_silent": DAILY,
    "strategy_that_raises_is_asked_again": BY_BAR,
    "grave_alarms_wait_behind_trivial_ones": ANY,
    "refusals_flood_the_alarms": ANY,
    "adopted_sale_stays_open": ANY,
    "refused_exits_count_for_the_reject_rate": ANY,
    "late_split_is_called_missing_bars": DAILY,
    "halted_decision_loses_its_basket": DAILY,
    "cash_in_lieu_is_booked_before_its_split": SHARES,
    "unknown_ledger_kind_halts": ANY,
    "worthless_shares_stay_in_the_book": SHARES,
    "busted_fill_is_not_booked": ANY,
    "correction_of_an_older_order_is_not_booked": ANY,
    "faulty_activity_stream_ends_the_desk": ANY,
}
"""Defect -> the desks that its row names."""

LIKELY: Mapping[str, tuple[str, ...]] = {
    "wide_quotes_shut_the_stop": ("falls behind wide quotes",),
    "wide_quotes_hide_the_day_s_loss": ("falls behind wide quotes",),
    "wide_quotes_are_no_blindness": ("wide quotes stay", "falls behind wide quotes"),
    "wide_quotes_sell_at_the_market": ("wide market, flatten",),
    "split_goes_wholly_to_the_desk": ("split of both", "split beside"),
    "dividend_is_earned_on_a_person_s_shares": ("dividend of both",),
    "renamed_shares_of_a_person_become_the_desk_s": ("new name of both",),
    "person_s_exercise_gives_the_desk_shares": ("exercise beside",),
    "shares_of_an_unknown_owner_are_the_desk_s": ("dividend nobody announced", "dividend beside"),
    "flatten_without_a_report_sells_twice": ("closes unheard, flatten", "closes unheard, then flatten"),
    "broker_s_call_sells_a_person_s_shares": ("no report, flatten beside",),
    "shares_wait_for_a_report_without_end": ("no report, flatten",),
    "broker_s_call_of_yesterday_is_a_stranger_s": ("no report, flatten", "no report, flatten beside"),
    "expiring_contract_never_leaves": ("exits of zero minutes",),
    "last_exit_before_the_close_is_a_limit": ("falls at the close",),
    "resume_forgets_the_day": ("falls",),
    "accepted_report_forgets_the_day": ("falls",),
    "status_counts_the_day_from_the_reset": ("falls",),
    "daily_desk_is_blind_in_silence": ("quotes gone", "quotes: 503"),
    "failed_panic_protects_nothing": ("panic that fails", "panic killed"),
    "killed_panic_counts_as_alive": ("panic killed",),
    "flatten_that_does_nothing_says_done": ("panic, flatten",),
    "what_a_panic_left_is_named_by_nobody": ("panic unheard",),
    "no_start_without_a_model": ("model flipped", "model cut", "model gone", "model gone for days"),
    "no_start_with_a_mistaken_table": ("typo in risk", "typo in execution", "typo in journal", "typo in feed"),
    "no_start_without_its_ballast": ("ballast is a folder",),
    "invested_desk_without_a_model_is_silent": ("model gone for days",),
    "strategy_that_raises_is_asked_again": ("strategy raises",),
    "grave_alarms_wait_behind_trivial_ones": ("many small and a grave",),
    "refusals_flood_the_alarms": ("exits refused",),
    "adopted_sale_stays_open": ("sells more",),
    "refused_exits_count_for_the_reject_rate": ("blocked",),
    "late_split_is_called_missing_bars": ("split line late",),
    "halted_decision_loses_its_basket": ("halted at the decision", "paused at the decision"),
    "cash_in_lieu_is_booked_before_its_split": ("split in parts",),
    "unknown_ledger_kind_halts": ("unknown line",),
    "worthless_shares_stay_in_the_book": ("worthless",),
    "busted_fill_is_not_booked": ("bust unheard", "correction unheard"),
    "correction_of_an_older_order_is_not_booked": ("older correction", "older bust"),
    "faulty_activity_stream_ends_the_desk": ("activity garbage",),
}
"""Defect -> the happenings that may meet it. Seeds without one of them are counted as lived without a find."""

FOCUSED: Mapping[str, Schedule] = {
    "wide_quotes_shut_the_stop": _life(SCALPER, 1, (0, 20.0, "falls behind wide quotes"), tables=(PATIENT,)),
    "wide_quotes_hide_the_day_s_loss": _life(
        SCALPER,
        1,
        (0, 20.0, "falls behind wide quotes"),
        tables=(PATIENT, ("sizing", "stop_loss", 0.95), ("risk", "daily_loss_max", 0.02)),
    ),
    "wide_quotes_are_no_blindness": _life(SCALPER, 1, (0, 20.0, "wide quotes stay"), tables=(PATIENT,)),
    "wide_quotes_sell_at_the_market": _life(SCALPER, 1, (0, 20.0, "wide market, flatten"), tables=(PATIENT,)),
    "split_goes_wholly_to_the_desk": _life(SWITCHER, 4, (1, 60.0, "split of both"), tables=(IGNORE,)),
    "dividend_is_earned_on_a_person_s_shares": _life(SWITCHER, 4, (1, 60.0, "dividend of both"), tables=(IGNORE,)),
    "renamed_shares_of_a_person_become_the_desk_s": _life(
        REBALANCER, 4, (1, 60.0, "new name of both"), tables=(IGNORE,)
    ),
    "person_s_exercise_gives_the_desk_shares": _life(
        SCALPER, 1, (0, 20.0, "exercise beside"), tables=(PATIENT, IGNORE)
    ),
    "shares_of_an_unknown_owner_are_the_desk_s": _life(
        SWITCHER, 4, (1, 60.0, "dividend nobody announced"), tables=(IGNORE,)
    ),
    "flatten_without_a_report_sells_twice": _life(
        SWITCHER, 2, (1, 60.3, "closes unheard, flatten", 1), tables=(IGNORE,)
    ),
    "broker_s_call_sells_a_person_s_shares": _life(
        SWITCHER, 2, (1, 30.0, "no report, flatten beside"), tables=(IGNORE,)
    ),
    "shares_wait_for_a_report_without_end": _life(SWITCHER, 2, (1, 60.0, "no report, flatten")),
    "broker_s_call_of_yesterday_is_a_stranger_s": _life(
        SWITCHER, 4, (1, 60.0, "no report, flatten"), (2, 60.0, "restart"), (3, 60.0, "restart")
    ),
    "expiring_contract_never_leaves": _life(SCALPER, 2, (0, -40.0, "exits of zero minutes"), tables=(PATIENT,)),
    "last_exit_before_the_close_is_a_limit": _life(
        SCALPER,
        2,
        *((day, 370.0, "falls at the close") for day in range(2)),
        tables=(
            PATIENT,
            ("execution", "flat_before_close_min", 0),
            ("execution", "flatten_lead_min", 1),
            ("sizing", "max_contracts", 4),
        ),
    ),
    "resume_forgets_the_day": _life(
        SCALPER, 1, (0, 20.0, "falls", 3), tables=(PATIENT, ("risk", "daily_loss_max", 0.01))
    ),
    "accepted_report_forgets_the_day": _life(
        SCALPER, 1, (0, 20.0, "falls", 1), tables=(PATIENT, ("risk", "daily_loss_max", 0.01))
    ),
    "status_counts_the_day_from_the_reset": _life(
        SCALPER, 1, (0, 20.0, "falls", 2), tables=(PATIENT, ("risk", "daily_loss_max", 0.01))
    ),
    "daily_desk_is_blind_in_silence": _life(SWITCHER, 3, (2, 30.0, "quotes gone")),
    "failed_panic_protects_nothing": _life(SWITCHER, 2, (1, 60.0, "panic that fails")),
    "killed_panic_counts_as_alive": _life(SWITCHER, 2, (1, 60.0, "panic killed")),
    "flatten_that_does_nothing_says_done": _life(SCALPER, 1, (0, 20.0, "panic, flatten"), tables=(PATIENT,)),
    "what_a_panic_left_is_named_by_nobody": _life(SWITCHER, 3, (1, 60.0, "panic unheard")),
    "no_start_without_a_model": _life(SWITCHER, 2, (1, 60.0, "model gone")),
    "no_start_with_a_mistaken_table": _life(SWITCHER, 2, (1, 60.0, "typo in risk")),
    "no_start_without_its_ballast": _life(SWITCHER, 2, (1, 60.0, "ballast is a folder")),
    "invested_desk_without_a_model_is_silent": _life(
        SWITCHER, 3, (1, 60.0, "model gone for days"), nights=(False, False, True)
    ),
    "strategy_that_raises_is_asked_again": _life(SCALPER, 1, (0, 20.0, "strategy raises"), tables=(PATIENT,)),
    "grave_alarms_wait_behind_trivial_ones": _life(
        SWITCHER, 2, (1, 60.0, "many small and a grave"), tables=(("alarms", "per_minute", 1),)
    ),
    "refusals_flood_the_alarms": _life(SCALPER, 1, (0, 20.0, "exits refused"), tables=(PATIENT,)),
    "adopted_sale_stays_open": _life(
        SWITCHER, 2, (1, 60.0, "sells more"), tables=(("broker", "foreign_orders", "adopt"),)
    ),
    "refused_exits_count_for_the_reject_rate": _life(SCALPER, 1, (0, 20.0, "blocked"), tables=(PATIENT,)),
    "late_split_is_called_missing_bars": _life(SWITCHER, 4, (1, 60.0, "split line late")),
    "halted_decision_loses_its_basket": _life(REBALANCER, 4, (1, 60.0, "halted at the decision")),
    "cash_in_lieu_is_booked_before_its_split": _life(
        SWITCHER,
        3,
        (1, 60.0, "split in parts", 2),
        tables=(("risk", "daily_loss_max", 0.03), ("world", "cash_usd", 3_000)),
    ),
    "unknown_ledger_kind_halts": _life(SCALPER, 1, (0, 60.0, "unknown line")),
    "worthless_shares_stay_in_the_book": _life(REBALANCER, 2, (1, 60.0, "worthless")),
    "busted_fill_is_not_booked": _life(SCALPER, 1, (0, 20.0, "bust unheard"), tables=(PATIENT,)),
    "correction_of_an_older_order_is_not_booked": _life(SWITCHER, 4, (3, 30.0, "older correction")),
    "faulty_activity_stream_ends_the_desk": _life(
        SCALPER, 1, (0, 60.0, "activity garbage"), tables=(("alpaca", "activity_stream", True),)
    ),
}
"""Defect -> its life."""
