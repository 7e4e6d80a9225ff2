"""Answer a desk's questions over Redis, by the exported model that the question names.

The graph is run as the daemon runs it, so served and local answers have the same bytes. Of questions older than this
process only the newest is answered: the others' deadlines have passed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered
from daemon.experience.link import RedisError
from daemon.experience.questions import KEPT, Question, Reply, answers_name, fields_of, questions_name, read_question
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import ModelError, load
from strategies.kit.contract import Answer, AnyStrategy
from strategies.kit.manifest import POLICY_FILE

MODELS_KEPT = 3  # the champion, a challenger, and the one before
BLOCK_MS = 500  # block of each read for questions, and so the longest delay of a stop
WAIT_S = 0.5  # before the next look where Redis is away
_FAILURES: tuple[type[Exception], ...] = (Exception,)  # an error in one question must not end the serving thread

Log = Callable[..., None]


class AnswerServer:
    """Serves the questions of one journal from the model store `models_dir`. `client` is a Redis client."""

    def __init__(
        self,
        client: Any,
        journal: tuple[str, str],
        models_dir: Path,
        strategy: AnyStrategy,
        log: Log,
        public_key: str = "",
    ) -> None:
        self._client, self._models_dir, self._strategy, self._log = client, models_dir, strategy, log
        self._questions, self._answers = questions_name(*journal), answers_name(*journal)
        self._public_key = public_key
        self._models: OrderedDict[str, OnnxPolicy] = OrderedDict()
        self._last: bytes | str = ""  # id of the newest question seen, "" before the first look

    def turn(self, block_ms: int = 1000) -> int:
        """Answer the questions that come within `block_ms`; returns how many. Raises RedisError."""
        if not self._last:
            newest = self._client.xrevrange(self._questions, count=2)
            self._last = newest[1][0] if len(newest) > 1 else "0"
        streams = self._client.xread({self._questions: self._last}, block=block_ms)
        if not streams:
            self._begin_again_below()
        count = 0
        for _, entries in streams or ():
            for identifier, fields in entries:
                self._last = identifier
                try:
                    reply = self._reply(read_question(fields))
                except _FAILURES as error:
                    self._log("question_refused", problem=f"{type(error).__name__}: {error}")
                    continue
                self._client.xadd(self._answers, fields_of(reply), maxlen=KEPT, approximate=True)
                count += 1
        return count

    def _begin_again_below(self) -> None:
        """A stream that was lost and created again has smaller ids than before."""
        newest = self._client.xrevrange(self._questions, count=1)
        if not newest or _ids(newest[0][0]) < _ids(self._last):
            self._last = "0"

    def _reply(self, question: Question) -> Reply:
        """Return the answer of the version that the question names."""
        decision, version, observation = question.decision, question.version, question.seen
        try:
            policy = self._policy(version, question.digest)
        except ModelError as error:
            return Reply(decision, version, failed=str(error), seen=observation)
        answer = policy.answer(AskPolicy(decision, 0, question.observation), 0)
        if isinstance(answer, PolicyAnswered):
            return Reply(decision, version, Answer(answer.logits, answer.hidden, answer.heads), seen=observation)
        return Reply(decision, version, failed=answer.reason, seen=observation)

    def _policy(self, version: str, digest: str) -> OnnxPolicy:
        """Return the verified model of this version whose graph has this digest ("": any). Raises ModelError."""
        policy = self._models.get(version)
        if policy is None or digest not in ("", policy.digest):
            loaded = load(self._models_dir, self._strategy, version, self._public_key)
            policy = self._models[version] = OnnxPolicy.open(loaded, self._strategy, "cpu", 1)
            while len(self._models) > MODELS_KEPT:
                self._models.popitem(last=False)
        if digest not in ("", policy.digest):
            raise ModelError(
                "served policy",
                f"{POLICY_FILE} of {version} has SHA-256 {policy.digest} here, the desk answers by {digest}: give both "
                "one model store, and publish what was changed under another name",
            )
        return policy


def _ids(identifier: bytes | str) -> tuple[int, ...]:
    text = identifier.decode() if isinstance(identifier, bytes) else identifier
    return tuple(map(int, text.split("-")))


class AnswerService:
    """Serves one journal after the other on a thread of its own; within a `with`. Redis may be away for any time.

    `client` may be shared with other threads. See `AnswerServer` for the rest.
    """

    def __init__(self, client: Any, models_dir: Path, strategy: AnyStrategy, log: Log, public_key: str = "") -> None:
        self._client, self._models_dir, self._strategy, self._log = client, models_dir, strategy, log
        self._public_key = public_key
        self._server: AnswerServer | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="served answers", daemon=True)

    def turn_to(self, stream: str) -> None:
        """Serve the journal of this stream of experience from now on."""
        _, desk, epoch, _ = stream.split(":")
        self._server = AnswerServer(
            self._client, (desk, epoch), self._models_dir, self._strategy, self._log, self._public_key
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            server = self._server
            if server is None:
                self._end.wait(WAIT_S)
                continue
            with contextlib.suppress(RedisError, OSError):
                server.turn(BLOCK_MS)
                continue
            self._end.wait(WAIT_S)
