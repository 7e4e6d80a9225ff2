"""Ask the process that serves answers, over Redis. A thread of its own waits; the desk never does.

An answer comes as an event, through the desk's intake. One that does not come leaves the question to its deadline,
which the step watches: the decision is a HOLD. Only the newest question is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import chain
from math import isfinite, prod
from typing import Any

from daemon.brokers.api import EventLogger, Put
from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered, PolicyFailed
from daemon.experience.link import Link, text_of
from daemon.experience.questions import (
    KEPT,
    Fields,
    Question,
    Reply,
    answers_name,
    fields_of,
    questions_name,
    read_reply,
)
from daemon.host.printable import printable
from daemon.host.time.virtual_time import time_waits_until_done
from daemon.models.store import LoadedModel
from strategies.kit.contract import Answer, Spec

FAILURES: tuple[type[Exception], ...] = (Exception,)  # of one question: none may end the thread, which asks the next
REASON_MOST = 500  # characters of another process's text that are journaled
OVERDUE_S = 1.0  # an idle Redis ends a wait up to 0.1 s late; one that is a second late is frozen
REPLY_BYTES = 2**24  # of one read of the answers, by any writer: the `KEPT` of a desk have far less
NEW = "$"  # after all present entries


class ServedAnswers:
    """Questions of one journal. `model()` is the one that answers now, `put` takes the events.

    `spec` defines a valid answer: any other, from whichever process, counts as failed. `deadline_s` are real seconds,
    the longest wait for a reply. Virtual time stands still until then.
    """

    def __init__(
        self,
        link: Link,
        secret: str,
        journal: tuple[str, str],
        spec: Spec,
        model: Callable[[], LoadedModel],
        put: Put,
        now_ns: Callable[[], int],
        log: EventLogger,
        *,
        deadline_s: float,
    ) -> None:
        self._open: Callable[[], Any] = lambda: link.client(secret, deadline_s + OVERDUE_S, REPLY_BYTES)
        self._questions, self._answers = questions_name(*journal), answers_name(*journal)
        self._spec, self._model, self._put, self._now_ns, self._log = spec, model, put, now_ns, log
        self._address, self._deadline_s = str(link), deadline_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._newest: tuple[Question, Future[None]] | None = None
        self._change = threading.Condition()
        self._ended = False
        self._outage = ""  # the last reported problem, until a reply comes
        self._thread = threading.Thread(target=self._run, name="served answers", daemon=True)

    def start(self) -> None:
        """Start the thread; call this on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def ask(self, question: AskPolicy) -> None:
        """Pass a question on, replacing one not sent yet. Returns at once."""
        observation, model, over = question.observation, self._model(), Future[None]()
        request = Question(
            question.decision, model.version, observation.data, observation.shape, observation.hidden, model.digest
        )
        time_waits_until_done(over)
        with self._change:
            former = self._newest
            self._newest = request, over
            self._change.notify_all()
        if former is not None:
            former[1].set_result(None)

    def close(self) -> None:
        """End the thread; a request under way ends a second after its deadline at the latest."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._open()) as client:
            while (newest := self._next()) is not None:
                question, over = newest
                try:
                    reply = self._request(client, question)
                    if reply is not None:
                        self._outage = ""
                        self._arrive(reply)
                except FAILURES as error:
                    self._report_outage(f"{type(error).__name__}: {text_of(error)}")
                finally:
                    over.set_result(None)

    def _next(self) -> tuple[Question, Future[None]] | None:
        """Wait for the next question; None at the end."""
        with self._change:
            while self._newest is None and not self._ended:
                self._change.wait()
            newest, self._newest = self._newest, None
        if newest is not None and self._ended:
            newest[1].set_result(None)
        return None if self._ended else newest

    def _request(self, client: Any, question: Question) -> Reply | None:
        """Send the question, wait for its reply; None without one in time. Raises RedisError, OSError.

        Earlier entries are not read: they answer nothing, and may be of any size.
        """
        until_s = time.monotonic() + self._deadline_s
        last: bytes | str = NEW
        requests = client.pipeline(transaction=False)  # together with the first read, so that no reply precedes it
        requests.xadd(self._questions, fields_of(question), maxlen=KEPT, approximate=True)
        while (left_ms := int(1000 * (until_s - time.monotonic()))) > 0:
            requests.xread({self._answers: last}, count=KEPT, block=left_ms)
            for _, entries in requests.execute()[-1] or ():
                last = entries[-1][0]
                replies = [self._read(fields) for _, fields in entries]
                if found := next((reply for reply in replies if reply and question.is_answered_by(reply)), None):
                    return found
        return None

    def _read(self, fields: Fields) -> Reply | None:
        """Parse an entry; None for one that is no reply, which is logged."""
        try:
            return read_reply(fields)
        except ValueError as error:
            self._report_outage(str(error))
            return None

    def _arrive(self, reply: Reply) -> None:
        """Bring the reply to the event loop; an answer that the step cannot use becomes a failed one."""
        answer = reply.answer
        error_text = printable(reply.failed, REASON_MOST) if answer is None else unfit(answer, self._spec)

        def put() -> None:
            now_ns = self._now_ns()
            if answer is None or error_text:
                self._put(PolicyFailed(now_ns, reply.decision, f"{reply.version}: {error_text}"))
            else:
                self._put(
                    PolicyAnswered(now_ns, reply.decision, answer.logits, answer.hidden, reply.version, answer.heads)
                )

        if self._loop is not None and not self._ended:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(put)

    def _report_outage(self, problem: str) -> None:
        """Log an outage once for each problem, on the event loop."""

        def report() -> None:
            self._log("served_unavailable", address=self._address, problem=problem)

        if problem != self._outage and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(report)
        self._outage = problem


def unfit(answer: Answer, spec: Spec) -> str:
    """Return why an answer of another process cannot answer a question of this spec, "" where it can."""
    numbers, heads = spec.rows * len(spec.actions), {head.name: spec.rows * prod(head.shape) for head in spec.heads}
    if len(answer.logits) != numbers:
        return f"{len(answer.logits)} values, expected {numbers}: serve the models of the desk's own configuration"
    if {name: len(values) for name, values in answer.heads.items()} != heads:
        expected = ", ".join(f"{name} of {count}" for name, count in heads.items()) or "none"
        return f"other heads than expected ({expected}): serve the models of the desk's own configuration"
    if answer.hidden and spec.recurrent_shape is None:
        return f"a memory of {len(answer.hidden)} bytes, expected none: the policy has no memory"
    if not all(map(isfinite, chain(answer.logits, *answer.heads.values()))):
        return "NaN or infinity, expected finite values: the model is broken for this observation"
    return ""
