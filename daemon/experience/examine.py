"""Check Redis as one of our processes sees it: address, user, password, permissions and persistence.

Nothing is written: permissions are tried on a stream that does not exist. No text holds the password.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from redis import exceptions

from daemon.experience.link import CREDENTIAL, ImpossibleAnswer, Link, RedisError

RELEASE_LEAST = 7  # the shipped files need its users and commands
POLICY = "noeviction"
USERS_FILE = "systemd/redis/users.acl"
CHECKED = "redis"  # subject of the line on whether a process can work at all

Tried = Callable[[Any, str], object]
DAEMON: Mapping[str, Tried] = {
    "XADD": lambda client, key: client.xadd(key, {"check": "1"}, nomkstream=True, maxlen=1),
    "XREAD": lambda client, key: client.xread({key: "0-0"}, count=1),
}
PUBLISHER: Mapping[str, Tried] = {
    "XADD": DAEMON["XADD"],
    "XTRIM": lambda client, key: client.xtrim(key, minid="0-1", approximate=False),
    "XLEN": lambda client, key: client.xlen(key),
}
"""Each process's requests to Redis, by command; on a stream that does not exist they change nothing."""


@dataclass(frozen=True, slots=True)
class RedisCheck:
    """One line of a check: unless `good`, `text` has the value and the cure. Subject `CHECKED`: it cannot work."""

    subject: str
    good: bool
    text: str


def examine(link: Link, secret: str, origin: str, desk: str, commands: Mapping[str, Tried]) -> list[RedisCheck]:
    """Connect, try these commands, and query the server's persistence; takes a few seconds at most.

    Args:
        secret: the password, and `origin` its source.
        desk: name of the streams' desk.
        commands: `DAEMON` or `PUBLISHER`.
    """
    user = link.user or "default"
    with closing(link.client(secret)) as client:
        try:
            client.ping()
            refusals = [text for name in commands if (text := _refusal(client, name, commands[name], user, desk))]
        except RedisError as error:
            return [RedisCheck(CHECKED, False, f"{link}: {_unreachable(error, user, origin, bool(secret))}")]
        if refusals:
            return [RedisCheck(CHECKED, False, f"{link}: {'; '.join(refusals)}")]
        return [
            RedisCheck(CHECKED, True, f"{link}: user {user} may {', '.join(commands)}"),
            *_check_persistence(client, user),
        ]


def _unreachable(error: RedisError, user: str, origin: str, has_secret: bool) -> str:
    if isinstance(error, exceptions.AuthenticationError):
        problem = "is refused with the password" if has_secret else f"needs a password, and {CREDENTIAL} is empty"
        return f"user {user} {problem} (from {origin}): put the user's own there, whose digest the file of users has"
    if isinstance(error, exceptions.BusyLoadingError):
        return "it still reads its log: wait, and check again"
    if isinstance(error, exceptions.TimeoutError):
        return "no answer: it is frozen or overloaded: look at its log, or restart it"
    if isinstance(error, ImpossibleAnswer):
        return str(error)
    cure = "start it, correct the address, or let this process connect (group rltrader-redis)"
    return f"{type(error).__name__}: {error}: {cure}"


def _refusal(client: Any, name: str, command: Tried, user: str, desk: str) -> str:
    """Return why this command does not work, "" if it does. Raises RedisError without a server."""
    key = f"rltrader:{desk}:check"
    try:
        command(client, key)
    except exceptions.NoPermissionError:
        return f"user {user} may not {name} on {key}: give it its line of {USERS_FILE}"
    except exceptions.OutOfMemoryError:
        return f"it is full and refuses {name}: start the trainer, or raise maxmemory"
    except exceptions.ResponseError as error:
        return f"{name}: {error}: look at its log"
    return ""


def _check_persistence(client: Any, user: str) -> list[RedisCheck]:
    """Check that the server keeps its data: eviction policy, release and append-only file."""
    try:
        info = client.info()
    except exceptions.NoPermissionError:
        cure = f"give it its line of {USERS_FILE}"
        return [RedisCheck("redis keeps", False, f"not checked, user {user} may not INFO: {cure}")]
    except RedisError as error:
        return [RedisCheck("redis keeps", False, f"not checked: {type(error).__name__}: {error}")]
    policy, release = str(info.get("maxmemory_policy", "")), str(info.get("redis_version", "0"))
    appends, problems = bool(info.get("aof_enabled")), []
    if policy != POLICY:
        problems.append(f'maxmemory-policy is "{policy}", so a full server forgets experience: set "{POLICY}"')
    if not appends:
        problems.append('appendonly is "no", so a restart forgets experience: set "yes"')
    if int(release.partition(".")[0]) < RELEASE_LEAST:
        problems.append(f"its release is {release}: {RELEASE_LEAST} or newer is expected")
    good = f"Redis {release}, maxmemory-policy {policy}, appendonly yes"
    return [RedisCheck("redis keeps", not problems, "; ".join(problems) or good)]
