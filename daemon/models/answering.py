"""The loaded policies: the live one, the one staged to replace it, and the candidate.

Used on the event loop's thread only, as the engine's `policy` and `shadow`. Invariant: the live policy changes only
when the engine has stepped its `ModelPromoted`, never in the middle of a bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, ModelPromoted, PolicyAnswered, PolicyFailed, ShadowAnswered, ShadowFailed
from daemon.core.state import State
from daemon.core.step import Step
from daemon.models.runtime import NoPolicy, OnnxPolicy
from daemon.models.store import LoadedModel
from strategies.kit.contract import Observation

SLOW_NS = 20_000_000  # a candidate may not hold the trading loop longer than this
SLOW_ROW_NS = 2_000_000  # the same for each symbol of one that answers row by row
STRIKES = 3  # failed or slow answers in a row that switch the candidate off
_FAILURES: tuple[type[Exception], ...] = (Exception,)


class Models:
    """Made with the policy that is live from the start. `clock_ns` measures a candidate's answers.

    `on_shadow_off(version, reason)` is called when the candidate is switched off; it must not raise.
    """

    def __init__(
        self, policy: OnnxPolicy | NoPolicy, loaded: LoadedModel, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.running = loaded
        self.shadow: LoadedModel | None = None
        self.on_shadow_off: Callable[[str, str], None] = lambda _version, _reason: None
        self._policy: OnnxPolicy | NoPolicy = policy
        self._staged: tuple[OnnxPolicy, LoadedModel] | None = None
        self._candidate: OnnxPolicy | None = None
        self._strikes = 0
        self._clock_ns = clock_ns

    # --- the engine's side ----------------------------------------------------------------------------------------

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered | PolicyFailed:
        """Return the live policy's answer, under its version's name. Never raises."""
        return self._policy.answer(question, now_ns)

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed | None:
        """Return the candidate's answer to the same question; None without a candidate. Never raises.

        It uses the state's memory if that is of this version, else zeros. A candidate that fails, or takes more than 20
        ms (2 ms a symbol where rows are symbols and that is more), three times in a row, is switched off.
        """
        policy, loaded = self._candidate, self.shadow
        if policy is None or loaded is None:
            return None
        began = self._clock_ns()
        try:
            answer = _asked(policy, question, state)
        except _FAILURES as error:  # whatever is raised, the desk trades on
            answer = ShadowFailed(state.now_ns, question.decision, _problem(error), loaded.version)
        took_ns = self._clock_ns() - began
        self._judge(loaded.version, answer, took_ns, max(SLOW_NS, SLOW_ROW_NS * policy.rows))
        return answer

    def observe(self, event: Event, _: Step) -> None:
        """Called after every step: from a `ModelPromoted` on, the staged policy is live.

        Raises RuntimeError when no staged policy matches the event: a bug.
        """
        if type(event) is not ModelPromoted:
            return
        staged = self._staged
        if staged is not None and _is(staged[1], event):
            (self._policy, self.running), self._staged = staged, None
        elif not _is(self.running, event):  # after a crash the event may come again for the running policy
            raise RuntimeError(f"ModelPromoted names {event.version} ({event.digest[:8]}), and no such one was staged")

    # --- the lifecycle's side -------------------------------------------------------------------------------------

    def stage(self, policy: OnnxPolicy, loaded: LoadedModel) -> None:
        """Hold a verified policy ready for the `ModelPromoted` that names it, replacing an earlier one."""
        self._staged = (policy, loaded)

    def set_candidate(self, policy: OnnxPolicy, loaded: LoadedModel) -> None:
        """Make a verified policy the candidate, from the next question on."""
        self._candidate, self.shadow, self._strikes = policy, loaded, 0

    def drop_candidate(self) -> None:
        """Remove the candidate."""
        self._candidate = self.shadow = None

    def _judge(self, version: str, answer: ShadowAnswered | ShadowFailed, took_ns: int, most_ns: int) -> None:
        if isinstance(answer, ShadowFailed):
            problem = f"no answer: {answer.reason}"
        elif took_ns > most_ns:
            problem = f"{took_ns / 1e6:.0f} ms for an answer, expected at most {most_ns / 1e6:.0f}"
        else:
            self._strikes = 0
            return
        self._strikes += 1
        if self._strikes >= STRIKES:
            self.drop_candidate()
            self.on_shadow_off(version, f"switched off after {STRIKES} in a row: {problem}")


def _asked(policy: OnnxPolicy, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed:
    """Return the policy's answer to the question's observation with its own memory."""
    live = question.observation
    memory = state.shadow.hidden if state.shadow.model == policy.version else b""
    own = msgspec.structs.replace(question, observation=Observation(live.data, live.shape, memory))
    match policy.answer(own, state.now_ns):
        case PolicyAnswered() as answer:
            return ShadowAnswered(
                state.now_ns, question.decision, answer.logits, answer.hidden, policy.version, answer.heads
            )
        case failure:
            return ShadowFailed(state.now_ns, question.decision, failure.reason, policy.version)


def _problem(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _is(loaded: LoadedModel, event: ModelPromoted) -> bool:
    return (loaded.version, loaded.digest) == (event.version, event.digest)
