"""The rate of messages, and the summary of what was held back."""

from __future__ import annotations

from daemon.notify.command import WAITING_MOST, Outgoing
from daemon.notify.news import ALARMS, FILLS, Notification

SECOND_NS = 10**9


class Stage:
    """A service that takes everything, and a clock that a test moves."""

    def __init__(self, per_minute: int, services: int = 1) -> None:
        self.now_ns, self.out, self.refused = 0, list[tuple[str, str]](), list[str]()
        self.problems: list[list[str]] = []
        self.outgoing = Outgoing(self.send, per_minute, lambda: self.now_ns, self.problems.append, services)

    def send(self, title: str, body: str) -> list[str]:
        self.out.append((title, body))
        return self.refused

    def after(self, seconds: int) -> list[str]:
        """The titles that the next seconds bring, with a turn in each."""
        before = len(self.out)
        for _ in range(seconds):
            self.now_ns += SECOND_NS
            self.outgoing.turn()
        return [title for title, _ in self.out[before:]]

    def put(self, *messages: Notification) -> None:
        for message in messages:
            self.outgoing.put(message)
        self.outgoing.turn()


def fill(number: int) -> Notification:
    return Notification(FILLS, "fill", f"fill {number}", "noon")


def alarm(name: str) -> Notification:
    return Notification(ALARMS, name, f"desk: {name}", "its detail")


def test_what_the_rate_allows_goes_one_by_one_and_the_rest_as_a_summary() -> None:
    stage = Stage(3)
    stage.put(*(fill(n) for n in range(6)), alarm("wal_large"), fill(6))
    assert [title for title, _ in stage.out] == ["fill 0", "fill 1", "desk: wal_large"]
    assert stage.out[-1][1] == "its detail\nHeld back: 5 x fill"  # the alarm comes in full
    stage.put(fill(7))
    assert len(stage.out) == 3
    stage.now_ns += 20 * SECOND_NS  # three a minute
    stage.outgoing.turn()
    assert stage.out[3:] == [("fill 7", "noon")]


def test_a_flood_is_bounded_loses_no_alarm_and_counts_what_it_let_go() -> None:
    stage = Stage(1)
    stage.put(fill(0))
    stage.put(alarm("feed_silent"), *(fill(n) for n in range(WAITING_MOST + 50)))
    stage.now_ns += 60 * SECOND_NS
    stage.outgoing.turn()
    assert stage.out[1:] == [("desk: feed_silent", f"its detail\nHeld back: {WAITING_MOST + 50} x fill")]


def test_grave_alarms_go_first_and_each_in_full_whatever_came_before() -> None:
    stage = Stage(1)
    stage.put(fill(0))
    flood = [alarm("order_rejected") for _ in range(WAITING_MOST + 50)]
    stage.put(*flood, alarm("exit_stuck"), alarm("wal_large"), alarm("not_flat"), *flood)
    for _ in range(3):
        stage.now_ns += 60 * SECOND_NS
        stage.outgoing.turn()
    held_back = f"its detail\nHeld back: {2 * len(flood)} x order_rejected, 1 x wal_large"
    assert stage.out[1:] == [("desk: exit_stuck", held_back), ("desk: not_flat", "its detail")]


def test_fifty_grave_alarms_of_two_names_are_a_few_messages_with_each_detail_once() -> None:
    stage = Stage(6)
    stuck = [
        Notification(ALARMS, "exit_stuck", "desk: exit_stuck", f"10 S{n:02d}: refused twice\nnoon") for n in range(48)
    ]
    stage.put(*stuck, alarm("not_flat"), alarm("not_flat"))
    assert [title for title, _ in stage.out[:5]] == ["desk: exit_stuck"] * 5
    titles = [title for title, _ in stage.out[5:]] + stage.after(60)
    assert titles == ["desk: exit_stuck, 43 times", "desk: not_flat, 2 times"]
    lines = "\n".join(body for _, body in stage.out).split("\n")
    assert [lines.count(f"10 S{n:02d}: refused twice") for n in range(48)] == [1] * 48


def test_grave_alarms_that_are_too_long_for_one_message_take_several() -> None:
    stage = Stage(1)
    stage.put(*(Notification(ALARMS, "blind", "desk: blind", f"{n}" * 450) for n in range(8)))
    stage.after(300)
    assert [title for title, _ in stage.out] == [*["desk: blind, 3 times"] * 2, "desk: blind, 2 times"]
    assert max(len(body) for _, body in stage.out) <= 1500  # Discord takes 2,000 characters
    assert [sum(body.count(f"{n}") for _, body in stage.out) for n in range(8)] == [450] * 8


def test_an_alarm_that_may_be_a_halt_goes_out_as_one_and_is_tried_again() -> None:
    stage = Stage(6)
    stage.refused = ["tgram"]
    stage.put(alarm("foreign_order"))
    stage.refused = []
    assert stage.after(60) == ["desk: foreign_order"]


def test_a_summary_shows_the_newest_of_the_most_urgent() -> None:
    stage = Stage(1)
    stage.put(alarm("bar_rejected"), alarm("disk_low"), fill(0), alarm("wal_large"), fill(1), alarm("bar_rejected"))
    assert stage.out == [("desk: wal_large", "its detail\nHeld back: 2 x bar_rejected, 2 x fill, 1 x disk_low")]


def test_a_service_that_takes_nothing_is_reported_and_the_message_is_not_repeated() -> None:
    stage = Stage(6)
    stage.refused = ["tgram"]
    stage.put(fill(1))
    stage.put()
    assert (stage.problems, len(stage.out)) == ([["tgram"]], 1)


def test_a_grave_message_that_no_service_took_is_tried_until_one_does_and_a_lesser_one_is_not() -> None:
    stage = Stage(6)
    stage.refused = ["tgram"]  # the network is cut, for a night
    stage.put(alarm("broker_lost"), alarm("wal_large"), fill(1))
    assert stage.after(8 * 3600).count("desk: broker_lost") >= 8 * 12  # at last every five minutes
    stage.put(alarm("blind"))  # a new one is tried at once
    assert stage.out[-1][0] == "desk: blind"
    stage.refused = []
    assert sorted(stage.after(600)) == ["desk: blind", "desk: broker_lost"]
    assert stage.after(3600) == []


def test_what_one_of_two_services_took_is_not_repeated() -> None:
    stage = Stage(6, services=2)
    stage.refused = ["tgram"]
    stage.put(alarm("blind"))
    assert stage.after(3600) == []


def test_a_message_that_no_service_will_take_keeps_no_other_one_back_and_is_given_up() -> None:
    stage = Stage(60)
    taken_for_ever = stage.send

    def send(title: str, body: str) -> list[str]:
        taken_for_ever(title, body)
        return ["tgram"] * title.endswith("not_flat")

    stage.outgoing = Outgoing(send, 60, lambda: stage.now_ns, stage.problems.append)
    stage.put(alarm("not_flat"))
    for _ in range(10):
        before = len(stage.out)
        stage.put(alarm("blind"))
        assert stage.out[before][0] == "desk: blind"  # at once
        stage.after(600)
    assert [title for title, _ in stage.out].count("desk: not_flat") == 10
