"""The client's half of the control socket: where it is, what one line of it holds, one question and its answer.

Blocking, for `rltraderctl`. It asks once and never again by itself: whoever repeats a command knows what became of it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from daemon.host.safe_decode import Unreadable, typed
from daemon.operator.status import DeskStatus

SOCKET = "control.sock"
LINE_MOST = 4096  # bytes of a command, its newline included
ANSWER_MOST = 1 << 20  # bytes
ANSWER_WITHIN_S = 10.0
_PATH_MOST = 107  # bytes of a socket's path that the kernel takes (unix(7), sun_path)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends. `command` is one of `commands.NAMES`; `who` "" for the name of the peer's user."""

    v: Literal[1]
    command: str
    reason: str = ""
    who: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What it gets. `seq` of the journaled event, 0 for none; `effects` name what the event asked for at once."""

    ok: bool
    seq: int = 0
    error: str = ""
    status: DeskStatus | None = None
    effects: tuple[str, ...] = ()


class ControlError(Exception):
    """The daemon cannot be asked, or gave no answer. The message names the socket, the finding and the cure."""


_decode = msgspec.json.Decoder(Answer).decode


@contextlib.contextmanager
def address(state_dir: Path) -> Iterator[str]:
    """A path of the socket in `state_dir` that the kernel takes, however long the directory's own is."""
    path = str(state_dir / SOCKET)
    if len(os.fsencode(path)) <= _PATH_MOST:
        yield path
        return
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


def ask(state_dir: Path, request: Request, within_s: float = ANSWER_WITHIN_S) -> Answer:
    """Send one command to the daemon of `state_dir`; returns its answer. Raises ControlError."""
    place = state_dir / SOCKET
    line = msgspec.json.encode(request) + b"\n"
    if len(line) > LINE_MOST:
        raise ControlError(f"the command has {len(line)} bytes, at most {LINE_MOST} are taken: shorten --reason")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(within_s)
        try:
            with address(state_dir) as path:
                connection.connect(path)
            with contextlib.suppress(BrokenPipeError):  # refused before it was asked: the answer says why
                connection.sendall(line)
            told = _line(connection, within_s)
        except FileNotFoundError:
            raise ControlError(
                f"{place}: the daemon has no control socket: it is starting (try again in a moment), or its "
                f"configuration says control.enabled = false (set it to true and start the daemon again)"
            ) from None
        except ConnectionRefusedError:
            raise ControlError(
                f"{place}: nobody listens: the daemon is starting or ending; try again in a moment"
            ) from None
        except PermissionError:
            raise ControlError(f"{place}: not for this user: run it as the daemon's user or as root") from None
        except (TimeoutError, BlockingIOError):
            raise ControlError(
                f"{place}: no answer in {within_s:g} s: the command may still be carried out; look at "
                f"`rltraderctl events --state-dir {state_dir}`, and at the daemon's log"
            ) from None
        except OSError as error:  # it was cut off
            raise ControlError(_cut_off(state_dir, str(error.strerror))) from None
    if not told.endswith(b"\n"):
        raise ControlError(_cut_off(state_dir, "no whole answer came"))
    try:
        return typed(_decode, told)
    except Unreadable as error:
        raise ControlError(
            f"{place}: an answer of another version: {error}; use the rltraderctl that belongs to the daemon"
        ) from None


def _line(connection: socket.socket, within_s: float) -> bytes:
    """What comes up to a newline or the end."""
    until, told = time.monotonic() + within_s, b""
    while not told.endswith(b"\n") and len(told) < ANSWER_MOST:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        got = connection.recv(65536)
        if not got:
            break
        told += got
    return told


def _cut_off(state_dir: Path, what: str) -> str:
    return (
        f"{state_dir / SOCKET}: {what}: the daemon ended or dropped the command, which may still be carried out; look "
        f"at `rltraderctl events --state-dir {state_dir}`"
    )
