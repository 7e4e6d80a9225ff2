"""The desks of a `desks.toml`, each on its own account, by the account's number, or its key if readable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from daemon.config.sources import KEYS, ConfigError, refusal
from daemon.config.tables import AlpacaTable, service_address
from daemon.engine.desks_file import (
    DesksFileError,
    NamedDesk,
    desks_at,
    read_desks,
    shared_possessions,
    tables_of,
    text_of,
)


def checked_desks(path: Path) -> tuple[NamedDesk, ...]:
    """Return the desks of the file. Raises ConfigError as `read_desks` does, and for two desks on one account."""
    try:
        desks = read_desks(path)
    except DesksFileError as error:
        raise ConfigError(str(error)) from error
    if problems := [f"{path}: {problem}" for problem in shared_possessions(desks, _account)]:
        raise refusal(problems)
    return desks


def checked_desks_at(place: Path) -> tuple[NamedDesk, ...]:
    """Return the desks of a start file, checked, or those of a folder. Raises ConfigError, StateDirError."""
    return checked_desks(place) if place.is_file() else desks_at(place)


def _account(desk: NamedDesk) -> Iterator[tuple[str, str, str]]:
    config = tables_of(desk.config) if desk.config is not None else {}
    service = service_address(text_of(config, "alpaca.trading_url")) or AlpacaTable().trading_url
    number = text_of(config, "desk.account_number")
    if number:
        yield f"account {number} at {service}", "", "give one of them another desk.account_number, and its keys"
    key = _api_key(desk.credentials)
    if key:
        digest = hashlib.sha256(key.encode()).hexdigest()
        yield f"account (the same {KEYS[0]} at {service})", digest, "give one of them the keys of another account"


def _api_key(folder: Path | None) -> str:
    """Return the key id in a folder of credentials, "" if there is none or this user may not read it."""
    try:
        return (folder / KEYS[0]).read_text(encoding="ascii").strip() if folder is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""
