"""The tables of config.toml as types: every key with its default and its bounds, checked by pydantic.

Checks across keys are in `checks`, the sources of values in `load`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, LiteralString, Self, cast

from annotated_types import Ge, Gt, Le, Lt
from msgspec import UNSET
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr
from pydantic_core import PydanticCustomError

from daemon.core.limits import (
    AUTO,
    Basket,
    Broker,
    Contracts,
    Execution,
    Exploration,
    Paper,
    Protection,
    Risk,
    Served,
    Sizing,
    Trading,
)
from daemon.core.strategy_rules import protection
from daemon.host.state_place import STATE_DIR

SYMBOLS_MAX = 500


def like(pattern: str, words: LiteralString) -> AfterValidator:
    """Refuse a text that does not match, by words that say what does."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("text", words)
        return text

    return AfterValidator(check)


_NAME = r"[a-z0-9][a-z0-9._-]{0,39}"
_NAMED: Final = "1 to 40 small letters, digits, '.', '_' and '-', with a letter or a digit first"
_Name = Annotated[str, like(_NAME, _NAMED)]
SYMBOL = r"[A-Z][A-Z0-9]{0,9}(\.[A-Z0-9]{1,4})?"
SymbolText = Annotated[str, like(SYMBOL, "a symbol in capital letters, such as SPY or BRK.B")]
_Positive = Annotated[int, Ge(1)]
_Moment = Annotated[str, BeforeValidator(lambda raw: str(raw) if isinstance(raw, datetime | int | float) else raw)]
_Seconds = Annotated[float, Gt(0), Le(3600)]


def _folder(raw: object) -> object:
    """Refuse what names no folder: `Path` would take an empty text for the working directory."""
    if not isinstance(raw, str | Path) or raw == "":
        raise PydanticCustomError("folder", "the path of a folder")
    return raw


_Folder = Annotated[Path, BeforeValidator(_folder)]


@dataclass(frozen=True, slots=True)
class DeskTable:
    """Account, strategy and mode of the desk."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: _Name = "paper-1"
    strategy: str = "option_scalper"
    symbols: Annotated[tuple[SymbolText, ...], Field(max_length=SYMBOLS_MAX)] = ()
    model_config: str = ""
    parameters: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    broker: _Name = "alpaca"
    account: Literal["paper", "live"] = "paper"
    account_number: Annotated[str, like(r"[A-Za-z0-9_-]{0,80}", "the account's number, such as PA3ABCDEFGHI")] = ""


@dataclass(frozen=True, slots=True)
class PathsTable:
    """Folders and files; relative ones count from the working directory."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    state_dir: _Folder = STATE_DIR
    models_dir: _Folder = Path("onnx_models")
    calibration: str = ""


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """Which model runs, and on which device."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    version: _Name = "current"
    wait_for_first: bool = False
    poll_s: Annotated[int, Ge(0)] = 30
    public_key: Annotated[
        str,
        like(
            r"([A-Za-z0-9+/]{43}=(,[A-Za-z0-9+/]{43}=)*)?",
            "public keys as `rltraderctl models keygen` prints them, with commas between",
        ),
    ] = ""
    shadow: Annotated[str, like(f"({_NAME})?", _NAMED)] = ""
    provider: Literal["auto", "cuda", "cpu"] = "auto"
    threads: Annotated[int, Ge(1), Le(256)] = 1
    hang_s: Annotated[int, Ge(1), Le(45)] = 20
    answers: Literal["local", "served"] = "local"
    served_deadline_ms: Annotated[int, Ge(10), Le(10_000)] = 500
    redis: str = ""
    redis_user: str = "rltraderd"
    redis_ca_file: str = ""


@dataclass(frozen=True, slots=True)
class JournalTable:
    """Snapshots, group size of commits, reserve for a full disk, and rotation of the journal."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    snapshot_events: _Positive = 2000
    group_events: _Positive = 2048
    ballast_mib: Annotated[int, Ge(1), Le(1_048_576)] = 8
    rotate_mib: Annotated[int, Ge(0)] = 1024


