"""`rltraderctl remote`: sign a command, send it over MQTT, and print the desk's answer.

Opens no journal and no socket of the daemon. Key and password come from a file or the environment, and are never
printed.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiomqtt import Client, MqttError
from rich.console import Console

from daemon.cli.arguments import lead_on
from daemon.config.load import DEFAULT_CONFIG, EXIT_CODE, ConfigError, load, operator_secrets
from daemon.host.printable import printable, result_of
from daemon.host.safe_decode import Unreadable, decode_with_type
from daemon.operator.commands import NAMES, REASON_MOST, RESET_LIMITS, Command, CommandError, event_of
from daemon.operator.mqtt.connection import ANSWER_BYTES, MqttBroker, connect, properties, safe_text
from daemon.operator.mqtt.messages import ResponseMessage
from daemon.operator.signing import Key, KeyRefused, SignedCommand, parse_keys, sign_command
from daemon.operator.status import holdings_in_words, trading_in_words
from strategies.kit.quantity import from_json
from strategies.kit.units import SECOND_NS

ANSWER_S = 10.0
LIFETIME_NS = 30_000_000_000
REFUSED = 1
_decode = msgspec.json.Decoder(ResponseMessage, dec_hook=from_json).decode
_WORD = re.compile(r"[^\x00-\x20\x7f/+#]{1,100}")


class Route(NamedTuple):
    """The route of a command: the broker, the desk, and the prefix of its topics."""

    broker: MqttBroker
    password: str | None
    prefix: str
    desk: str


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `remote`."""
    command.set_defaults(run=run)
    command.add_argument("name", choices=NAMES, metavar="COMMAND", help=f"one of {', '.join(NAMES)}")
    more = "of close: its symbol, and maybe a quantity; of resume: maybe the NS of --seen"
    command.add_argument("arguments", nargs="*", metavar="…", help=more)
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="its [mqtt] names the broker (default ./config.toml)"
    )
    command.add_argument("--reason", required=True, help="why; it is journaled")
    command.add_argument(
        "--key-file", type=Path, metavar="FILE", help="name:hex, one a line (default: the variable MQTT_COMMAND_KEYS)"
    )
    command.add_argument("--key", metavar="NAME", help="which key signs; not needed where there is one")
    command.add_argument("--desk", metavar="NAME", help="desk.name of the desk (default: that of the configuration)")
    command.add_argument("--username", metavar="NAME", help="at the broker (default: mqtt.username)")


def run(options: argparse.Namespace, console: Console) -> int:
    """Send and wait for the answer; returns 0, or 1 if the desk refused or did not answer. Raises ConfigError."""
    if not options.reason.strip() or len(options.reason) > REASON_MOST:
        raise ConfigError(f"--reason has {len(options.reason)} letters: expected 1 to {REASON_MOST}: shorten it")
    for option, text in (("--desk", options.desk), ("--username", options.username)):
        if text and _WORD.fullmatch(text) is None:  # it becomes one level of a topic
            raise ConfigError(f"{option} is {text[:60]!r}: expected a word without /, + and #: correct it")
    try:
        event_of(Command(" ".join((options.name, *options.arguments)), options.reason, "remote"))
    except CommandError as error:
        raise ConfigError(str(error)) from None
    settings = load(options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None), {})
    secret_settings = operator_secrets()
    text = secret_settings.mqtt_command_keys.get_secret_value() if secret_settings.mqtt_command_keys is not None else ""
    name, key = _key(options, text)
    table = settings.mqtt
    broker = MqttBroker.of(table, options.username)
    password = secret_settings.mqtt_password.get_secret_value() if secret_settings.mqtt_password is not None else None
    route = Route(broker, password, table.prefix, options.desk or settings.desk.name)
    command = sign_command(
        key,
        name,
        route.desk,
        " ".join((options.name, *options.arguments)),
        options.reason,
        time.time_ns(),
        LIFETIME_NS,
        secrets.token_bytes(16),
    )
    try:
        answer = asyncio.run(send(route, command, ANSWER_S))
    except TimeoutError as error:
        why = safe_text(error, password) if str(error) else f"within {ANSWER_S:g} s"
        console.print(
            f"no answer from desk {route.desk}: {why}; the command may have been carried out all the "
            f"same. Is the daemon running with mqtt.commands, does it know key {name}, may this user read its "
            f"responses? What it refused without an answer stands in its alarms"
        )
        return REFUSED
    except (MqttError, OSError) as error:
        cure = "check host, port, tls, ca_file and username of [mqtt], and MQTT_PASSWORD"
        console.print(printable(f"{broker}: {safe_text(error, password)}: {cure}"))
        return EXIT_CODE
    if answer.status is not None and (answer.status.halt or answer.status.pause):
        about = ("config", "desk", "key", "username")
        resume = RESET_LIMITS if answer.status.loss_to_reset else "resume"
        lead_on(options, "remote", resume, "--reason", "TEXT", about=about)
    with result_of(f"rltraderctl: {options.name}" if answer.ok else f"rltraderctl: a refusal of {options.name}"):
        _show(answer, route, options.name, console)
    return REFUSED if answer.refused or not answer.ok else 0


