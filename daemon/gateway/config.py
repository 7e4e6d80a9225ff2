"""gateway.toml: the account, its limits, and the sub-accounts; tables shared with a desk's config.toml mean the same.

Every problem is a `ConfigError` that names key, value, expectation and cure. A sub-account's key and secret are in
files of their own (0600), and never in an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.config.checks import of_any_key
from daemon.config.load import KEYS, NO_STRATEGY, ConfigError, defaults, load
from daemon.config.sources import error_parts, refusal, value_text, variable
from daemon.config.tables import DeskSettings, SymbolText, like
from daemon.gateway.events import MAIN
from daemon.host.whole_files import read_problem, toml_problem, write_whole

KIND = Literal["shares", "options"]
SHARED_TABLES = ("alpaca", "clock", "feed", "log", "alarms", "metrics")
"""Tables of a desk's config.toml that a gateway's file may have."""
_KEY_TEXT = re.compile(r"[!-~]{16,}")
CREDENTIAL = "sub"
"""The name under which the unit loads the keys' folder: systemd replaces each `/` below it by `_`."""
_Usd = Annotated[Decimal, Ge(0)]
NAMED: Final = "1 to 30 small letters, digits, '_' and '-', with a letter or a digit first"
_Name = Annotated[str, like(r"[a-z0-9][a-z0-9_-]{0,29}", NAMED)]
LAST_START = "last_start.toml"
"""Name in the state directory of a copy of the last start's file without a mistake."""
_OF_THE_FILE = tuple(f"{variable(table)}__" for table in ("gateway", "account", "sub_account"))
"""Prefixes of environment variables that would look like limits; the gateway does not read them, as a desk would."""
_STATE_DIR = re.compile(r"""^\s*state_dir\s*=\s*["']([^"'\n]+)["']""", re.MULTILINE)


class GatewayTable(BaseModel):
    """Where the gateway listens and keeps its journal, and whose account it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    account: Literal["paper", "live"] = "paper"
    account_number: Annotated[str, like(r"[A-Za-z0-9]{0,40}", "the account's number, such as PA3ABCDEFGHI")] = ""
    port: Annotated[int, Ge(0), Field(le=65535)] = 8433
    state_dir: Annotated[str, Field(min_length=1)] = "gateway"
    keys_dir: Annotated[str, Field(min_length=1)] = (
        "gateway/keys"  # <sub-account>/APCA_API_KEY_ID and APCA_API_SECRET_KEY
    )
    ballast_mib: Annotated[int, Ge(0), Field(le=4096)] = 16
    rotate_mib: Annotated[int, Ge(0)] = 1024  # growth of the journal after which a start begins a new file; 0: never
    stream_symbols_max: Annotated[int, Ge(1)] = 30  # shares' symbols over all clients: 30 on the free plan
    requests_a_minute: Annotated[int, Ge(1)] = 400  # a client's to trading; its reads make no call to the broker
    data_requests_a_minute: Annotated[int, Ge(1)] = 400  # a client's to market data
    answer_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    cancel_s: Annotated[float, Field(gt=0, le=60)] = 5.0


class AccountLimits(BaseModel):
    """Limits over all sub-accounts but `main`; 0: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    gross_exposure_max: _Usd = Decimal(0)
    symbol_exposure_max: _Usd = Decimal(0)
    day_loss_max: _Usd = Decimal(0)
    orders_a_minute: Annotated[int, Ge(0)] = 0


class SubAccountTable(BaseModel):
    """One sub-account: its capital in USD, what it may trade, and its limits; 0: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: _Name
    capital: _Usd = Decimal(0)
    kinds: tuple[KIND, ...] = ("shares",)
    symbols: tuple[SymbolText, ...] = ()
    order_max: _Usd = Decimal(0)
    exposure_max: _Usd = Decimal(0)
    guard_prefix: Annotated[str, like(r"[A-Za-z0-9._-]{0,40}", "at most 40 letters, digits, '.', '_' and '-'")] = ""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """All of gateway.toml. `upstream` has the tables shared with a desk's file, for the connection to the broker.

    `text` is the file's content; `mistake` is set where these are the last start's settings, and says why.
    """

    gateway: GatewayTable
    account: AccountLimits
    sub_accounts: Mapping[str, SubAccountTable]
    upstream: DeskSettings
    text: str = ""
    mistake: str = ""

    @property
    def guards(self) -> tuple[tuple[str, str], ...]:
        """The prefixes of guards' orders, each with its sub-account."""
        return tuple((f"{t.guard_prefix}-", name) for name, t in self.sub_accounts.items() if t.guard_prefix)


def limits_in_cents(settings: GatewaySettings) -> list[str]:
    """Return, in words, limits below one USD: 0.02 is probably meant as 2 %, and allows two cents."""
    tables = {"account": settings.account, **{f"sub_account.{n}": t for n, t in settings.sub_accounts.items()}}
    return [
        f"{title}.{key} is {value}: these are USD, no part of the account: write the amount, or 0 for none"
        for title, table in tables.items()
        for key, value in table
        if isinstance(value, Decimal) and key.endswith("_max") and 0 < value < 1
    ]


