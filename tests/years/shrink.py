"""Make a failing run shorter, and print it as a test with its story in plain words.

Faults first, then what is left of the list, then settings, then days. A shorter run counts when it breaks the same rule
under one of a few seeds of the loop: what is taken away changes what is drawn after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from tests.years.run import Outcome
from tests.years.schedule import Schedule, kind_of

Try = Callable[[Schedule], Outcome]
STORY_KINDS = frozenset(
    ("life", "killed", "over", "crash", "happens", "split", "command", "halted", "alarm", "problem")
)
STORY_LOGS = frozenset(("order_submitted", "order_filled", "order_rejected", "halted", "reconciled", "refused"))
LINES = 60  # of a story, at most


def breaks(outcome: Outcome, rule: str) -> bool:
    """Whether the run broke this rule."""
    return any(problem.rule == rule for problem in outcome.problems)


def shrunk(schedule: Schedule, rule: str, attempt: Try, most: int = 60) -> tuple[Schedule, Outcome]:
    """Return the shortest run found that breaks the rule, by `most` attempts at most, and its outcome."""
    best, outcome = schedule, attempt(schedule)
    tries = 0
    again = True
    while again and tries < most:
        again = False
        for shorter in _shorter(best, outcome, rule):
            tries += 1
            result = attempt(shorter)
            if breaks(result, rule):
                best, outcome, again = shorter, result, True
                break
            if tries >= most:
                break
    return best, outcome


def _shorter(schedule: Schedule, outcome: Outcome, rule: str) -> Iterator[Schedule]:
    """Yield shorter schedules, the boldest first."""
    at_ns = min(problem.at_ns for problem in outcome.problems if problem.rule == rule)
    day = datetime.fromtimestamp(at_ns / 1e9, UTC).date().isoformat()
    places = range(len(schedule.happenings))
    faults = {place for place in places if kind_of(schedule.happenings[place].what) is not None}
    if faults and len(faults) < len(schedule.happenings):
        yield schedule.without(faults)
    size = len(schedule.happenings)
    while size >= 1:
        size = (size + 1) // 2 if size > 1 else 0
        if not size:
            break
        for begin in range(0, len(schedule.happenings), size):
            place_set = set(range(begin, min(begin + size, len(schedule.happenings))))
            if place_set:
                yield schedule.without(place_set)
        if size == 1:
            break
    if schedule.days > 1:
        days = max((it.day for it in schedule.happenings), default=0) + 1
        if days < schedule.days:
            yield replace(schedule, days=days)
        if all(it.day > 0 for it in schedule.happenings):
            happenings = tuple(replace(it, day=it.day - 1) for it in schedule.happenings)
            yield replace(schedule, days=schedule.days - 1, happenings=happenings, nights=schedule.nights[1:])
    for place in range(len(schedule.tables)):
        yield replace(schedule, tables=schedule.tables[:place] + schedule.tables[place + 1 :])
    del day


def as_test(schedule: Schedule, rule: str) -> str:
    """The run as a test that one can paste."""
    name = "_".join([rule, *sorted({it.what.replace(" ", "_") for it in schedule.happenings})])
    name = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in name)[:80]
    rows = "\n".join(f"        {it!r}," for it in schedule.happenings)
    return (
        f"def test_{name}(tmp_path: Path) -> None:\n"
        f"    schedule = Schedule(\n"
        f"        {schedule.desk!r},\n        {schedule.seed},\n        {schedule.first!r},\n        {schedule.days},\n"
        f"        {schedule.tables!r},\n"
        f"        (\n{rows}\n        ),\n        {schedule.nights!r},\n    )\n"
        f"    assert lived(schedule, tmp_path).problems == ()\n"
    )


def story(outcome: Outcome) -> list[str]:
    """What happened, a line each, up to the first broken rule."""
    lines = []
    for at_ns, kind, text in outcome.story:
        if kind in STORY_KINDS or (kind == "log" and any(f'"event": "{name}"' in text for name in STORY_LOGS)):
            moment = datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
            lines.append(f"{moment} {kind}: {text[:300]}")
        if kind == "problem":
            break
    return lines[-LINES:]