async def send(route: Route, command: SignedCommand, wait_s: float) -> ResponseMessage:
    """Publish the command and return the answer.

    Raises MqttError or OSError if the broker is unreachable, TimeoutError if no answer came.
    """
    below = f"{route.prefix}/{route.desk}"
    token = secrets.token_hex(8)
    response = f"{below}/response/{route.broker.username or 'anyone'}/{token}"
    headers = properties(expiry_s=LIFETIME_NS // SECOND_NS, response_topic=response, correlation=token.encode())
    link = connect(route.broker, route.password, incoming_bytes=ANSWER_BYTES)
    async with link as client, asyncio.timeout(wait_s):
        await client.subscribe(response, qos=1)
        try:
            await client.publish(f"{below}/command", msgspec.json.encode(command), qos=1, properties=headers)
            return await _answer(client, token.encode())
        except (MqttError, Unreadable) as error:  # the desk may have received it
            raise TimeoutError(str(error)) from None


async def _answer(client: Client, correlation: bytes) -> ResponseMessage:
    async for message in client.messages:
        if getattr(message.properties, "CorrelationData", None) == correlation:
            payload: Any = message.payload
            return decode_with_type(_decode, payload)
    raise MqttError("the broker sends nothing more")


def _key(options: argparse.Namespace, from_environment: str) -> tuple[str, Key]:
    """Return the name and the key that sign. Raises ConfigError."""
    origin, text = "MQTT_COMMAND_KEYS", from_environment
    if options.key_file is not None:
        origin = str(options.key_file)
        try:
            text = options.key_file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "it is no ASCII text"
            raise ConfigError(f"{origin}: the keys cannot be read ({problem}): expected name:hex, one a line") from None
        if options.key_file.stat().st_mode & 0o077:
            raise ConfigError(f"{origin}: others may read the keys: expected mode 600: chmod 600 {origin}, or new keys")
    try:
        keys = parse_keys(text)
    except KeyRefused as error:
        raise ConfigError(f"{origin}: {error}") from None
    if not keys:
        raise ConfigError(
            f"{origin} holds no key to sign with: expected a line name:hex that the desk has too: give --key-file, "
            f"or set MQTT_COMMAND_KEYS"
        )
    if options.key is None and len(keys) > 1:
        raise ConfigError(f"{origin} has {len(keys)} keys: expected --key with one of {', '.join(keys)}")
    name = options.key if options.key is not None else next(iter(keys))
    if name not in keys:
        raise ConfigError(f"--key is {name!r}: expected one of {', '.join(keys)} (from {origin}): correct it")
    return name, keys[name]


def _show(answer: ResponseMessage, route: Route, name: str, console: Console) -> None:
    """Print the desk's answer in two lines."""
    if not answer.ok:
        console.print(printable(f"{route.desk} refused {name}: {answer.error}"))
        return
    console.print(f"{route.desk}: {name} journaled as event {answer.seq:,}")
    status = answer.status
    if status is not None:
        trading, _ = trading_in_words(status)
        holdings, orders = holdings_in_words(status) or "nothing", f"{status.orders} orders at work"
        console.print(printable(f"{trading}; holds {holdings}; {orders}; equity {status.equity_usd} USD"))
    if answer.refused:
        console.print(printable(f"this does nothing: {answer.refused}"))