def in_cents(usd: Decimal) -> bool:
    """Return whether an amount of USD has no parts of a cent."""
    return int(usd.normalize().as_tuple().exponent) >= -2


def load_gateway(path: Path, environment: Mapping[str, str] | None = None) -> GatewaySettings:
    """Read the file; `environment` replaces the process's. Raises ConfigError."""
    environment = os.environ if environment is None else environment
    try:
        text = path.read_text(encoding="utf-8")
        tables: dict[str, Any] = tomllib.loads(text, parse_float=Decimal)
    except (OSError, UnicodeDecodeError) as error:
        missing = not path.exists()
        cure = "name it with --config; rltrader-gateway init writes one" if missing else "mend it, or name another"
        raise ConfigError(f"{path}: {read_problem(error)}: {cure}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {toml_problem(error)}") from error
    table_names = ("gateway", "account", "sub_account", *SHARED_TABLES)
    strange = sorted(tables.keys() - set(table_names))
    if strange:
        raise ConfigError(f"{path}: [{strange[0]}] is no table of a gateway: expected one of {', '.join(table_names)}")
    for name in sorted(environment):
        if name.startswith(_OF_THE_FILE):
            raise ConfigError(f"{name} (from the environment) counts for nothing: write it into {path} and unset it")
    gateway = _table(path, "gateway", GatewayTable, tables.get("gateway", {}))
    account = _table(path, "account", AccountLimits, tables.get("account", {}))
    sub_tables = tables.get("sub_account", {})
    if not isinstance(sub_tables, dict):
        raise ConfigError(f"{path}: sub_account is no table of tables: expected [sub_account.NAME], once for each")
    subs = {
        name: _table(path, f"sub_account.{name}", SubAccountTable, table, name=name)
        for name, table in sub_tables.items()
    }
    problems = list(_file_mistakes(gateway, subs))
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return GatewaySettings(gateway, account, subs, _upstream(path, gateway, environment), text)


def load_or_last(path: Path) -> GatewaySettings:
    """Read the file; on a mistake return the last start's settings. Raises ConfigError, the mistake, without one."""
    try:
        return load_gateway(path)
    except ConfigError as error:
        return last_start(path, error)


def last_start(path: Path, error: ConfigError) -> GatewaySettings:
    """Return the last start's settings: desks that hold something need a gateway. Raises `error` without one.

    Only known environment variables count.
    """
    folder = state_dir_of(path)
    variables = {variable(f"{table}.{key}") for table, keys in defaults().items() for key in keys}
    try:
        last = load_gateway(folder / LAST_START, {name: os.environ[name] for name in variables & os.environ.keys()})
    except ConfigError:
        raise error from None
    where = last.gateway.model_copy(update={"state_dir": str(folder)})  # the folder may have been moved since
    return replace(last, gateway=where, mistake=str(error))


