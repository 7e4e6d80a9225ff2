"""Suggested next commands, ready to be typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from daemon.host.version import in_this_shell

REPLAYED = {  # after a replay
    "how it did": "rltraderctl report --range ALL",
    "its trades": "rltraderctl trades",
    "why it decided so": "rltraderctl decisions",
    "proof of the run": "rltraderctl verify",
    "its page": "rltrader-dashboard",
}
TRADED = {  # after the stop of a desk at a broker
    "what it holds": "rltraderctl status",
    "its trades": "rltraderctl trades",
    "the day": "rltraderctl report",
    "its page": "rltrader-dashboard",
}


def what_next(commands: Mapping[str, str], state_dir: Path) -> str:
    """Return one line per command for this state directory, each with its line break."""
    wide = max(map(len, commands)) + 1
    where = shlex.quote(str(state_dir))
    return "".join(
        f"{label + ':':{wide}}  {in_this_shell(command)} --state-dir {where}\n" for label, command in commands.items()
    )