StockFeed = Literal["auto", "sip", "iex"]
OptionFeed = Literal["auto", "opra", "indicative"]
STOCK_FEEDS, OPTION_FEEDS = ("sip", "iex"), ("opra", "indicative")
"""The feeds by subscription first, then the free ones."""


@dataclass(frozen=True, slots=True)
class FeedTable:
    """Source of live bars. `auto`: what the account's data plan allows (`daemon.app.live.feed_choice`)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: StockFeed = "auto"
    options: OptionFeed = "auto"
    warm_up_min: _Positive = 30
    silence_s: _Positive = 120
    repair_s: _Positive = 20


@dataclass(frozen=True, slots=True)
class RecordTable:
    """Which option quotes a running desk records (`daemon.brokers.alpaca.market.recorder`)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    enabled: bool = False
    strikes: Annotated[int, Ge(1), Le(100)] = 10
    expiries: Annotated[int, Ge(1), Le(20)] = 3
    symbols_max: Annotated[int, Ge(50), Le(1000)] = 200
    free_mib: Annotated[int, Ge(64)] = 1024


def service_address(text: str) -> str:
    """Return the address of a service as it is used: Alpaca's own pages show it with the version, which is added."""
    return re.sub(r"/v2/?$", "", text)


_Service = Annotated[str, AfterValidator(service_address)]


@dataclass(frozen=True, slots=True)
class AlpacaTable:
    """Addresses and timeouts of Alpaca's services."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    trading_url: _Service = "https://paper-api.alpaca.markets"
    data_url: _Service = "https://data.alpaca.markets"
    stream_url: str = "wss://stream.data.alpaca.markets/v2/{feed}"
    trade_stream_url: str = "wss://paper-api.alpaca.markets/stream"
    option_stream_url: str = "wss://stream.data.alpaca.markets/v1beta1/{options}"
    order_timeout_s: _Seconds = 5.0
    read_timeout_s: _Seconds = 10.0
    handshake_timeout_s: _Seconds = 10.0
    ping_s: _Seconds = 10.0
    backoff_max_s: _Seconds = 30.0
    report_every_s: _Positive = 60
    activity_stream: bool = False
    clock_skew_max_s: _Seconds = 2.0


@dataclass(frozen=True, slots=True)
class ClockTable:
    """Simulated time, against a server on this machine only. Without `sim_start` and `socket` it is the real clock."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    anchor_unix_s: Annotated[float, Ge(0)] = 0.0
    sim_start: _Moment = ""
    rate: Annotated[float, Gt(0), Le(100_000)] = 1.0
    socket: str = ""


@dataclass(frozen=True, slots=True)
class ServiceTable:
    """Behaviour as a systemd service."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    stop_deadline_s: _Seconds = 30.0
    end_of_day_min: _Positive = 15
    archives: Annotated[int, Ge(0)] = 10


@dataclass(frozen=True, slots=True)
class ControlTable:
    """The local command sockets in the state directory."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    enabled: bool = True
    signed: bool = False


@dataclass(frozen=True, slots=True)
class MqttTable:
    """Telemetry to, and signed commands from, an MQTT 5 broker."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    enabled: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, Ge(1), Le(65535)] = 8883
    tls: bool = True
    ca_file: str = ""
    username: Annotated[
        str, like(r"[!-~]{0,100}", "at most 100 letters, digits and signs of ASCII, without a space")
    ] = ""
    prefix: Annotated[
        str,
        like(
            r"[A-Za-z0-9_-]{1,40}(/[A-Za-z0-9_-]{1,40}){0,4}",
            "1 to 5 words with '/' between them, each of 1 to 40 letters, digits, '_' and '-'",
        ),
    ] = "rltrader"
    queue: _Positive = 10_000
    keepalive_s: Annotated[int, Ge(5), Le(600)] = 30
    commands: bool = False


@dataclass(frozen=True, slots=True)
class GuardTable:
    """The guard on another host: how it and the desk hear each other, and what it may do."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    prefix: Annotated[
        str, like(r"([a-z][a-z0-9]{0,19})?", "1 to 20 small letters and digits, a letter first; empty: no guard")
    ] = ""
    drop_dir: str = ""
    beat_s: Annotated[int, Ge(1), Le(60)] = 10
    silence_s: Annotated[int, Ge(3), Le(3600)] = 60
    alarm_s: Annotated[int, Ge(3), Le(3600)] = 45
    act: Literal["alarm", "protect", "close"] = "alarm"
    act_s: Annotated[int, Ge(10), Le(86_400)] = 300
    look_s: Annotated[int, Ge(5), Le(600)] = 30
    fence: bool = True


