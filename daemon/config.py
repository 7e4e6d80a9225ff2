"""The settings: config.toml, then RLTRADER_SECTION__KEY from the environment, then the command line; later ones win.

Every problem is a `ConfigError` that names key, value, source, expectation and cure; nothing unknown is ignored.
Secrets come from the environment or systemd's credentials alone and are never shown, not even in an error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from daemon.core.limits import Broker, Contracts, Execution, Paper, Risk, Sizing, Trading
from strategies.registry import STRATEGIES

ENVIRONMENT_PREFIX = "RLTRADER_"
OTHER_VARIABLES = ("RLTRADER_DATA",)  # not settings: where the tests find recorded data
EXIT_CODE = 2
DEFAULT_CONFIG = Path("config.toml")

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
_Positive = Annotated[int, Ge(1)]
_Seconds = Annotated[float, Gt(0), Le(3600)]
_SECRET = re.compile(r"apca|secret|password|token|api_?key", re.IGNORECASE)


class ConfigError(Exception):
    """The operator erred: the daemon refuses to start, with exit code `EXIT_CODE`. One line for each problem."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Who trades what, where."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: _Name = "paper-1"
    strategy: str = "option_scalper"
    account: Literal["paper", "live"] = "paper"
    account_number: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{0,40}$")] = ""


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders; relative ones count from the working directory."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    state_dir: Path = Path("state")
    models_dir: Path = Path("onnx_models")


@dataclass(frozen=True, slots=True)
class Policy:
    """Which model runs, and on what."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    version: _Name = "current"
    provider: Literal["auto", "cuda", "cpu"] = "auto"
    threads: _Positive = 1


@dataclass(frozen=True, slots=True)
class Journal:
    """How often the journal snapshots, how much it commits at once, and what it keeps for a full disk."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    snapshot_events: _Positive = 5000
    group_events: _Positive = 2048
    ballast_mib: _Positive = 8


@dataclass(frozen=True, slots=True)
class Feed:
    """Where live bars come from."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: Literal["sip", "iex"] = "sip"
    options: Literal["opra", "indicative"] = "opra"
    warm_up_min: _Positive = 30
    silence_s: _Positive = 120
    repair_s: _Positive = 20


@dataclass(frozen=True, slots=True)
class Alpaca:
    """Where Alpaca's services are, and how long their answers may take."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    trading_url: str = "https://paper-api.alpaca.markets"
    data_url: str = "https://data.alpaca.markets"
    stream_url: str = "wss://stream.data.alpaca.markets/v2/{feed}"
    trade_stream_url: str = "wss://paper-api.alpaca.markets/stream"
    option_stream_url: str = "wss://stream.data.alpaca.markets/v1beta1/{options}"
    order_timeout_s: _Seconds = 5.0
    read_timeout_s: _Seconds = 10.0
    handshake_timeout_s: _Seconds = 10.0
    ping_s: _Seconds = 10.0
    backoff_max_s: _Seconds = 30.0
    report_every_s: _Positive = 60
    clock_skew_max_s: _Seconds = 2.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Simulated time, against a server on this machine alone. `rate` 0 is the real clock."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    anchor_unix_s: Annotated[float, Ge(0)] = 0.0
    sim_start: str = ""
    rate: Annotated[float, Ge(0), Le(100_000)] = 0.0


@dataclass(frozen=True, slots=True)
class Service:
    """How the daemon lives as a service."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    stop_deadline_s: _Seconds = 30.0
    end_of_day_min: _Positive = 15
    archives: Annotated[int, Ge(0)] = 10


@dataclass(frozen=True, slots=True)
class Log:
    """What is logged, and how it looks."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"


