"""The policies that answer: the live one, the one staged to follow it, and the candidate beside it.

On the event loop's thread alone. It is the engine's `policy` and its `beside`. Invariant: the live policy changes when
the engine has stepped the `ModelPromoted` that says so, and never in the middle of a bar.
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
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel
from strategies.kit.contract import Observation

SLOW_NS = 20_000_000  # longer an answer beside the live one may not keep the trading loop
SLOW_ROW_NS = 2_000_000  # longer for each symbol of one that answers row by row
STRIKES = 3  # answers in a row that fail or are slow: then the candidate is switched off
_FAILURES: tuple[type[Exception], ...] = (Exception,)


class Models:
    """Made with the policy that answers from the start. `clock_ns` measures how long a candidate takes.

    `on_shadow_off(version, reason)` is called when the candidate is switched off; it must not raise.
    """

    def __init__(
        self, policy: OnnxPolicy, loaded: LoadedModel, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.running = loaded
        self.shadow: LoadedModel | None = None
        self.on_shadow_off: Callable[[str, str], None] = lambda _version, _reason: None
        self._policy = policy
        self._staged: tuple[OnnxPolicy, LoadedModel] | None = None
        self._beside: OnnxPolicy | None = None
        self._strikes = 0
        self._clock_ns = clock_ns

    # --- the engine's side ----------------------------------------------------------------------------------------

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered | PolicyFailed:
        """The live policy's answer, under its version's name. Never raises."""
        return self._policy.answer(question, now_ns)

    def beside(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed | None:
        """The candidate's answer to the same question, from its own memory; None without one. Never raises.

        Its memory is the state's as long as that is this version's, else it begins with zeros. One that fails, or takes
        more than 20 ms (2 ms a symbol where rows are symbols and that is more), three times in a row, is switched off.
        """
        policy, loaded = self._beside, self.shadow
        if policy is None or loaded is None:
            return None
        began = self._clock_ns()
        try:
            said = _asked(policy, question, state)
        except _FAILURES as error:  # whatever it is, the desk trades on
            said = ShadowFailed(state.now_ns, question.decision, _problem(error), loaded.version)
        took_ns = self._clock_ns() - began
        self._judge(loaded.version, said, took_ns, max(SLOW_NS, SLOW_ROW_NS * policy.rows))
        return said

    def observe(self, event: Event, _: Step) -> None:
        """Every step goes by here: from a `ModelPromoted` on, the staged policy answers.

        Raises RuntimeError when nothing was staged that the event could mean: a bug.
        """
        if type(event) is not ModelPromoted:
            return
        staged = self._staged
        if staged is not None and _is(staged[1], event):
            (self._policy, self.running), self._staged = staged, None
        elif not _is(self.running, event):  # after a crash the event may come again for what runs already
            raise RuntimeError(f"ModelPromoted names {event.version} ({event.digest[:8]}), and no such one was staged")

    # --- the lifecycle's side -------------------------------------------------------------------------------------

    def stage(self, policy: OnnxPolicy, loaded: LoadedModel) -> None:
        """Hold a verified policy ready for the `ModelPromoted` that names it; what was staged before is dropped."""
        self._staged = (policy, loaded)

    def put_beside(self, policy: OnnxPolicy, loaded: LoadedModel) -> None:
        """Let a verified policy answer beside the live one from the next question on."""
        self._beside, self.shadow, self._strikes = policy, loaded, 0

    def end_beside(self) -> None:
        """Let nothing answer beside the live policy."""
        self._beside = self.shadow = None

    def _judge(self, version: str, said: ShadowAnswered | ShadowFailed, took_ns: int, most_ns: int) -> None:
        if isinstance(said, ShadowFailed):
            problem = f"no answer: {said.reason}"
        elif took_ns > most_ns:
            problem = f"{took_ns / 1e6:.0f} ms for an answer, expected at most {most_ns / 1e6:.0f}"
        else:
            self._strikes = 0
            return
        self._strikes += 1
        if self._strikes >= STRIKES:
            self.end_beside()
            self.on_shadow_off(version, f"switched off after {STRIKES} in a row: {problem}")


def _asked(policy: OnnxPolicy, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed:
    """The policy's answer to the question's observation with its own memory."""
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