@dataclass(frozen=True, slots=True)
class MetricsTable:
    """Prometheus metrics on this machine's loopback address."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    enabled: bool = False
    port: Annotated[int, Ge(1), Le(65535)] = 9464


@dataclass(frozen=True, slots=True)
class AlarmsTable:
    """Command to run for each alarm, and its rate limit."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    command: tuple[str, ...] = ()
    per_minute: Annotated[int, Ge(1), Le(600)] = 6
    timeout_s: _Seconds = 10.0
    wal_mib: Annotated[int, Ge(65)] = 256  # the log is cut back to 64


@dataclass(frozen=True, slots=True)
class DriftTable:
    """Limits on the drift of live features and actions from training."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    every_min: Annotated[int, Ge(0)] = 60
    window: _Positive = 2000
    least: _Positive = 500
    feature_psi_max: Annotated[float, Gt(0)] = 0.25
    action_psi_max: Annotated[float, Gt(0)] = 0.25
    pause: bool = False
    claim_broken: Literal["no_new_risk", "former_version", "alarm"] = "no_new_risk"


@dataclass(frozen=True, slots=True)
class LadderTable:
    """How a new version with a card earns its place."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    promotion: Literal["shadow", "automatic"] = "shadow"
    replay_sessions: Annotated[int, Ge(0), Le(250)] = 10
    replay_behind_max: Annotated[float, Ge(0), Le(1)] = 0.0
    shadow_sessions: _Positive = 5
    canary_sessions: _Positive = 5
    estimator: Literal["wis", "dr", "fqe"] = "dr"
    lead_min: float = 0.0
    overlap_min: Annotated[float, Ge(0), Le(1)] = 0.8
    effective_min: Annotated[float, Ge(0)] = 300.0
    card_sessions_min: _Positive = 8
    shadow_failures_max: Annotated[float, Ge(0), Le(1)] = 0.01
    shadow_behind_max: Annotated[float, Ge(0), Le(1)] = 0.0
    drawdown_max: Annotated[float, Gt(0), Le(1)] = 0.05
    false_alarm: Annotated[float, Gt(0), Lt(1)] = 0.01