class Settings(BaseModel):
    """All settings of one desk, checked. Made by `load`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    desk: Desk = Field(default_factory=Desk)
    paths: Paths = Field(default_factory=Paths)
    policy: Policy = Field(default_factory=Policy)
    journal: Journal = Field(default_factory=Journal)
    feed: Feed = Field(default_factory=Feed)
    alpaca: Alpaca = Field(default_factory=Alpaca)
    clock: Clock = Field(default_factory=Clock)
    service: Service = Field(default_factory=Service)
    log: Log = Field(default_factory=Log)
    sizing: Sizing = Field(default_factory=Sizing)
    contracts: Contracts = Field(default_factory=Contracts)
    execution: Execution = Field(default_factory=Execution)
    risk: Risk = Field(default_factory=Risk)
    broker: Broker = Field(default_factory=Broker)
    paper: Paper = Field(default_factory=Paper)

    def trading(self) -> Trading:
        """The tables that the step decides by, as the journal records them."""
        return Trading(
            sizing=self.sizing,
            contracts=self.contracts,
            execution=self.execution,
            risk=self.risk,
            broker=self.broker,
            paper=self.paper,
        )

    def address(self, name: str) -> str:
        """An address of `[alpaca]` by its key, the feed's name filled in."""
        text: str = getattr(self.alpaca, name)
        return text.replace("{feed}", self.feed.name).replace("{options}", self.feed.options).rstrip("/")


class Credentials(BaseSettings):
    """Alpaca's keys, from APCA_API_KEY_ID and APCA_API_SECRET_KEY; None where unset or empty. Never printed."""

    model_config = SettingsConfigDict(env_prefix="APCA_", frozen=True, hide_input_in_errors=True)

    api_key_id: SecretStr | None = None
    api_secret_key: SecretStr | None = None

    @property
    def complete(self) -> bool:
        """Both keys are there."""
        return bool(self.key and self.secret)

    @property
    def key(self) -> str:
        """The key id in clear, "" where unset."""
        return self.api_key_id.get_secret_value() if self.api_key_id is not None else ""

    @property
    def secret(self) -> str:
        """The secret key in clear, "" where unset."""
        return self.api_secret_key.get_secret_value() if self.api_secret_key is not None else ""


