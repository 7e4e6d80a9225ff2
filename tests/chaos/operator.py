"""The operator's side of a session: everything is switched on, half of it does not work, and a person commands.

The broker of MQTT is not there, the alarm's program hangs, metrics are scraped, a dashboard's follower looks on. What
must hold of it in the end is judged here too: no command made an order, each accepted command is one event.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.core.state import digest
from daemon.dashboard.desks import FollowedDesk
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from daemon.operator.control.client import CommandRequest, ControlError, ask
from tests.support.ports import free_port

if TYPE_CHECKING:
    from tests.chaos.plan import Plan
    from tests.chaos.session import Run
    from tests.support.desks.live_desk import Books

EVENTS = {
    "pause": "PauseRequested",
    "resume": "ResumeRequested",
    "halt": "HaltRequested",
    "reload-model": "ReloadRequested",
}
WHO = "chaos"
ANSWER_S = 30.0  # real: virtual time stands still
SCRAPE_S = 1.0
LOOK_EVERY_S = 0.5  # real, between two looks of the follower and two scrapes
RESUME_S = 600.0  # virtual seconds within which a running daemon takes the last resume
BETWEEN_MIN = (1.5, 5.0)  # simulated minutes between two commands
OPERATOR = "operator: "
KILLS_MOST, KILL_SHARE, KILL_WITHIN_S = 2, 0.15, 0.012  # a command is answered within some milliseconds


@dataclass(frozen=True, slots=True)
class Asked:
    """One command that was sent. `accepted` when the daemon said that it is done: without an answer nobody knows."""

    command: str
    reason: str
    accepted: bool


@dataclass(slots=True)
class Operator:
    """Whoever commands one session, and what looks on. `chance` decides what comes when."""

    state_dir: Path
    chance: random.Random
    halts: bool  # whether it may halt and resume: not where a halt of the plan's own must stand
    metrics_port: int = field(default_factory=free_port)
    asked: list[Asked] = field(default_factory=list)
    scrapes: int = 0
    kills: int = 0
    _follower: FollowedDesk | None = None
    _next_min: float = 0.0
    _looked: float = 0.0

    @classmethod
    def of(cls, plan: Plan, state_dir: Path) -> Operator:
        """The operator of a session."""
        halts = not any(trouble.kind.halts for trouble in plan.troubles)
        return cls(state_dir, random.Random(f"operator {plan.seed}"), halts)

    def tables(self) -> dict[str, dict[str, object]]:
        """The settings that switch everything on."""
        return {
            "mqtt": {"enabled": True, "port": free_port(), "tls": False, "queue": 200},
            "metrics": {"enabled": True, "port": self.metrics_port},
            "alarms": {"command": ["/bin/sleep", "3"], "timeout_s": 1.0, "per_minute": 60},
            "policy": {"version": "current", "poll_s": 1},
        }

    def turn(self, run: Run) -> None:
        """Look, and say something where it is time to."""
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._scrape()
            self.look()
        if run.minute() >= self._next_min:
            self._next_min = run.minute() + self.chance.uniform(*BETWEEN_MIN)
            command = self._command()
            if command and self.kills < KILLS_MOST and self.chance.random() < KILL_SHARE:
                self._ask_and_kill(run, command)
            elif command:
                self._ask(command)

    def _command(self) -> str:
        """What to say next, "" for nothing."""
        status = self._status()
        if status is None:
            return ""
        if not self.halts:
            return "" if status.pause else "reload-model"
        if status.halt.startswith(OPERATOR) or status.pause:
            return "resume"
        return "reload-model" if status.halt else self.chance.choice(("pause", "halt", "reload-model"))

    def let_go(self, run: Run) -> None:
        """End a pause or halt of ours, so that the session ends as it would without us."""
        until_ns = run.clock.now_ns() + int(RESUME_S * 1e9)
        while run.clock.now_ns() < until_ns:
            status = self._status()
            if status is not None:
                if not (self.halts and (status.halt.startswith(OPERATOR) or status.pause)):
                    return
                self._ask("resume")
            run.nap(1.0)
        run.problems.append(f"no answer to the operator's resume within {RESUME_S:g} s")

    def figures(self) -> tuple[int, int]:
        """How many commands were accepted, and how many had no answer or a refusal."""
        accepted = sum(answer.accepted for answer in self.asked)
        return accepted, len(self.asked) - accepted

    def look(self) -> None:
        """The follower looks on; what it cannot follow this moment it follows later."""
        if self._follower is None:
            self._follower = FollowedDesk("chaos", self.state_dir)
        self._follower.look()

    def followed(self) -> str:
        """The digest of the follower's state when it has caught up."""
        if self._follower is None:
            return ""
        while not (picture := self._follower.look()).caught_up and not picture.problem:
            pass
        return picture.problem or (digest(picture.state) if picture.state is not None else "no state")

    def _status(self) -> Any:
        with contextlib.suppress(ControlError):
            return ask(self.state_dir, CommandRequest(1, "status"), ANSWER_S).status
        return None

    def _ask(self, command: str) -> None:
        reason, accepted = f"{command} {len(self.asked)}", False
        with contextlib.suppress(ControlError):
            accepted = ask(self.state_dir, CommandRequest(1, command, reason, WHO), ANSWER_S).ok
        self.asked.append(Asked(command, reason, accepted))

    def _ask_and_kill(self, run: Run, command: str) -> None:
        """SIGKILL about when the answer comes: what was accepted is in the journal all the same."""
        self.kills += 1
        asking = threading.Thread(target=self._ask, args=(command,))
        asking.start()
        time.sleep(self.chance.uniform(0.0, KILL_WITHIN_S))
        run.desk.kill()
        asking.join()
        run.start()

    def _scrape(self) -> None:
        address = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=SCRAPE_S) as answer:
            self.scrapes += b"rltrader_events_total" in answer.read()


