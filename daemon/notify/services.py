"""The services that messages go to: Apprise's addresses, one a line, which are secrets.

No address is ever printed or logged: a problem names the line, or the kind of service.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon.host.credential import CredentialProblem, credential

CREDENTIAL = "NOTIFY_URLS"
MISSING = "apprise is not installed: pip install 'rltrader[notify]'"
BYTES_MAX = 64 * 1024


class NotifyProblem(Exception):
    """Nothing can be sent. The text names what is wrong and the cure, and no address."""


def addresses(file: Path | None) -> tuple[list[str], str]:
    """Return the addresses of `file`, else those of the credential NOTIFY_URLS, and where they are from.

    Empty lines, and lines that begin with #, are no addresses. Raises NotifyProblem.
    """
    try:
        text, origin = credential(CREDENTIAL) if file is None else (file.read_text(), str(file))
    except (CredentialProblem, OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NotifyProblem(f"{file or CREDENTIAL}: the addresses cannot be read ({why})") from None
    lines = [line.strip() for line in text[:BYTES_MAX].splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise NotifyProblem(
            f"{origin} holds no address: write one of Apprise's a line there, such as tgram://TOKEN/CHAT, or name "
            "another file with --urls"
        )
    return found, origin


class Services:
    """Sends a message to each service. Every service has its own time limits for connecting and reading (4 s each)."""

    def __init__(self, urls: Sequence[str], origin: str) -> None:
        """Raises NotifyProblem for an address that Apprise does not know, or where Apprise is missing."""
        try:
            apprise: Any = importlib.import_module("apprise")
        except ImportError:
            raise NotifyProblem(MISSING) from None
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines may hold parts of an address
        self._services: list[tuple[str, Any]] = []
        for number, url in enumerate(urls, 1):
            kind, made = url.partition(":")[0], apprise.Apprise()
            if not made.add(url):
                raise NotifyProblem(
                    f"{origin}: address {number} is none that Apprise knows: see https://github.com/caronc/apprise/wiki"
                )
            self._services.append((kind if kind.isalnum() else "?", made))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._services)

    def send(self, title: str, body: str) -> list[str]:
        """Send to all services; return the kinds of those that did not take the message."""
        return [kind for kind, service in self._services if not service.notify(title=title, body=body)]
