"""Versions are taken at a session's end, judged on the sessions after it alone, and published with what those say."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from daemon.experience.experience import ActionChoice, Experience
from daemon.host.ed25519 import KeyProblem
from tests.support.outside.stream import Logged
from tests.support.rl.stream_learner import ACTIONS, WIDTH, make_experiences
from training.evidence.off_policy import OffPolicy
from training.export.reference import Watched
from training.online.candidates import Candidates, Origin
from training.online.judging import compare_with_champion, exchanged
from training.online.publish import Versions
from training.rl.dqn.networks import QNetwork

A_SESSION = 5
STREAM = "the stream"


class Published:
    """Keeps what was published."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[float], OffPolicy, Origin, str]] = []
        self.watched: list[Watched] = []
        self.possible = True

    def __call__(self, network: QNetwork, result: OffPolicy, origin: Origin, parent: str, watched: Watched) -> bool:
        self.calls.append((numbers(network), result, origin, parent))
        self.watched.append(watched)
        return self.possible


def numbers(network: QNetwork) -> list[float]:
    return [number for tensor in network.state_dict().values() for number in tensor.flatten().tolist()]


def move(network: QNetwork) -> None:
    """Learn something."""
    with torch.no_grad():
        next(iter(network.parameters())).add_(0.01)


def sessions(count: int, model: str = "champion") -> list[Experience]:
    """So many sessions of decisions that were explored."""
    experiences = make_experiences(count * A_SESSION)
    odds = [(0.8, 0.2, 0.0), (0.5, 0.5, 0.0), (0.9, 0.0, 0.1)]
    return [
        replace(
            experience,
            session=f"2024-01-{place // A_SESSION + 1:02}",
            terminal=place % A_SESSION == A_SESSION - 1,
            model=model,
            chosen=(ActionChoice(0, 0, odds[place % 3]),),
        )
        for place, experience in enumerate(experiences)
    ]


def candidates(network: QNetwork, published: Published, **more: Any) -> Candidates:
    settings = {"every": 2, "sessions": 3, "horizon": 2, "discount": 0.9, "features": 2, "portfolio": 1} | more
    return Candidates(network, published, **settings)


def net() -> QNetwork:
    return QNetwork(WIDTH, (4,), actions=ACTIONS, seed=1)


def see(maker: Candidates, experiences: Sequence[Experience], network: QNetwork, **more: Any) -> list[bool]:
    flags = []
    for experience in experiences:
        move(network)
        values: dict[str, Any] = {"stream": STREAM, "follows": not experience.terminal, "frozen": False} | more
        flags.append(maker.look(experience, [0.001 * experience.decision], **values))
    return flags


def test_a_version_is_taken_each_so_many_sessions_and_published_so_many_later() -> None:
    network, published = net(), Published()
    maker, all_ = candidates(network, published), sessions(8)
    flags = see(maker, all_[: 2 * A_SESSION], network)
    expected = numbers(network)
    assert [place for place, flag in enumerate(flags) if flag] == [2 * A_SESSION - 1]
    see(maker, all_[2 * A_SESSION : 5 * A_SESSION - 1], network)
    assert published.calls == []
    see(maker, all_[5 * A_SESSION - 1 :], network)
    assert [origin.session for _, _, origin, _ in published.calls] == ["2024-01-02", "2024-01-04"]
    weights, off, origin, parent = published.calls[0]
    assert weights == expected
    assert origin == Origin("2024-01-02", STREAM, (all_[0].row, all_[2 * A_SESSION - 1].row))
    assert (off.decisions, off.sessions, off.episodes, parent) == (3 * A_SESSION, 3, 9, "champion")
    rows, answers = published.watched[0]
    states = [np.frombuffer(experience.state, dtype="<f4") for experience in all_[2 * A_SESSION : 5 * A_SESSION]]
    assert rows.tolist() == [state[-2:].tolist() for state in states]
    assert answers.shape == (3 * A_SESSION, ACTIONS)
    assert off.exploration == pytest.approx(np.mean([0.2, 0.5, 0.1]))
    assert off.cannot_be_said == "3 sessions, expected at least 8"


def test_what_has_learned_nothing_since_is_not_taken_again() -> None:
    network, published = net(), Published()
    maker = candidates(network, published, every=1, sessions=1)
    for experience in sessions(4):
        maker.look(experience, [0.0], stream=STREAM, follows=not experience.terminal, frozen=False)
    assert published.calls == []


def test_only_decisions_of_the_one_that_answered_last_count_and_it_is_the_parent() -> None:
    network, published = net(), Published()
    maker = candidates(network, published)
    all_ = [*sessions(3, "former"), *sessions(5)[3 * A_SESSION :]]
    all_[-1] = replace(all_[-1], model="", outcome="failed")
    see(maker, all_, network)
    ((_, off, _, parent),) = published.calls
    assert (parent, off.decisions, off.sessions) == ("champion", 2 * A_SESSION - 1, 2)


def test_a_session_whose_end_never_came_ends_with_the_next_one() -> None:
    network, published = net(), Published()
    maker = candidates(network, published)
    see(maker, [experience for experience in sessions(6) if not experience.terminal], network)
    assert [origin.session for _, _, origin, _ in published.calls] == ["2024-01-02"]


def test_frozen_nothing_is_taken_and_nothing_is_published_until_it_is_thawed() -> None:
    network, published = net(), Published()
    maker, all_ = candidates(network, published), sessions(9)
    see(maker, all_[: 4 * A_SESSION], network)
    see(maker, all_[4 * A_SESSION : 6 * A_SESSION], network, frozen=True)
    assert published.calls == []
    see(maker, all_[6 * A_SESSION :], network)
    assert [origin.session for _, _, origin, _ in published.calls] == ["2024-01-02", "2024-01-04"]