@dataclass(frozen=True, slots=True)
class LogTable:
    """What is logged, and in which format."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"


class DeskSettings(BaseModel):
    """All settings of one desk, checked. Made by `load`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    desk: DeskTable = Field(default_factory=DeskTable)
    paths: PathsTable = Field(default_factory=PathsTable)
    policy: PolicyTable = Field(default_factory=PolicyTable)
    journal: JournalTable = Field(default_factory=JournalTable)
    feed: FeedTable = Field(default_factory=FeedTable)
    record: RecordTable = Field(default_factory=RecordTable)
    alpaca: AlpacaTable = Field(default_factory=AlpacaTable)
    clock: ClockTable = Field(default_factory=ClockTable)
    service: ServiceTable = Field(default_factory=ServiceTable)
    log: LogTable = Field(default_factory=LogTable)
    control: ControlTable = Field(default_factory=ControlTable)
    mqtt: MqttTable = Field(default_factory=MqttTable)
    guard: GuardTable = Field(default_factory=GuardTable)
    metrics: MetricsTable = Field(default_factory=MetricsTable)
    alarms: AlarmsTable = Field(default_factory=AlarmsTable)
    drift: DriftTable = Field(default_factory=DriftTable)
    ladder: LadderTable = Field(default_factory=LadderTable)
    sizing: Sizing = Field(default_factory=Sizing)
    contracts: Contracts = Field(default_factory=Contracts)
    execution: Execution = Field(default_factory=Execution)
    risk: Risk = Field(default_factory=Risk)
    broker: Broker = Field(default_factory=Broker)
    protection: Protection = Field(default_factory=Protection)
    basket: Basket = Field(default_factory=Basket)
    paper: Paper = Field(default_factory=Paper)
    exploration: Exploration = Field(default_factory=Exploration)
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _hidden: dict[str, str] = PrivateAttr(default_factory=dict)
    _mistakes: str = PrivateAttr(default="")

    def __eq__(self, other: object) -> bool:
        """Compare values, whatever their sources."""
        return isinstance(other, DeskSettings) and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(tuple(dict(self).values()))

    def came_from(self, origins: Mapping[str, str], hidden: Mapping[str, str] | None = None) -> Self:
        """Return these settings with the source of each dotted key that is no common default.

        `hidden` has the file of each value that the environment hides; None: as before.
        """
        self._origins = dict(origins)
        self._hidden = self._hidden if hidden is None else dict(hidden)
        return self

    @property
    def hidden_address(self) -> str:
        """Say that the environment hides the file's address of the broker, and the cure; "" where it does not."""
        file = self._hidden.get("alpaca.trading_url", "")
        variables = [self.origin(key).split()[-1] for key in self._hidden if key.startswith("alpaca.")]
        return f"{variables[-1]} hides the address in {file}: unset {' '.join(variables)}" if file else ""

    @property
    def right_keys(self) -> str:
        """The cure where the broker refuses the keys."""
        return self.hidden_address or "use the keys made for this environment"

    def origins(self) -> dict[str, str]:
        """Return the sources of all dotted keys that are no common default."""
        return dict(self._origins)

    @property
    def mistakes(self) -> str:
        """Why the configuration was refused, and what takes its place meanwhile; "" where it was not."""
        return self._mistakes

    def in_place_of(self, mistakes: str) -> Self:
        """Return these settings as what takes the place of a configuration with mistakes."""
        self._mistakes = mistakes
        return self

    def origin(self, key: str) -> str:
        """Return the source of a dotted key's value: file, variable, command line, or a default."""
        return self._origins.get(key, "default")

    def trading(self) -> Trading:
        """Return the tables that the step decides by, as the journal records them."""
        return Trading(
            sizing=self.sizing,
            contracts=self.contracts,
            execution=self.execution,
            risk=self.risk,
            broker=self.broker,
            basket=self.basket,
            paper=self.paper,
            exploration=self.exploration if self.exploration != Exploration() else UNSET,
            served=self._served_settings() if self.policy.answers == "served" else UNSET,
            protection=protection(self.desk.strategy, self.protection),
            guard_prefix=self.guard.prefix or UNSET,
        )

    def _served_settings(self) -> Served:
        """Return the wait in the desk's time: who answers takes real milliseconds, however fast the clock runs."""
        return Served(round(self.policy.served_deadline_ms * max(self.clock.rate, 1.0)))

    def with_feed(self, name: str, options: str) -> Self:
        """Return the same settings where each feed that is `auto` has its name."""
        feed = self.feed
        stocks = cast("StockFeed", name) if feed.name == AUTO else feed.name
        option_feed = cast("OptionFeed", options) if feed.options == AUTO else feed.options
        return self.model_copy(update={"feed": replace(feed, name=stocks, options=option_feed)})

    def address(self, name: str) -> str:
        """Return an address of `[alpaca]` by its key, with the feed's name filled in."""
        text: str = getattr(self.alpaca, name)
        return text.replace("{feed}", self.feed.name).replace("{options}", self.feed.options).rstrip("/")
