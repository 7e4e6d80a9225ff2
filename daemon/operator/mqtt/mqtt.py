"""The daemon's connection to its MQTT broker: telemetry out of the outbox, signed commands to the submitter.

It runs on the side thread. A broker that is gone, slow or hostile costs only messages: queues are bounded, and a
connection that does not answer is dropped and retried with back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import cached_property
from hashlib import pbkdf2_hmac
from typing import Any, NoReturn

import msgspec
from aiomqtt import Client, Message, MqttError, Will
from paho.mqtt.subscribeoptions import SubscribeOptions

from daemon.core.state import State
from daemon.host.failures import innermost
from daemon.operator.commands import CommandError, refused_by
from daemon.operator.mqtt.connection import (
    CLOSE_TIMEOUT_S,
    EXPIRY_S,
    INFLIGHT_MOST,
    TAKEN_OVER,
    MqttSettings,
    connect,
    properties,
    reason_code,
    safe_text,
    still_wanted,
)
from daemon.operator.mqtt.messages import ResponseMessage, StatusMessage, message_of, telemetry_of
from daemon.operator.mqtt.outbox import Item, Outbox
from daemon.operator.remote_commands import CHANNEL, Accepted, Judge
from daemon.operator.status import status_of
from daemon.operator.submitter import DurableEvent, EventAt, Refusals
from daemon.pacing import back_off_s
from strategies.kit.quantity import to_json
from strategies.kit.units import SECOND_NS

COMMANDS_MOST = 64  # under way at once
RESPONSE_TOPIC_MOST = 256
CORRELATION_MOST = 256

Submit = Callable[[EventAt], Future[DurableEvent]]
"""`Submitter.submit_from_thread`."""


class CommandTopic:
    """The commands of one desk, over all connections."""

    def __init__(self, settings: MqttSettings, judge: Judge, submit: Submit, log: Callable[..., None]) -> None:
        self._settings, self._judge, self._submit, self._log = settings, judge, submit, log
        self._refusals = Refusals(submit, CHANNEL)
        self._encode = msgspec.json.Encoder(enc_hook=to_json).encode
        self._under_way: set[asyncio.Task[None]] = set()

    async def subscribed(self, client: Client) -> bool:
        """Subscribe to commands; False where the broker refuses."""
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        codes = await client.subscribe(self._settings.topic("command"), options=options)
        still_wanted()
        return not any(getattr(code, "is_failure", False) for code in codes)

    def take(self, client: Client, message: Message) -> None:
        """Handle one message on the command topic."""
        payload: Any = message.payload
        if len(self._under_way) >= COMMANDS_MOST:
            self._refusals.note(f"more than {COMMANDS_MOST} commands are under way")
            return
        verdict = self._judge.judge(payload, retained=bool(message.retain))
        if isinstance(verdict, Accepted):
            work = self._carry_out(client, message, verdict)
        else:
            self._refusals.note(verdict.reason)
            if not verdict.genuine:
                return
            work = self._answer(client, message, ResponseMessage(ok=False, error=verdict.reason))
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _carry_out(self, client: Client, message: Message, accepted_command: Accepted) -> None:
        command = accepted_command.command
        await asyncio.sleep(accepted_command.wait_ns / SECOND_NS)
        try:
            durable_event = await asyncio.wrap_future(self._submit(accepted_command.event_at))
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
            "command",
            command=command.name,
            channel=CHANNEL,
            who=command.who,
            reason=command.reason,
            seq=durable_event.seq,
        )
        status = status_of(durable_event.step.state, self._settings.desk)
        refusal = refused_by(durable_event.step.effects)
        await self._answer(
            client, message, ResponseMessage(ok=True, seq=durable_event.seq, status=status, refused=refusal)
        )

    async def _answer(self, client: Client, message: Message, response: ResponseMessage) -> None:
        """Answer on the requested topic, if it is a response topic of this desk."""
        topic = str(getattr(message.properties, "ResponseTopic", ""))
        correlation = getattr(message.properties, "CorrelationData", None)
        below = self._settings.topic("response/")
        if not topic.startswith(below) or len(topic) > RESPONSE_TOPIC_MOST or not topic[len(below) :].strip("/"):
            return
        if any(sign in topic for sign in "+#\0") or len(correlation or b"") > CORRELATION_MOST:
            return
        with contextlib.suppress(MqttError):  # the command was carried out anyway
            answering = properties(correlation=correlation)
            await client.publish(topic, self._encode(response), qos=1, properties=answering)


CHAIN = "chain"  # the journal's newest head
HEARTBEAT = "heartbeat"  # of a desk with a guard; only the newest counts, and no broker retains it
CONFIRMED = frozenset(("status", "orders", "fills", "alarms", CHAIN))  # sent at QoS 1, until the broker confirms
HEARTBEAT_S = 30.0
STEADY_S = 30.0  # after a connection of this length the next wait is short again
PAYLOAD_MOST = 200_000  # bytes; the broker's own limit is 256 KiB
CUT_OFTEN = 5  # successive short connections without a reason: two clients of one name end each other's
_NAMESAKE = "another desk of this name? Each ends the other's connection: give each its own desk.name"
_ASKED = f": was the broker restarted {CUT_OFTEN} times, or is there {_NAMESAKE}"
NAME_ROUNDS = 200_000  # rounds of PBKDF2: client names in a broker's log must not reveal a weak password


class MqttSide:
    """`run` on the side thread, for as long as the daemon lives.

    `submit` is `Submitter.submit_from_thread`, `state` returns the desk's state; `log` may be called on any thread. The
    judge is None where no key signs commands. `password` is never published or logged.
    """

    def __init__(
        self,
        settings: MqttSettings,
        password: str | None,
        judge: Judge | None,
        outbox: Outbox,
        submit: Submit,
        state: Callable[[], State[Any]],
        log: Callable[..., None],
        hears_guard: Callable[[bytes], None] | None = None,
    ) -> None:
        self._settings, self._password, self._outbox = settings, password, outbox
        self._state, self._log = state, log
        judging = judge if settings.commands else None
        self._commands = CommandTopic(settings, judging, submit, log) if judging is not None else None
        self._hears_guard = hears_guard  # takes each message of the desk's guard
        self._encode = msgspec.json.Encoder(enc_hook=to_json).encode
        self._hand: dict[int, Item] = {}  # taken from the outbox and not confirmed, in their order
        self._taken_count = 0
        self._retained_payloads: dict[str, bytes] = {}  # by topic: a restarted broker has forgotten them
        self._reason = ""  # why the connection was lost, as logged last
        self.reconnects = 0

    async def run(self) -> None:
        """Connect, publish and listen until cancelled."""
        failures = cut = 0
        while True:
            began = time.monotonic()
            up = False
            try:
                async with connect(self._settings.broker, self._password, self.identifier, self._will()) as client:
                    up = True
                    await self._session(client)
            except (MqttError, OSError, ValueError) as error:
                reason, code = safe_text(error, self._password), reason_code(error)
            finally:
                self._outbox.give_back(self._hand.values())
                self._hand.clear()
            self.reconnects += up
            steady = time.monotonic() - began > STEADY_S
            failures = 1 if steady else failures + 1
            cut = cut + 1 if up and not steady and code is None else 0
            hint = f": is there {_NAMESAKE}" if code == TAKEN_OVER else _ASKED * (cut >= CUT_OFTEN)
            await self._wait(f"{reason}{hint}", failures)

    async def _wait(self, reason: str, failures: int) -> None:
        """Back off: the ceiling doubles with each failure, the wait is drawn below it (full jitter, with a floor)."""
        least_s, most_s = self._settings.wait_least_s, self._settings.wait_most_s
        wait_s = max(least_s, back_off_s(failures + 1, least_s, most_s, _DRAW.random(), sure=0.0))
        if reason != self._reason:  # a repeated cause is not logged again
            self._reason = reason
            drop_count = self._outbox.counts().dropped
            self._log(
                "mqtt_lost",
                broker=str(self._settings.broker),
                reason=reason,
                wait_s=round(wait_s, 1),
                dropped=drop_count,
            )
        await asyncio.sleep(wait_s)

    @cached_property
    def identifier(self) -> str:
        """Return the client id, always the same: the next connection ends a dead one and its last will.

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
        """Publish and listen over one connection. Raises MqttError when it is lost."""
        listens = self._commands is not None and await self._commands.subscribed(client)
        if self._hears_guard is not None:
            await client.subscribe(self._settings.topic("guard"))
            still_wanted()
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
        """Publish the waiting head of the chain and the last heartbeat, then the offline status and the final counts.

        No message is added at this point, so the counts add up.
        """
        self._outbox.give_back(self._hand.values())
        self._hand.clear()
        for topic in (CHAIN, HEARTBEAT):
            item = self._outbox.take_newest(topic)
            if item is not None and (payload := self._payload(item)) is not None:
                self._hand[0] = item
                await self._publish(client, topic, payload)
                self._hand.clear()
                self._outbox.published()
        telemetry = telemetry_of(self._outbox.counts(), self.reconnects, self._settings.desk)
        for topic, payload, qos in (("status", self._offline(), 1), ("telemetry", self._encode(telemetry), 0)):
            await client.publish(self._settings.topic(topic), payload, qos=qos, retain=True, properties=_LASTING)

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

    async def _listen(self, client: Client) -> NoReturn:
        guard = self._settings.topic("guard")
        async for message in client.messages:
            if self._hears_guard is not None and str(message.topic) == guard:
                self._hears_guard(bytes(message.payload))
            elif self._commands is not None:
                self._commands.take(client, message)
        raise MqttError("the broker sends nothing more")

    # --- telemetry ----------------------------------------------------------------------------------------------------

    async def _beat(self, client: Client) -> NoReturn:
        """Publish the retained topics, at the start and every half minute."""
        for topic, payload in self._retained_payloads.items():
            await self._publish(client, topic, payload)
        while True:
            telemetry = telemetry_of(self._outbox.counts(), self.reconnects, self._settings.desk)
            await self._publish(client, "status", self._encode(self._message(Item("status", None, True))))
            await self._publish(client, "telemetry", self._encode(telemetry))
            await asyncio.sleep(HEARTBEAT_S)

    async def _publish_all(self, client: Client) -> NoReturn:
        """Publish the outbox's items; at most `INFLIGHT_MOST` wait for their confirmation."""
        window = asyncio.Semaphore(INFLIGHT_MOST // 2)  # the other half is kept for answers and the heartbeat
        async with asyncio.TaskGroup() as confirmations:
            while True:
                item = await self._outbox.get()
                self._taken_count += 1
                number = self._taken_count
                self._hand[number] = item
                payload = self._payload(item)
                if payload is None:
                    self._hand.pop(number)
                    self._outbox.refused()
                elif item.topic in CONFIRMED:
                    await window.acquire()
                    confirmations.create_task(self._await_confirmation(client, item.topic, payload, number, window))
                else:
                    await self._publish(client, item.topic, payload)
                    self._forget_item(number)

    async def _await_confirmation(
        self, client: Client, topic: str, payload: bytes, number: int, window: asyncio.Semaphore
    ) -> None:
        try:
            await self._publish(client, topic, payload)
            self._forget_item(number)
        finally:
            window.release()

    def _forget_item(self, number: int) -> None:
        del self._hand[number]
        self._outbox.published()

    def _payload(self, item: Item) -> bytes | None:
        """Return the message as JSON; None where it cannot be encoded or is too large: a retry would not help."""
        try:
            payload = self._encode(self._message(item))
        except Exception:  # a bug costs only its message
            return None
        if len(payload) > PAYLOAD_MOST:
            return None
        if item.topic in _RETAINED and item.topic != "status":
            self._retained_payloads[item.topic] = payload
        return payload

    def _message(self, item: Item) -> msgspec.Struct:
        """Return the item as a message; for the status topic the newest status."""
        thing = self._state() if item.topic == "status" else item.thing
        return message_of(item.topic, thing, self._settings.desk)


async def _first_failure(works: Sequence[Coroutine[Any, Any, NoReturn]]) -> NoReturn:
    """Run them concurrently; raise the first one's error when all have ended.

    A task group of Python 3.11 would leave its task marked as cancelled, which misleads `still_wanted`.
    """
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        ended_tasks, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    first = ended_tasks.pop()
    error = None if first.cancelled() else first.exception()
    raise innermost(error or MqttError("a work ended that never does"))


_DRAW = random.SystemRandom()
_RETAINED = frozenset(("status", "equity", "telemetry", CHAIN))
_LASTING = properties(expiry_s=None)
_PASSING = properties(expiry_s=EXPIRY_S)