def credentials() -> Credentials:
    """The keys from systemd's credentials (files in $CREDENTIALS_DIRECTORY), else from the environment.

    Raises ConfigError for a credential file that cannot be read, without its content.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    found: dict[str, SecretStr] = {}
    for field, name in (("api_key_id", "APCA_API_KEY_ID"), ("api_secret_key", "APCA_API_SECRET_KEY")):
        path = Path(folder) / name
        if not folder or not path.exists():
            continue
        try:
            found[field] = SecretStr(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "it is no ASCII text"
            raise ConfigError(
                f"{path}: the credential cannot be read ({problem}): write the key alone, as text"
            ) from None
    return Credentials(**found)


def defaults() -> dict[str, dict[str, object]]:
    """Every key with its default, by section: what config.toml must show."""
    settings = Settings()
    return {section: _values(getattr(settings, section)) for section in Settings.model_fields}


def load(config_file: Path | None, overrides: Mapping[str, object]) -> Settings:
    """The settings from `config_file` (None: defaults), the environment and `overrides`, in rising precedence.

    `overrides` maps dotted keys (`paths.state_dir`) to what the command line gave; None means not given.
    Raises ConfigError with one line for each problem found.
    """
    merged = _Merged(defaults())
    if config_file is not None:
        merged.add_file(config_file)
    merged.add_environment(os.environ)
    for key, value in overrides.items():
        if value is not None:
            merged.put(key, value, "the command line")
    if merged.problems:
        raise ConfigError("\n".join(merged.problems))
    try:
        settings = Settings.model_validate(merged.tables)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        raise ConfigError("\n".join(merged.problem(*_explained(detail)) for detail in details)) from None
    problems = [merged.problem(key, value, expected) for key, value, expected in _contradictions(settings)]
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


class _Merged:
    """The three sources laid over one another: the values, where each came from, and what is wrong already."""

    def __init__(self, known: Mapping[str, Mapping[str, object]]) -> None:
        self.tables: dict[str, dict[str, object]] = {}
        self.problems: list[str] = []
        self._defaults = {f"{section}.{key}": value for section, keys in known.items() for key, value in keys.items()}
        self._sections = tuple(known)
        self._origins: dict[str, str] = {}

    def add_file(self, path: Path) -> None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}): check the path given with --config") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: is not valid TOML: {error}: correct that line") from error
        for section, keys in tables.items():
            if isinstance(keys, dict) and section in self._sections:
                for key, value in keys.items():
                    self.put(f"{section}.{key}", value, str(path))
            elif section in self._sections:
                self.problems.append(f"{section} is {keys!r} (from {path}): expected a table: write [{section}]")
            else:
                secrets = [key for key in keys if _SECRET.search(key)] if isinstance(keys, dict) else []
                for key in secrets or [""]:
                    self._refuse(f"{section}.{key}" if key else section, str(path), self._sections)

    def add_environment(self, variables: Mapping[str, str]) -> None:
        known = {_variable(key): key for key in self._defaults}
        for name, text in sorted(variables.items()):
            if not name.startswith(ENVIRONMENT_PREFIX) or name in OTHER_VARIABLES:
                continue
            if name in known:
                key = known[name]
                self.put(key, _listed(text) if isinstance(self._defaults[key], tuple) else text, f"environment {name}")
            else:
                self._refuse(name, "the environment", (*known, *OTHER_VARIABLES))

    def put(self, key: str, value: object, origin: str) -> None:
        """One value; refused here when the key is unknown or the kind is one that pydantic would bend into shape."""
        if key not in self._defaults:
            self._refuse(key, origin, self._defaults)
            return
        self._origins[key] = origin
        if isinstance(value, bool) and not isinstance(self._defaults[key], bool):
            self.problems.append(self.problem(key, value, f"a value like {_shown(self._defaults[key])}"))
        section, _, name = key.partition(".")
        self.tables.setdefault(section, {})[name] = value

    def problem(self, key: str, value: object, expected: str) -> str:
        origin = self._origins.get(key, "default")
        default = _shown(self._defaults[key]) if key in self._defaults else "none"
        return f"{key} is {_shown(value)} (from {origin}): expected {expected}: change it there (default: {default})"

    def _refuse(self, key: str, origin: str, known: Iterable[str]) -> None:
        if _SECRET.search(key):
            self.problems.append(
                f"{key} (from {origin}) is a secret: expected only in the environment variables APCA_API_KEY_ID and "
                f"APCA_API_SECRET_KEY: remove it there, and replace the key if others could read it"
            )
            return
        nearest = get_close_matches(key, list(known), n=1, cutoff=0.0)[0]
        self.problems.append(f"{key} (from {origin}) is unknown: did you mean {nearest}? Correct or remove it")


def _contradictions(settings: Settings) -> Iterator[tuple[str, object, str]]:
    """Keys that cannot stand beside one another, or whose text means nothing: (key, value, what is expected)."""
    for section in Settings.model_fields:
        for key, value in _values(getattr(settings, section)).items():
            if isinstance(value, float) and not math.isfinite(value):
                yield f"{section}.{key}", value, "a finite number"
    if settings.desk.strategy not in STRATEGIES:
        nearest = get_close_matches(settings.desk.strategy, STRATEGIES, n=1, cutoff=0.0)[0]
        yield "desk.strategy", settings.desk.strategy, f"one of {', '.join(STRATEGIES)} (nearest: {nearest})"
    days, sizing, execution = settings.contracts, settings.sizing, settings.execution
    if days.min_days > days.max_days:
        yield "contracts.min_days", days.min_days, f"at most contracts.max_days ({days.max_days})"
    if sizing.min_contracts > sizing.max_contracts:
        yield "sizing.min_contracts", sizing.min_contracts, f"at most sizing.max_contracts ({sizing.max_contracts})"
    if execution.entry_reprice_s > execution.entry_deadline_s:
        yield (
            "execution.entry_reprice_s",
            execution.entry_reprice_s,
            f"at most execution.entry_deadline_s ({execution.entry_deadline_s})",
        )
    last_entry, leaving = settings.risk.no_entry_before_close_min, execution.flat_before_close_min
    leaving += execution.flatten_lead_min
    if last_entry <= leaving:
        expected = (
            f"more than execution.flat_before_close_min + flatten_lead_min ({leaving}), or an entry leaves at once"
        )
        yield "risk.no_entry_before_close_min", last_entry, expected
    yield from _wrong_addresses(settings)
    for window in settings.risk.no_trade_windows:
        if not _is_window(window):
            expected = 'each as "HH:MM-HH:MM", New York time, the start before the end, such as "09:30-09:45"'
            yield "risk.no_trade_windows", window, expected


ADDRESSES = {
    "trading_url": ("https", "http"),
    "data_url": ("https", "http"),
    "stream_url": ("wss", "ws"),
    "trade_stream_url": ("wss", "ws"),
    "option_stream_url": ("wss", "ws"),
}
LIVE_HOST = "api.alpaca.markets"


def _wrong_addresses(settings: Settings) -> Iterator[tuple[str, object, str]]:
    """Addresses that are none, go over the network in the clear, or belong to another account; a clock not allowed."""
    loopback = True
    for name, (secure, plain) in ADDRESSES.items():
        key, text = f"alpaca.{name}", settings.address(name)
        parts = urlsplit(text)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        loopback &= local
        if parts.scheme not in (secure, plain) or not parts.hostname or parts.username or parts.password:
            yield key, text, f"an address such as {getattr(Alpaca(), name)}, without a user or password in it"
        elif parts.scheme == plain and not local:
            yield key, text, f"{secure}:// (keys never travel in the clear, except to this machine)"
        elif name in ("trading_url", "trade_stream_url") and not local:
            live = parts.hostname == LIVE_HOST
            if live != (settings.desk.account == "live"):
                host = LIVE_HOST if settings.desk.account == "live" else f"paper-{LIVE_HOST}"
                yield key, text, f'{host}, because desk.account is "{settings.desk.account}"'
    if settings.desk.account == "live" and not settings.desk.account_number:
        yield "desk.account_number", "", "the number of the live account: it is checked against what the broker says"
    clock = settings.clock
    if clock.rate and not loopback:
        yield "clock.rate", clock.rate, "0 (the real clock): simulated time is for a server on this machine alone"
    elif clock.rate and sim_start_ns(clock) is None:
        yield "clock.sim_start", clock.sim_start, "ISO 8601 with a zone, such as 2024-07-01T09:00:00-04:00"
    elif not clock.rate and (clock.sim_start or clock.anchor_unix_s):
        yield "clock.rate", clock.rate, "above 0, because clock.sim_start or clock.anchor_unix_s is set"


def sim_start_ns(clock: Clock) -> int | None:
    """`sim_start` as nanoseconds UTC; None for what is no time with a zone."""
    try:
        moment = datetime.fromisoformat(clock.sim_start)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return round(moment.timestamp() * 1_000_000) * 1000


def _is_window(text: str) -> bool:
    match = re.fullmatch(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)", text, re.ASCII)
    return match is not None and match[1] < match[2]


def _explained(detail: Mapping[str, Any]) -> tuple[str, object, str]:
    """What pydantic says of one value as (dotted key, value, what is expected)."""
    key = ".".join(str(part) for part in detail["loc"][:2])
    expected = re.sub(r"^(Input|Value|String) should ", "a value that should ", detail["msg"])
    expected = expected.removeprefix("a value that should be ").replace("a value that should ", "text that should ")
    return key, detail["input"], expected


def _values(section: Any) -> dict[str, object]:
    return {item.name: getattr(section, item.name) for item in dataclasses.fields(section)}


def _variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__")


def _listed(text: str) -> object:
    """A list from the environment: JSON (`["09:30-09:45"]`) or words with commas between them."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return [word.strip() for word in text.split(",") if word.strip()]


def _shown(value: object) -> str:
    return str(value) if not isinstance(value, str | tuple | list) else json.dumps(value, ensure_ascii=False)