def test_a_version_that_cannot_be_published_now_is_tried_again_at_the_next_session_s_end() -> None:
    network, published = net(), Published()
    maker, all_ = candidates(network, published, every=4), sessions(9)
    published.possible = False
    see(maker, all_[: 7 * A_SESSION], network)
    published.possible = True
    after = candidates(net(), published, every=4)
    after.load_state_dict(maker.state_dict())
    see(after, all_[7 * A_SESSION :], network)
    assert [(origin.session, off.sessions) for _, off, origin, _ in published.calls] == [
        ("2024-01-04", 3),
        ("2024-01-04", 4),
    ]
    assert published.calls[0][0] == published.calls[1][0]


def test_a_version_that_no_key_signed_or_no_disk_took_waits_and_one_that_cannot_be_exported_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object) -> None:
        raise problems.pop()

    network, logged, anything = net(), Logged(), cast("Any", None)
    full = OSError(errno.ENOSPC, "No space left on device", "/store/online_dqn")
    problems = [ValueError("no sessions kept apart"), full, KeyProblem("others may use this key")]
    monkeypatch.setattr(Versions, "publish", refused)
    versions = Versions(tmp_path, anything, anything, {}, anything, logged.log)
    origin = Origin("2024-01-04", STREAM, (1, 2))
    assert [versions(network, anything, origin, "", anything) for _ in range(3)] == [False, False, True]
    assert [line["problem"] for line in logged.lines("version_failed")] == [
        "others may use this key",
        "[Errno 28] No space left on device: '/store/online_dqn'",
        "no sessions kept apart",
    ]
    assert versions.problem == "the version of session 2024-01-04 cannot be published: no sessions kept apart"


def test_another_stream_begins_a_new_span_of_rows() -> None:
    network, published = net(), Published()
    maker, all_ = candidates(network, published), sessions(9)
    see(maker, all_[:A_SESSION], network)
    see(maker, all_[A_SESSION:], network, stream="another")
    origin = published.calls[0][2]
    assert (origin.stream, origin.rows) == ("another", (all_[A_SESSION].row, all_[2 * A_SESSION - 1].row))


def test_gone_on_with_from_any_state_it_publishes_the_same() -> None:
    network, whole = net(), Published()
    maker, all_ = candidates(network, whole), sessions(8)
    see(maker, all_, network)
    for cut in (1, 2 * A_SESSION, 2 * A_SESSION + 1, 4 * A_SESSION + 3):
        network, parts = net(), Published()
        before = candidates(network, parts)
        see(before, all_[:cut], network)
        state = before.state_dict()
        after = candidates(network, parts)
        after.load_state_dict(state)
        see(after, all_[cut:], network)
        assert parts.calls == whole.calls, cut


# --- the card's figures -----------------------------------------------------------------------------------------------


def test_a_policy_explores_as_the_log_does_around_its_own_best_action() -> None:
    behaviour = np.array([[0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0]])
    values = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert exchanged(behaviour, values).tolist() == [
        [0.8, 0.2, 0.0],  # the same best action
        [0.2, 0.8, 0.0],
        [0.8, 0.2, 0.0],  # what was not allowed is a HOLD
        [0.9, 0.1, 0.0],
    ]


def a_log(count: int, sessions_: int, seed: int) -> tuple[Any, Any]:
    """A log of two lanes in which BUY earns 1 and HOLD 0, with a champion that buys with 0.4 as its exploration."""
    draw = np.random.default_rng(seed)
    rows = []
    for session in range(sessions_):
        for place in range(count):
            for lane in range(2):
                action = int(draw.random() < 0.4)
                about = [session, lane, session * count + place, 0.0, action, float(action) + 0.1 * draw.normal()]
                rows.append([*about, 0.6, 0.4, 0.0, draw.normal()])
    log = np.array(rows)
    return log, np.tile([[0.0, 1.0, 0.0]], (len(log), 1))


def test_a_better_policy_leads_by_what_it_earns_more() -> None:
    log, values = a_log(40, 20, seed=3)
    card = compare_with_champion(log, values, 0, portfolio=1, horizon=1, discount=1.0)
    assert card.cannot_be_said == ""
    assert (card.decisions, card.sessions, card.episodes) == (1600, 20, 1600)
    assert {one.name: one.lead.estimate for one in card.estimates} == {
        name: pytest.approx(0.2, abs=0.01)  # BUY with 0.6 in place of 0.4
        for name in ("wis", "dr", "fqe")
    }


def test_lanes_are_runs_of_their_own_and_a_gap_ends_one() -> None:
    log, values = a_log(6, 1, seed=1)
    assert compare_with_champion(log, values, 0, portfolio=1, horizon=3, discount=1.0).episodes == 4
    log = log[log[:, 2] != 2]
    assert (
        compare_with_champion(log, values[: len(log)], 0, portfolio=1, horizon=3, discount=1.0).episodes == 4
    )  # 2 + 3 decisions of each lane


def test_a_log_without_a_decision_of_the_champion_says_nothing() -> None:
    log, values = a_log(3, 2, seed=1)
    card = compare_with_champion(log, values, 7, portfolio=1, horizon=2, discount=0.9)
    assert card.cannot_be_said == "no decision of the champion was logged since it was taken"
    assert (card.horizon, card.discount, card.decisions) == (2, 0.9, 0)