# --- what must hold -----------------------------------------------------------------------------------------------


def examine(operator: Operator, books: Books) -> list[str]:
    """All that must hold of the operator's side in the end; sentences, none when all is well."""
    problems = [] if operator.scrapes else ["no scrape ever came"]
    if operator.followed() != digest(books.state):
        problems.append(f"the follower ended with {operator.followed()}, the journal with {digest(books.state)}")
    try:
        journaled = commands_of(operator.state_dir)
    except JournalError as error:
        return [*problems, f"the journal cannot be read: {error}"]
    return [
        *problems,
        *events_apart(operator.asked, [(kind, reason) for kind, reason, _ in journaled]),
        *(f"{kind} {reason!r} sent an entry" for kind, reason, effects in journaled if _enters(effects)),
        *orphans(books.orders, books.decisions),
    ]


def commands_of(state_dir: Path) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Kind, reason and effects of every journaled event that our commands name."""
    reader = JournalReader(state_dir / FILE)
    try:
        commands = []
        for entry in reader.entries():
            if entry.kind in EVENTS.values():
                payload = json.loads(entry.payload)
                if payload["who"].startswith(f"control/{WHO} "):
                    reason = payload["detail" if entry.kind == "HaltRequested" else "reason"]
                    commands.append((entry.kind, reason, json.loads(entry.effects or "[]")))
        return commands
    finally:
        reader.close()


def events_apart(commands: Iterable[Asked], journaled: Collection[tuple[str, str]]) -> list[str]:
    """Commands that are not one event: accepted and not journaled, journaled twice, or never asked for."""
    count = Counter(journaled)
    expected = {(EVENTS[answer.command], answer.reason): answer.accepted for answer in commands}
    problems = [f"{kind} {reason!r} was never asked for" for kind, reason in count if (kind, reason) not in expected]
    for (kind, reason), accepted in expected.items():
        times = count[kind, reason]
        if times > 1 or (accepted and not times):
            problems.append(f"{kind} {reason!r}: {times} events, {'accepted' if accepted else 'unanswered'}")
    return problems


def _enters(effects: Iterable[Mapping[str, Any]]) -> bool:
    return any(effect["type"] == "SubmitOrder" and effect["side"] > 0 for effect in effects)


def orphans(orders: Mapping[str, Mapping[str, Any]], decisions: Iterable[Mapping[str, Any]]) -> list[str]:
    """Orders of the desk that belong to no decision of the policy and to no rule."""
    decided = {(row["work"], row["kind"] == "policy") for row in decisions if row["work"]}
    problems = []
    for name, row in orders.items():
        if row["purpose"] == "entry" and (row["work"], True) not in decided:
            problems.append(f"{name}: an entry without a decision of the policy")
        elif row["purpose"] == "exit" and not {(row["work"], True), (row["work"], False)} & decided:
            problems.append(f"{name}: an exit without a decision")
    return problems
