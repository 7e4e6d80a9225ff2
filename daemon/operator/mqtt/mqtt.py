"""The daemon's connection to its MQTT broker: telemetry out of the outbox, signed commands into the gateway.

It runs on the side thread. A broker that is gone, slow or hostile costs only messages: queues are bounded, and a
connection that does not answer is dropped and retried with back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from hashlib import pbkdf2_hmac
from typing import Any, NoReturn

import msgspec
from aiomqtt import Client, Message, MqttError, Will
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from daemon.core.events import ClockReset, Event
from daemon.core.state import State
from daemon.core.step import Step
from daemon.operator.commands import CommandError
from daemon.operator.gateway import Done
from daemon.operator.mqtt.connection import (
    CLOSE_TIMEOUT_S,
    EXPIRY_S,
    INFLIGHT_MOST,
    Broker,
    connected,
    properties,
    safe_text,
    still_wanted,
)
from daemon.operator.mqtt.messages import ResponseMessage, StatusMessage, message_of, telemetry_of
from daemon.operator.mqtt.outbox import Item, Outbox
from daemon.operator.mqtt.remote_commands import CHANNEL, Accepted, Judge, Refusals
from daemon.operator.mqtt.signing import Key
from daemon.operator.status import status_of
from daemon.pacing.back_off import back_off_s
from strategies.kit.units import SECOND_NS

CHAIN = "chain"  # the journal's newest head
CONFIRMED = frozenset(("status", "orders", "fills", "alarms", CHAIN))  # sent at QoS 1: until the broker has them
HEARTBEAT_S = 30.0
STEADY_S = 30.0  # after a connection of this length the next wait is short again
PAYLOAD_MOST = 200_000  # bytes; the broker's own limit is 256 KiB
COMMANDS_MOST = 64  # carried out at the same moment
NAME_ROUNDS = 200_000  # of PBKDF2: a broker's log holds client names, and shall not give a weak password away
RESPONSE_TOPIC_MOST = 256
CORRELATION_MOST = 256

Submit = Callable[[Callable[[int], Event]], Future[Done]]


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """The broker, what topics begin with, and whether commands are taken. Waits in seconds."""

    broker: Broker
    desk: str
    prefix: str = "rltrader"
    commands: bool = False
    wait_least_s: float = 1.0
    wait_most_s: float = 30.0

    def topic(self, name: str) -> str:
        """A topic of this desk."""
        return f"{self.prefix}/{self.desk}/{name}"


class MqttSide:
    """`run` on the side thread, for as long as the daemon lives.

    `submit` is the gateway's for other threads, `state` gives the desk as it is, `log` and `now_ns` (real time) may be
    called on any thread. `password` and `keys` stay in here.
    """

    def __init__(
        self,
        settings: MqttSettings,
        password: str | None,
        keys: Mapping[str, Key],
        outbox: Outbox,
        submit: Submit,
        state: Callable[[], State[Any]],
        log: Callable[..., None],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings, self._password, self._outbox = settings, password, outbox
        self._submit, self._state, self._log = submit, state, log
        desk = state()
        known_ns = 0 if desk.identity.mode == "replay" else desk.now_ns  # of a replay that is the tape's time
        self._judge = Judge(settings.desk, keys, now_ns, known_ns)
        self._refusals = Refusals(submit, time.monotonic_ns)
        self._listens = settings.commands and bool(keys)
        self._encode = msgspec.json.Encoder().encode
        self._hand: dict[int, Item] = {}  # taken out of the outbox and not confirmed, in their order
        self._taken = 0
        self._kept: dict[str, bytes] = {}  # the newest of retained topics: a broker that restarts has forgotten them
        self._reason = ""  # why the connection was lost, as logged last
        self._commands: set[asyncio.Task[None]] = set()
        self._reporting: asyncio.TimerHandle | None = None
        self.reconnects = 0

    def observe(self, event: Event, _: Step) -> None:
        """See every step, on the trading thread: after a clock reset commands are accepted again."""
        if isinstance(event, ClockReset):
            self._judge.lead_back()

    async def run(self) -> None:
        """Connect, publish and listen until cancelled."""
        failures = 0
        while True:
            began = time.monotonic()
            up = False
            try:
                async with connected(self._settings.broker, self._password, self.identifier, self._will()) as client:
                    up = True
                    await self._session(client)
            except (MqttError, OSError, ValueError) as error:
                reason = safe_text(error, self._password)
            finally:
                self._outbox.give_back(self._hand.values())
                self._hand.clear()
            self.reconnects += up
            failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
            await self._wait(reason, failures)

    async def _wait(self, reason: str, failures: int) -> None:
        """Back off: the ceiling doubles with each failure, the wait is drawn below it (full jitter, with a floor)."""
        least_s, most_s = self._settings.wait_least_s, self._settings.wait_most_s
        wait_s = max(least_s, back_off_s(failures + 1, least_s, most_s, _DRAW.random(), sure=0.0))
        if reason != self._reason:  # the same trouble again needs no further line
            self._reason = reason
            dropped = self._outbox.counts().dropped
            self._log(
                "mqtt_lost",
                broker=str(self._settings.broker),
                reason=reason,
                wait_s=round(wait_s, 1),
                dropped=dropped,
            )
        await asyncio.sleep(wait_s)

    @cached_property
    def identifier(self) -> str:
        """The same each time: a connection that died unnoticed, and its last will, end when the next one begins.

        It cannot be guessed without the password: a broker drops a client when another one takes its name.
        """
        plain = f"{self._settings.prefix.replace('/', '-')}-{self._settings.desk}"
        if not self._password or not self._settings.broker.username:
            return plain
        return f"{plain}-{pbkdf2_hmac('sha256', self._password.encode(), plain.encode(), NAME_ROUNDS)[:16].hex()}"

    def _will(self) -> Will:
        return Will(self._settings.topic("status"), self._offline(), qos=1, retain=True, properties=None)

    def _offline(self) -> bytes:
        return self._encode(StatusMessage(desk=self._settings.desk, online=False))

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _session(self, client: Client) -> NoReturn:
        """Raises MqttError when the connection is lost."""
        listens = self._listens and await self._subscribed(client)
        self._reason = ""
        self._log("mqtt_up", broker=str(self._settings.broker), commands=listens)
        works = (self._publish_all(client), self._beat(client), self._listen(client))
        try:
            await _first_failure(works)
        except asyncio.CancelledError:
            with contextlib.suppress(MqttError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._publish_end(client)
            raise

    async def _publish_end(self, client: Client) -> None:
        """Publish the waiting head of the chain, then the offline status and the final counts.

        Nothing is put any more, so the counts add up.
        """
        self._outbox.give_back(self._hand.values())
        self._hand.clear()
        head = self._outbox.take_newest(CHAIN)
        if head is not None and (payload := self._payload(head)) is not None:
            self._hand[0] = head
            await client.publish(self._settings.topic(CHAIN), payload, qos=1, retain=True, properties=_LASTING)
            self._hand.clear()
            self._outbox.published()
        telemetry = telemetry_of(self._outbox.counts(), self.reconnects, self._settings.desk)
        for topic, payload, qos in (("status", self._offline(), 1), ("telemetry", self._encode(telemetry), 0)):
            await client.publish(self._settings.topic(topic), payload, qos=qos, retain=True, properties=_LASTING)

    async def _subscribed(self, client: Client) -> bool:
        """Subscribe to commands; False where the broker refuses."""
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        codes = await client.subscribe(self._settings.topic("command"), options=options)
        still_wanted()
        return not any(getattr(code, "is_failure", False) for code in codes)

    async def _publish(self, client: Client, topic: str, payload: bytes) -> None:
        retained = topic in _RETAINED
        await client.publish(
            self._settings.topic(topic),
            payload,
            qos=int(topic in CONFIRMED),
            retain=retained,
            properties=_LASTING if retained else _PASSING,
        )
        still_wanted()

    # --- telemetry ----------------------------------------------------------------------------------------------------

    async def _beat(self, client: Client) -> NoReturn:
        """Publish what is retained, at the start and every half minute."""
        for topic, payload in self._kept.items():
            await self._publish(client, topic, payload)
        while True:
            telemetry = telemetry_of(self._outbox.counts(), self.reconnects, self._settings.desk)
            await self._publish(client, "status", self._encode(self._message(Item("status", None, True))))
            await self._publish(client, "telemetry", self._encode(telemetry))
            await asyncio.sleep(HEARTBEAT_S)

    async def _publish_all(self, client: Client) -> NoReturn:
        """Publish what the outbox gives; at most `INFLIGHT_MOST` wait for their confirmation."""
        window = asyncio.Semaphore(INFLIGHT_MOST // 2)  # the other half is for answers and the heartbeat
        async with asyncio.TaskGroup() as confirmations:
            while True:
                item = await self._outbox.get()
                self._taken += 1
                number = self._taken
                self._hand[number] = item
                payload = self._payload(item)
                if payload is None:
                    self._hand.pop(number)
                    self._outbox.refused()
                elif item.topic in CONFIRMED:
                    await window.acquire()
                    confirmations.create_task(self._confirmed(client, item.topic, payload, number, window))
                else:
                    await self._publish(client, item.topic, payload)
                    self._done(number)

    async def _confirmed(
        self, client: Client, topic: str, payload: bytes, number: int, window: asyncio.Semaphore
    ) -> None:
        try:
            await self._publish(client, topic, payload)
            self._done(number)
        finally:
            window.release()

    def _done(self, number: int) -> None:
        del self._hand[number]
        self._outbox.published()

    def _payload(self, item: Item) -> bytes | None:
        """The message as JSON; None for what cannot be one or is too large, which no later attempt would change."""
        try:
            payload = self._encode(self._message(item))
        except Exception:  # a bug costs its message alone
            return None
        if len(payload) > PAYLOAD_MOST:
            return None
        if item.retained and item.topic != "status":
            self._kept[item.topic] = payload
        return payload

    def _message(self, item: Item) -> msgspec.Struct:
        """Return the item as a message; of the status always the newest."""
        thing = self._state() if item.topic == "status" else item.thing
        return message_of(item.topic, thing, self._settings.desk)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def _listen(self, client: Client) -> NoReturn:
        async for message in client.messages:
            self._take(client, message)
        raise MqttError("the broker sends nothing more")

    def _take(self, client: Client, message: Message) -> None:
        """Look at one message on the command topic."""
        if not self._listens:
            return
        payload: Any = message.payload
        if len(self._commands) >= COMMANDS_MOST:
            self._refuse(f"more than {COMMANDS_MOST} commands are under way")
            return
        verdict = self._judge.judge(payload, retained=bool(message.retain))
        if isinstance(verdict, Accepted):
            work = self._carry_out(client, message, verdict)
        else:
            self._refuse(verdict.reason)
            if not verdict.genuine:
                return
            work = self._answer(client, message, ResponseMessage(ok=False, error=verdict.reason))
        task = asyncio.get_running_loop().create_task(work)
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _carry_out(self, client: Client, message: Message, accepted: Accepted) -> None:
        command = accepted.command
        await asyncio.sleep(accepted.wait_ns / SECOND_NS)
        try:
            done = await asyncio.wrap_future(self._submit(accepted.event_at))
        except CommandError as error:
            await self._answer(client, message, ResponseMessage(ok=False, error=str(error)))
            return
        except Exception as error:
            problem = (
                f"no answer from the desk, it may still be carried out ({type(error).__name__}): look at its status"
            )
            await self._answer(client, message, ResponseMessage(ok=False, error=problem))
            return
        self._log(
            "command", command=command.name, channel=CHANNEL, who=command.who, reason=command.reason, seq=done.seq
        )
        status = status_of(done.step.state, self._settings.desk)
        await self._answer(client, message, ResponseMessage(ok=True, seq=done.seq, status=status))

    async def _answer(self, client: Client, message: Message, response: ResponseMessage) -> None:
        """To the topic that was asked for, if it is one for responses of this desk."""
        topic = str(getattr(message.properties, "ResponseTopic", ""))
        correlation = getattr(message.properties, "CorrelationData", None)
        below = self._settings.topic("response/")
        if not topic.startswith(below) or len(topic) > RESPONSE_TOPIC_MOST or not topic[len(below) :].strip("/"):
            return
        if any(sign in topic for sign in "+#\0") or len(correlation or b"") > CORRELATION_MOST:
            return
        with contextlib.suppress(MqttError):  # the command was carried out all the same
            answering = properties(correlation=correlation)
            await client.publish(topic, self._encode(response), qos=1, properties=answering)

    def _refuse(self, reason: str) -> None:
        self._refusals.note(reason)
        due_ns = self._refusals.due_ns()
        if due_ns is not None and self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(due_ns / SECOND_NS + 0.01, self._report_refusals)

    def _report_refusals(self) -> None:
        self._reporting = None
        self._refusals.report_when_due()


async def _first_failure(works: Sequence[Coroutine[Any, Any, NoReturn]]) -> NoReturn:
    """Run them concurrently; raise the first one's error when all have ended.

    Not by a task group: Python 3.11's leaves its task marked as cancelled, which `still_wanted` would believe.
    """
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    first = ended.pop()
    error = None if first.cancelled() else first.exception()
    raise _innermost(error or MqttError("a work ended that never does"))


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


_DRAW = random.SystemRandom()
_RETAINED = frozenset(("status", "equity", "telemetry", CHAIN))
_LASTING: Properties = properties(expiry_s=None)
_PASSING: Properties = properties(expiry_s=EXPIRY_S)
