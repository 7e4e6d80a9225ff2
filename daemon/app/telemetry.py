"""Telemetry over MQTT for one desk: its secrets, and the client that publishes and receives commands.

The libraries are imported only where MQTT is enabled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from daemon.config.load import ConfigError, Settings, operator_secrets
from daemon.operator.gateway import Gateway
from daemon.operator.log import Log

if TYPE_CHECKING:
    from daemon.operator.mqtt.signing import Key


class BrokerKeys(NamedTuple):
    """The MQTT password, and the keys that verify commands. Never printed."""

    password: str | None
    commands: Mapping[str, Key]

    def __repr__(self) -> str:
        return "BrokerKeys([hidden])"


def broker_keys(settings: Settings) -> BrokerKeys:
    """Return the secrets that the settings need. Raises ConfigError for a missing or unusable one."""
    if not settings.mqtt.enabled:
        return BrokerKeys(None, {})
    from daemon.operator.mqtt.signing import KeyRefused, parse_keys

    secrets = operator_secrets()
    password, text = secrets.mqtt_password, secrets.mqtt_command_keys
    if settings.mqtt.username and password is None:
        raise ConfigError(
            f"mqtt.username is {settings.mqtt.username!r} and there is no password: expected the credential or "
            f"environment variable MQTT_PASSWORD"
        )
    try:
        keys = parse_keys(text.get_secret_value()) if text is not None and settings.mqtt.commands else {}
    except KeyRefused as error:
        raise ConfigError(f"MQTT_COMMAND_KEYS: {error}") from None
    if settings.mqtt.commands and not keys:
        raise ConfigError(
            "mqtt.commands is true and there is no key that signs them: expected the credential or environment "
            "variable MQTT_COMMAND_KEYS with name:hex in it (docs/TELEMETRY.md)"
        )
    return BrokerKeys(password.get_secret_value() if password is not None else None, keys)


class Telemetry:
    """The MQTT client of one desk, called `name` in topics, and its outbox."""

    def __init__(
        self, settings: Settings, name: str, keys: BrokerKeys, gateway: Gateway, log: Log, host_ns: Callable[[], int]
    ) -> None:
        from daemon.operator.announce import Announcer
        from daemon.operator.mqtt.connection import Broker, MqttSettings
        from daemon.operator.mqtt.mqtt import MqttSide
        from daemon.operator.mqtt.outbox import Outbox

        table = settings.mqtt
        broker = Broker(table.host, table.port, table.tls, table.ca_file, table.username, table.keepalive_s)
        self.outbox = Outbox(table.queue)
        client = MqttSide(
            MqttSettings(broker, name, table.prefix, table.commands),
            keys.password,
            keys.commands,
            self.outbox,
            gateway.submit_from_thread,
            lambda: gateway.state,
            log,
            host_ns,
        )
        self.run = client.run
        self.observers = (("telemetry", Announcer(self.outbox).observe), ("remote commands", client.observe))

    def publish_head(self, row: int, head: str) -> None:
        """Publish the chain's head. On the trading loop's thread."""
        from daemon.operator.mqtt.messages import ChainHead

        self.outbox.put_retained("chain", ChainHead(row, head))
