"""The topic of signed commands: each is checked, passed to the submitter, and answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
from aiomqtt import Client, Message, MqttError
from paho.mqtt.subscribeoptions import SubscribeOptions

from daemon.operator.commands import CommandError, refused_by
from daemon.operator.mqtt.connection import MqttSettings, properties, still_wanted
from daemon.operator.mqtt.messages import ResponseMessage
from daemon.operator.remote_commands import CHANNEL, Accepted, Judge
from daemon.operator.status import status_of
from daemon.operator.submitter import DurableEvent, EventAt, Refusals
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
