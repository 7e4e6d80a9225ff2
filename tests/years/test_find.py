from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.years.defects import defects, with_defect
from tests.years.desks import DESKS
from tests.years.find import MOST, Tree, find_defect, first_problem, likely, schedules
from tests.years.focused import DESKS_OF, FOCUSED, LIKELY
from tests.years.host import HOST
from tests.years.schedule import FAMILIES, OF_HOST, OF_PERSON, REORGANISED, RICH, SPLITS, Happening, kind_of
from tests.years.together import TOGETHER

SHORT = (  # one session of one desk each
    "faulty_activity_stream_ends_the_desk",
    "flatten_that_does_nothing_says_done",
    "unknown_ledger_kind_halts",
)


def test_each_defect_has_its_desks_its_happenings_and_a_life_that_meets_it() -> None:
    assert sorted(DESKS_OF) == sorted(LIKELY) == sorted(FOCUSED) == list(defects())
    acts = {*SPLITS, *REORGANISED, *(act for family in FAMILIES.values() for act in family)}
    for name, schedule in FOCUSED.items():
        assert schedule.desk in DESKS_OF[name]
        assert schedule.days <= 4
        assert likely(name, schedule)
        assert all(act in acts or kind_of(act) is not None for act in LIKELY[name])


def test_all_that_comes_together_is_drawn_for_desks_that_there_are() -> None:
    desks_of = {act: desks for family in RICH.values() for act, desks in family.items()}
    assert {*desks_of, *SPLITS, *REORGANISED} == TOGETHER.keys()
    assert {*OF_HOST, *OF_PERSON} == HOST.keys()
    assert {desk for desks in desks_of.values() for desk in desks} <= set(DESKS)


@pytest.mark.parametrize("name", defects())
def test_two_years_draw_what_meets_it(name: str) -> None:
    pairs = list(schedules(DESKS_OF[name], 1))
    assert MOST <= pairs[-1][1] < MOST + 10
    assert any(likely(name, schedule) for schedule, _ in pairs)


@pytest.fixture(scope="module")
def whole() -> Iterator[Tree]:
    """This tree as it is; one interpreter serves all."""
    with Tree() as tree:
        yield tree


@pytest.mark.parametrize("name", SHORT)
def test_a_short_life_finds_the_defect_and_breaks_no_rule_without_it(name: str, tmp_path: Path, whole: Tree) -> None:
    options = argparse.Namespace(focused=True, seed=1, every=False, shrink_finds=False, tries=0, most=1)
    with Tree(partial(with_defect, name), tmp_path) as tree:
        row = find_defect(name, tree, whole, options)
    assert row["found"], row
    assert "without" not in row


def test_what_will_move_money_later_excuses_no_profit_that_is_not_true(tmp_path: Path, whole: Tree) -> None:
    name = "accepted_report_forgets_the_day"
    schedule = FOCUSED[name]
    later = replace(schedule, happenings=(*schedule.happenings, Happening(0, 385.0, "unknown line", 1)))
    with Tree(partial(with_defect, name), tmp_path) as tree:
        found_by = first_problem(tree, later)
        assert first_problem(whole, later) is None
    assert found_by is not None
    assert found_by.rule == "status"
