"""The control socket's client: its path, its messages, one request and its answer.

Blocking, for `rltraderctl`. It never retries: only the operator knows whether a command may be repeated.
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

from daemon.host.passing import may_pass
from daemon.host.safe_decode import Unreadable, decode_with_type
from daemon.host.whole_files import write_whole
from daemon.operator.signing import SignedCommand
from daemon.operator.status import DeskStatus
from strategies.kit.quantity import from_json

SOCKET = "control.sock"
SIGNED_SOCKET = "signed.sock"
WAITING = "signed"  # folder of signed commands for the daemon's next start
LINE_MOST = 4096  # bytes of a command, its newline included
ANSWER_MOST = 1 << 20  # bytes
LOOK_S = 5.0  # between two checks by the server that the socket's file exists
ANSWER_WITHIN_S = 10.0
_PATH_MOST = 107  # bytes of a socket's path that the kernel takes (unix(7), sun_path)


class CommandRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client's request. `command` is one of `commands.NAMES`; `who` "" for the name of the peer's user."""

    v: Literal[1]
    command: str
    reason: str = ""
    who: str = ""


class CommandAnswer(msgspec.Struct, frozen=True):
    """The daemon's answer. `seq` of the journaled event, 0 for none; `effects` name the event's immediate effects.

    `refused` is why the command has no effect, "" where it has one.
    """

    ok: bool
    seq: int = 0
    error: str = ""
    status: DeskStatus | None = None
    effects: tuple[str, ...] = ()
    refused: str = ""


class ControlError(Exception):
    """The daemon was not reached or gave no answer. The message names the socket, the problem and the cure."""


_SWITCHES = {SOCKET: ("control socket", "enabled"), SIGNED_SOCKET: ("socket for signed commands", "signed")}
_decode = msgspec.json.Decoder(CommandAnswer, dec_hook=from_json).decode


@contextlib.contextmanager
def address(state_dir: Path, name: str = SOCKET) -> Iterator[str]:
    """Yield a path of the socket that is short enough for the kernel, whatever the length of `state_dir`."""
    path = str(state_dir / name)
    if len(os.fsencode(path)) <= _PATH_MOST:
        yield path
        return
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{name}"
    finally:
        os.close(folder)


def is_there(state_dir: Path, name: str, inode: tuple[int, int]) -> bool:
    """Return whether the socket's file is the one of this device and inode."""
    try:
        with address(state_dir, name) as path:
            facts = os.lstat(path)
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == inode


def ask(state_dir: Path, request: CommandRequest | SignedCommand, within_s: float = ANSWER_WITHIN_S) -> CommandAnswer:
    """Send one command to the daemon of `state_dir`, a signed one by the socket for those. Raises ControlError."""
    name = SIGNED_SOCKET if isinstance(request, SignedCommand) else SOCKET
    place = state_dir / name
    line = msgspec.json.encode(request) + b"\n"
    if len(line) > LINE_MOST:
        raise ControlError(f"the command has {len(line)} bytes, at most {LINE_MOST} are taken: shorten --reason")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(within_s)
        try:
            with address(state_dir, name) as path:
                connection.connect(path)
            with contextlib.suppress(BrokenPipeError):  # refused before reading: the answer has the reason
                connection.sendall(line)
            answer = _line(connection, within_s)
        except FileNotFoundError:
            raise ControlError(
                f"{place}: the daemon has no {_SWITCHES[name][0]}: it is starting (try again in a moment), or its "
                f"configuration has control.{_SWITCHES[name][1]} = false (set it to true and start the daemon again)"
            ) from None
        except ConnectionRefusedError:
            raise ControlError(f"{place}: no daemon listens: it is starting or ending; try again in a moment") from None
        except PermissionError:
            raise ControlError(f"{place}: not for this user: run it as the daemon's user or as root") from None
        except (TimeoutError, BlockingIOError):
            raise ControlError(
                f"{place}: no answer in {within_s:g} s: the command may still be carried out; {_look(state_dir)}: a "
                "daemon that hangs ends within a minute, and rltraderctl panic needs none"
            ) from None
        except OSError as error:  # it was cut off
            raise ControlError(_cut_off(state_dir, str(error.strerror))) from None
    if not answer.endswith(b"\n"):
        raise ControlError(_cut_off(state_dir, "no whole answer came"))
    try:
        return decode_with_type(_decode, answer)
    except Unreadable as error:
        raise ControlError(
            f"{place}: an answer of another version: {error}: the command may have been carried out; use the "
            f"rltraderctl that belongs to the daemon"
        ) from None


def leave(state_dir: Path, command: SignedCommand) -> None:
    """Leave a signed command for the next start of the daemon of `state_dir`. Raises ControlError."""
    place = state_dir / WAITING / f"{command.nonce}.json"
    try:
        write_whole(place, msgspec.json.encode(command))
        place.chmod(0o644)  # despite the umask: the daemon is another user, and only its group may enter the folder
    except OSError as error:
        cure = "the daemon makes the folder when it starts with control.signed = true; on the host, rltraderctl does it"
        if may_pass(error, place):  # a fault of the disk, which rltraderctl needs too
            cure = "ask again when there is room; what cannot wait: on the host, rltraderctl panic needs no disk"
        raise ControlError(f"{place}: cannot be left there: {error.strerror}; {cure}") from None


def _line(connection: socket.socket, within_s: float) -> bytes:
    """Read up to a newline or the end."""
    deadline, line = time.monotonic() + within_s, b""
    while not line.endswith(b"\n") and len(line) < ANSWER_MOST:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        received_bytes = connection.recv(65536)
        if not received_bytes:
            break
        line += received_bytes
    return line


def _cut_off(state_dir: Path, subject: str) -> str:
    return (
        f"{state_dir / SOCKET}: {subject}: the daemon ended or dropped the command, which may still be carried out; "
        f"{_look(state_dir)}; rltraderctl panic needs no daemon"
    )


def _look(state_dir: Path) -> str:
    events = f"`rltraderctl events --state-dir {state_dir}`"
    return f"look at {events}, and at the daemon's log; where it is not there, give it again"
