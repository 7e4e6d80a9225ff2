"""The data feed of a live desk whose configuration says `auto`: the best one that the account's plan allows.

It is read once for a desk, at its first start, and kept in its folder. So a desk never changes to a lesser feed by
itself, neither while it runs nor at a later start.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from daemon.brokers.api import BrokerError, BrokerRefused, alone
from daemon.brokers.registry import broker_of
from daemon.config.kept_feed import kept_feed, write_feed
from daemon.config.load import ConfigError, Credentials, DeskSettings
from daemon.config.strategy import strategy_of
from daemon.config.tables import OPTION_FEEDS, STOCK_FEEDS
from daemon.core.limits import AUTO
from daemon.engine.state_dir import peek
from daemon.host.passing import MayPass
from daemon.host.time.clock import Clock
from daemon.journal.rows import JournalError

CURE = 'set feed.name ("sip" or "iex") and feed.options ("opra" or "indicative")'


class FeedUnknown(MayPass):
    """The broker cannot be asked now for the account's data plan."""


@dataclass(frozen=True, slots=True)
class FeedChoice:
    """Settings with a named feed, and its source; `how` is "" where the configuration names it."""

    settings: DeskSettings
    how: str = ""
    asked: bool = True  # false: the broker could not be asked, so the next start tries again


async def choose_feed(settings: DeskSettings, keys: Credentials, clock: Clock) -> FeedChoice:
    """Return the settings with the feed to use. Asks the broker only at a desk's first start; writes nothing.

    Raises:
        FeedUnknown: the broker cannot be asked, and this desk has no journal that names its feed.
        ConfigError: the broker refuses the keys for every feed.
    """
    if AUTO not in (settings.feed.name, settings.feed.options):
        return FeedChoice(settings)
    if (former_feed := kept_feed(settings.paths.state_dir)) is not None:
        return FeedChoice(settings.with_feed(*former_feed), "as at this desk's first start")
    journal_feed = _journal_feed(settings.paths.state_dir)
    try:
        name, options = await _allowed_feeds(settings, keys, clock)
    except BrokerError as error:
        if journal_feed:
            how = f"as this desk's journal has it; the account's data plan cannot be asked ({error})"
            return FeedChoice(settings.with_feed(journal_feed, OPTION_FEEDS[0]), how, asked=False)
        if isinstance(error, BrokerRefused) and error.of_keys:
            raise ConfigError(
                f"feed is {AUTO!r} and the broker refuses the keys for every feed ({error}): "
                f"{settings.right_keys}, or {CURE}"
            ) from error
        raise FeedUnknown(
            f"feed is {AUTO!r} and the account's data plan cannot be asked ({error}): it is tried again, or {CURE}"
        ) from error
    return FeedChoice(settings.with_feed(journal_feed or name, options), "by the account's data plan")


def keep_feed(state_dir: Path, choice: FeedChoice) -> None:
    """Keep a choice for later starts of this desk; if the folder cannot be written, the next one asks again."""
    if choice.how and choice.asked and kept_feed(state_dir) is None:
        write_feed(state_dir, choice.settings.feed.name, choice.settings.feed.options)


async def _allowed_feeds(settings: DeskSettings, keys: Credentials, clock: Clock) -> tuple[str, str]:
    """Ask the broker for the feeds of shares and of options. Raises BrokerError."""
    spec = strategy_of(settings).spec
    connection = alone(broker_of(settings), settings, keys, clock)
    try:
        return await connection.admin.feeds(spec.symbols[0], options=spec.chained)
    finally:
        await connection.close()


def _journal_feed(state_dir: Path) -> str:
    """Return the feed to which this folder's journal is bound, "" without one."""
    with contextlib.suppress(JournalError, OSError):  # its fault is reported where it is opened
        name = (peek(state_dir) or {}).get("feed", "")
        return name if name in STOCK_FEEDS else ""
    return ""