def state_dir_of(path: Path) -> Path:
    """Return the state directory named in a file, even in one that is otherwise wrong."""
    try:
        match = _STATE_DIR.search(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        match = None
    return Path(match[1] if match else GatewayTable().state_dir)


def keep_start(folder: Path, settings: GatewaySettings) -> None:
    """Keep a copy of a file without a mistake for later starts; if it cannot be written, the former copy stays."""
    if settings.text and not settings.mistake:
        with contextlib.suppress(OSError):
            write_whole(folder / LAST_START, settings.text.encode(), 0o600)


def _table(path: Path, title: str, kind: type[Any], values: object, **more: object) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {title} is {value_text(values)}: expected a table: write [{title}]")
    problems = list(_value_mistakes(kind.model_fields, values))
    if not problems:
        try:
            return kind(**{**more, **values})
        except ValidationError as error:
            problems = [
                f"{key} is {value_text(value)}: expected {expected}: correct it"
                for key, value, expected in error_parts(error)
            ]
    raise refusal(f"{path}: {title}.{problem}" for problem in problems)


def _value_mistakes(keys: Collection[str], values: Mapping[str, object]) -> Iterator[str]:
    """Yield the mistakes that pydantic accepts: unknown keys, and values that it would convert."""
    for key, value in values.items():
        if key not in keys:
            nearest = get_close_matches(key, keys, n=1, cutoff=0.0)[0]
            yield f"{key} is unknown: did you mean {nearest}? Correct or remove it"
        elif isinstance(value, bool):
            yield f"{key} is {str(value).lower()}: expected a value of its own, not true or false: correct it"
        elif expected := of_any_key(value):
            yield f"{key} is {value_text(value)}: expected {expected}: correct it"


def _file_mistakes(gateway: GatewayTable, subs: Mapping[str, SubAccountTable]) -> Iterator[str]:
    if gateway.account == "live" and not gateway.account_number:
        yield "gateway.account_number is \"\": expected the live account's number: it is checked against the broker's"
    if not subs:
        yield "there is no [sub_account.NAME]: expected one for each strategy; `rltrader-gateway init` writes them"
    prefixes: dict[str, str] = {}
    for name, table in subs.items():
        if name in (MAIN, "account"):
            yield f"sub_account.{name} is what the gateway itself calls so: give it another name"
        if not table.kinds:
            yield f'sub_account.{name}.kinds is empty: expected ["shares"], ["options"] or both'
        if table.guard_prefix and (other := prefixes.setdefault(table.guard_prefix, name)) != name:
            yield f"sub_account.{name}.guard_prefix is {table.guard_prefix!r}, which {other} has: give each its own"
    for one, owner in prefixes.items():
        for longer, name in prefixes.items():
            if longer.startswith(f"{one}-"):
                words = f"begins as {owner}'s {one!r} does, which would take its orders: give it another one"
                yield f"sub_account.{name}.guard_prefix is {longer!r}: {words}"


def _upstream(path: Path, gateway: GatewayTable, environment: Mapping[str, str]) -> DeskSettings:
    """Return a desk's settings for the shared tables: from the file, then the environment, as a desk reads them."""
    desk = {"name": "gateway", "account": gateway.account, "account_number": gateway.account_number}
    overrides = {f"desk.{key}": value for key, value in desk.items()}
    return load(path, {**overrides, **NO_STRATEGY}, environment, only=(*SHARED_TABLES, "desk"))


# --- keys of the sub-accounts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class ClientKeys:
    """Key and secret of one sub-account. Its repr shows neither."""

    key: str
    secret: str


def key_files(settings: GatewaySettings, name: str) -> tuple[Path, Path]:
    """Return the files with key and secret of a sub-account, as the unit `rltraderd@NAME` loads them."""
    folder = Path(settings.gateway.keys_dir) / name
    return folder / KEYS[0], folder / KEYS[1]


def client_keys(settings: GatewaySettings) -> dict[str, ClientKeys]:
    """Read the keys of all sub-accounts, from systemd's credentials or `gateway.keys_dir`.

    Raises ConfigError for a missing file, one that others may read, and for one key twice.
    """
    keys, problems = usable_keys(settings)
    if problems:
        raise problems[0]
    return keys


def usable_keys(settings: GatewaySettings) -> tuple[dict[str, ClientKeys], list[ConfigError]]:
    """Return the usable keys, and the problems of the others: one bad file excludes no other desk."""
    keys: dict[str, ClientKeys] = {}
    owners: dict[str, list[str]] = {}
    problems = []
    for name in settings.sub_accounts:
        try:
            key, secret = (_secret(name, path) for path in key_files(settings, name))
        except ConfigError as error:
            problems.append(error)
        else:
            keys[name] = ClientKeys(key, secret)
            owners.setdefault(key, []).append(name)
    for names in (names for names in owners.values() if len(names) > 1):
        words = f"two sub-accounts have one key, {' and '.join(names)}: make one of them anew"
        problems.append(ConfigError(f"{settings.gateway.keys_dir}: {words}"))
        keys = {name: pair for name, pair in keys.items() if name not in names}
    return keys, problems


def _secret(name: str, path: Path) -> str:
    """Return the text of one file; systemd's copy of the folder goes first."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    copy = Path(folder) / f"{CREDENTIAL}_{name}_{path.name}"
    if folder and copy.exists():
        path = copy
    try:
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no ASCII text"
        cure = f"`rltrader-gateway keys {name}` makes them"
        if not isinstance(error, FileNotFoundError):
            cure = f"let the gateway's user read it, or remove it and its fellow: {cure} anew"
        raise ConfigError(f"{path}: a key of sub-account {name} cannot be read ({problem}): {cure}") from None
    if path is not copy and mode & 0o077:
        raise ConfigError(f"{path}: has mode {mode:04o}, so others may read it: chmod 600 {path}")
    if _KEY_TEXT.fullmatch(text) is None:
        raise ConfigError(f"{path}: this is no key: expected 16 letters and digits or more, and nothing else")
    return text


def make_keys(settings: GatewaySettings, name: str) -> Path:
    """Write a fresh key and secret into files that only their owner can read; return their folder.

    Raises ConfigError where one exists: a new key would stand beside an old secret.
    """
    if there := [path.name for path in key_files(settings, name) if path.exists()]:
        folder, words = key_files(settings, name)[0].parent, " and ".join(there)
        cure = f"remove it first, then `rltrader-gateway keys {name}`; its desk needs the new ones"
        raise ConfigError(f"{folder}: has keys already: {words}: {cure}")
    texts = (f"GW{secrets.token_hex(9).upper()}", secrets.token_urlsafe(30))
    for path, text in zip(key_files(settings, name), texts, strict=True):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.write(f"{text}\n")
    return key_files(settings, name)[0].parent
