"""The broker's account in `rltrader init`: find the keys and query the account.

Keys are held in memory and go only to the broker; no text here holds one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, DecimalException
from getpass import getpass
from pathlib import Path

from pydantic import SecretStr

from daemon.brokers.api import AccountSummary, BrokerError, BrokerRefused, alone
from daemon.brokers.registry import broker_of
from daemon.config.clock import clock_of
from daemon.config.load import KEYS, ConfigError, Credentials, DeskSettings, credentials
from daemon.config.tables import OPTION_FEEDS, STOCK_FEEDS

PAPER, LIVE, NONE = "paper", "live", "none"
FOLDER = "keys"
"""Folder of a desk's own keys, in the form of systemd's credentials: one file per variable."""
LIVE_SIGN, PAPER_SIGN = "AK", "PK"  # prefixes of Alpaca's key ids in the two environments


class NoAccount(Exception):
    """The account cannot be used. The text gives reason and cure; `of_keys`: other keys may help."""

    def __init__(self, text: str, *, of_keys: bool = False) -> None:
        super().__init__(text)
        self.of_keys = of_keys


@dataclass(frozen=True, slots=True)
class Account:
    """The broker's answers to these keys. `others`: the account's orders and positions, a line each. Never printed."""

    keys: Credentials = field(repr=False)
    summary: AccountSummary
    others: tuple[str, ...]
    bids: Mapping[str, float]  # USD by symbol, as far as the broker reports them

    @property
    def equity(self) -> float:
        """Equity in USD; 0 if the broker's text is no number."""
        try:
            return float(Decimal(self.summary.equity))
        except DecimalException:
            return 0.0


def keys_around(folder: Path) -> tuple[Credentials | None, str]:
    """Return existing keys or None, and their origin: this process's environment, else the folder.

    Raises NoAccount for a credential that is unreadable or no key.
    """
    try:
        keys = credentials()
        if keys.complete:
            return keys, "environment"
        if os.environ.get("CREDENTIALS_DIRECTORY") or not all((folder / FOLDER / name).is_file() for name in KEYS):
            return None, ""
        return _as_keys([(folder / FOLDER / name).read_text() for name in KEYS]), FOLDER
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise NoAccount(str(error)) from None


def typed_keys() -> Credentials:
    """Ask for both keys at the terminal, without echo. Raises NoAccount if one is empty, EOFError."""
    return checked_keys([getpass("  key ID (it is not shown): "), getpass("  secret key (it is not shown): ")])


def piped_keys() -> Credentials:
    """Read both keys from standard input, a line each. Raises NoAccount."""
    lines = [sys.stdin.readline(), sys.stdin.readline()]
    count = sum(bool(line.strip()) for line in lines)
    if count < len(lines):
        missing = "the second is missing" if lines[0].strip() else "the first is empty" if count else "both are missing"
        raise NoAccount(f"standard input has {count} of two lines, {missing}: give the key's ID, then the secret key")
    return checked_keys(lines)


def checked_keys(lines: Sequence[str]) -> Credentials:
    """Return two texts as keys. Raises NoAccount, which does not quote them, if they cannot be keys."""
    keys = _as_keys(lines)
    texts = (keys.key, keys.secret)
    if not all(text.isascii() and text.isprintable() and text and " " not in text for text in texts):
        raise NoAccount(
            "these are no keys: expected letters and digits alone, the ID first: copy them again", of_keys=True
        )
    return keys


def _as_keys(lines: Sequence[str]) -> Credentials:
    key, secret = (SecretStr(line.strip()) for line in lines)
    return Credentials(api_key_id=key, api_secret_key=secret)


def try_keys(settings: DeskSettings, keys: Credentials, symbols: Sequence[str]) -> Account:
    """Query the account, and bids of these symbols. Raises NoAccount with a clear reason."""
    try:
        return asyncio.run(_try(settings, keys, symbols))
    except BrokerRefused as refusal:
        kind = settings.desk.account
        where = broker_of(settings).service(settings).split("/")[2]
        raise NoAccount(f"{where} refuses these keys ({refusal}): {_other(kind, keys)}", of_keys=True) from None
    except BrokerError as error:
        raise NoAccount(f"the broker cannot be asked ({error}): check the network, and try again") from None


def _other(kind: str, keys: Credentials) -> str:
    """Return a likely reason for refused keys, by the environment that their ID shows."""
    if kind == PAPER and keys.key.startswith(LIVE_SIGN):
        return "they look like keys of a live account, and paper was chosen: make keys on the paper account's page"
    if kind == LIVE and keys.key.startswith(PAPER_SIGN):
        return "they look like keys of a paper account, and live was chosen: choose paper, or use the live keys"
    return f"copy both again from the page of the {kind} account; new keys make the former ones worthless"


async def _try(settings: DeskSettings, keys: Credentials, symbols: Sequence[str]) -> Account:
    settings = settings.with_feed(STOCK_FEEDS[1], OPTION_FEEDS[1])  # the free feeds, which every account may read
    connection = alone(broker_of(settings), settings, keys, clock_of(settings))
    try:
        summary = await connection.admin.account()
        leftovers = await connection.admin.left()
        try:
            bids = {symbol: float(bid) for symbol, bid in (await connection.admin.quotes(symbols)).items()}
        except BrokerError:  # the strategy's needs are then shown without prices
            bids = {}
        return Account(keys, summary, leftovers, bids)
    finally:
        await connection.close()
