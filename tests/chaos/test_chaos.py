"""The short form of the campaign: a few sessions with a fixed seed, in which every family of trouble comes up.

A family that was not met in its session (the policy did not trade just then) has up to four sessions
more, each with another of its kinds.
"""

from __future__ import annotations

from pathlib import Path

from tests.chaos.campaign import campaign, format_report, once_more
from tests.chaos.kinds import KINDS
from tests.chaos.plan import deck, plan

SEED = 20261120
SESSIONS = 15
FROM_DECK = 5
PARALLEL = 2


def families() -> set[str]:
    return {kind.family for kind in KINDS.values()}


def test_a_session_is_the_same_whenever_its_numbers_are() -> None:
    assert plan(7, 3) == plan(7, 3)
    assert plan(7, 3) != plan(7, 4)
    assert plan(7, 3) != plan(8, 3)


def test_the_first_kinds_of_the_deck_are_of_all_families() -> None:
    first = deck(SEED)[: len(families())]
    assert {kind.family for kind in first} == families()
    assert len(first) <= SESSIONS * FROM_DECK


def test_five_hundred_sessions_deal_every_kind_at_least_five_times() -> None:
    dealt = [trouble.kind.name for number in range(0, 500, 100) for trouble in plan(7, number).troubles]
    assert set(dealt) <= KINDS.keys()
    assert 5 * len(KINDS) <= 500 * 3


def test_whatever_befalls_a_session_books_agree_and_the_daemon_runs_or_says_why_not(tmp_path: Path) -> None:
    print(f"campaign seed {SEED}, {FROM_DECK} kinds from the deck in each of {SESSIONS} sessions")
    outcomes = campaign(SEED, range(SESSIONS), PARALLEL, tmp_path, from_deck=FROM_DECK)
    for again in range(4):
        families_met = {KINDS[name].family for outcome in outcomes for name, count in outcome.exposed.items() if count}
        missing = {kind.family for kind in deck(SEED) if kind.family not in families_met}
        if not missing:
            break
        of_each = [[kind.name for kind in deck(SEED) if kind.family == family] for family in sorted(missing)]
        hands = once_more([names[again % len(names)] for names in of_each], again)
        outcomes += campaign(SEED, hands, PARALLEL, tmp_path, hands=hands)
    print(format_report(outcomes, SEED))
    assert [(outcome.number, outcome.kinds, outcome.problems) for outcome in outcomes if outcome.problems] == []
    families_met = {KINDS[name].family for outcome in outcomes for name, count in outcome.exposed.items() if count}
    assert families() - families_met == set()
