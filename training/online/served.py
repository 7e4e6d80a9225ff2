"""Answer a desk's questions over Redis, by the exported model that the question names.

The graph is run as the daemon runs it, so served and local answers have the same bytes. Questions that are older than
this process are left alone: their deadline is over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered
from daemon.experience.questions import KEPT, Question, Reply, answers_name, questions_name, read_question, written
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import ModelError, load
from strategies.kit.contract import Answer, Strategy

MODELS_KEPT = 3  # the champion, a challenger, and the one before

Log = Callable[..., None]


class AnswerServer:
    """Serves the questions of one journal from the model store `models_dir`. `client` is a Redis client."""

    def __init__(
        self,
        client: Any,
        journal: tuple[str, str],
        models_dir: Path,
        strategy: Strategy,
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
            newest = self._client.xrevrange(self._questions, count=1)
            self._last = newest[0][0] if newest else "0"
        found = self._client.xread({self._questions: self._last}, block=block_ms)
        count = 0
        for _, entries in found or ():
            for identifier, fields in entries:
                self._last = identifier
                try:
                    reply = self._reply(read_question(fields))
                except ValueError as error:
                    self._log("question_refused", problem=str(error))
                    continue
                self._client.xadd(self._answers, written(reply), maxlen=KEPT, approximate=True)
                count += 1
        return count

    def _reply(self, question: Question) -> Reply:
        """Return the answer of the version that the question names."""
        decision, version = question.decision, question.version
        try:
            policy = self._policy(version)
        except ModelError as error:
            return Reply(decision, version, failed=str(error))
        found = policy.answer(AskPolicy(decision, 0, question.observation), 0)
        if isinstance(found, PolicyAnswered):
            return Reply(decision, version, Answer(found.logits, found.hidden, found.heads))
        return Reply(decision, version, failed=found.reason)

    def _policy(self, version: str) -> OnnxPolicy:
        """Return the verified model of this version. Raises ModelError."""
        policy = self._models.get(version)
        if policy is None:
            loaded = load(self._models_dir, self._strategy, version, self._public_key)
            policy = self._models[version] = OnnxPolicy.open(loaded, self._strategy, "cpu", 1)
            while len(self._models) > MODELS_KEPT:
                self._models.popitem(last=False)
        return policy
