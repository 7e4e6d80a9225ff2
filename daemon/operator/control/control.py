"""Serve commands on Unix sockets in the state directory: one JSON line in, one JSON line out.

To `control.sock` only the daemon's own user and root may connect; the kernel names the peer. `signed.sock` takes signed
commands from other users of the host. All commands but `status` are journaled before they are acted on. No client can
stop the desk: sizes, times and numbers of clients are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import msgspec

from daemon.host.own_files import open_own_folder, open_plain
from daemon.host.safe_decode import Unreadable, decode_with_type
from daemon.host.time.virtual_time import look_s
from daemon.operator.commands import Command, CommandError, event_of, refused_by
from daemon.operator.control.client import (
    LINE_MOST,
    LOOK_S,
    SIGNED_SOCKET,
    SOCKET,
    WAITING,
    CommandAnswer,
    CommandRequest,
    ControlError,
    address,
    is_there,
)
from daemon.operator.remote_commands import SIZE_MOST, CommandRefusal, Judge
from daemon.operator.status import status_of
from daemon.operator.submitter import Refusals, Submitter
from strategies.kit.quantity import to_json
from strategies.kit.units import SECOND_NS

CHANNEL, SIGNED = "control", "signed"
CLIENTS_MOST = 8
CLIENT_TIMEOUT_S = 5.0  # for a client to send its line, and to take the answer
WITHIN_S = 8.0  # for the engine to carry out a command, so that the answer comes before the client gives up
WAITING_MOST = 100  # files of waiting commands read in one batch
WAITING_BATCHES = 100
_LEFT = re.compile(r"[0-9a-f]{32}\.json")
QUOTED_MOST = 200  # characters of a client's line quoted in an alarm
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)

_decode = msgspec.json.Decoder(CommandRequest).decode
_encode = msgspec.json.Encoder(enc_hook=to_json).encode


class CommandSocket:
    """Serves one socket of `state_dir`: a line in, an answer out. Used on the event loop's thread only.

    `answer(line, uid)` makes the answer, also from its exception. `refuse(reason)` is called for a client that sends no
    proper line; `stranger(uid)` returns why a user may not ask, "" where it may.
    """

    def __init__(
        self,
        state_dir: Path,
        name: str,
        mode: int,
        answer: Callable[[bytes, int], Awaitable[CommandAnswer]],
        refuse: Callable[[str], CommandAnswer],
        stranger: Callable[[int], str] = lambda _: "",
    ) -> None:
        self._state_dir, self._name, self._mode = state_dir, name, mode
        self._answer_to, self._refuse, self._stranger = answer, refuse, stranger
        self._clients: set[asyncio.Task[None]] = set()

    async def run(self, log: Callable[..., None]) -> None:
        """Serve until cancelled. Raises ControlError when the socket cannot be made, or its file is removed."""
        listening, inode = listen(self._state_dir, self._name, self._mode)
        try:
            server = await asyncio.start_unix_server(self._serve, sock=listening, limit=LINE_MOST)
            log("control_listening", socket=str(self._state_dir / self._name))
            try:
                await self._stay(inode)
            finally:
                server.close()
        finally:
            listening.close()
            _unlink(self._state_dir, self._name, inode)
            clients = tuple(self._clients)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def _stay(self, inode: tuple[int, int]) -> None:
        """Return never. Raises ControlError when the socket's file is no longer ours, so that no client can connect."""
        while True:
            await asyncio.sleep(look_s(LOOK_S))
            if not is_there(self._state_dir, self._name, inode):
                raise ControlError(f"{self._state_dir / self._name}: somebody took it away: it is made again")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one command. A client that is too slow, or gone, is dropped."""
        task = asyncio.current_task()
        full = len(self._clients) >= CLIENTS_MOST
        if task is not None and not full:
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)
        try:
            answer = await self._answer(reader, peer_uid(writer), full=full)
            if answer is not None:
                writer.transport.set_write_buffer_limits(high=0)
                async with asyncio.timeout(CLIENT_TIMEOUT_S):
                    writer.write(_encode(answer) + b"\n")
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.CancelledError):  # cancelled only by `run`, and the task ends here
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, uid: int, *, full: bool) -> CommandAnswer | None:
        """Return the answer; None where the client sent nothing."""
        if problem := self._stranger(uid):
            return self._refuse(problem)
        if full:
            return CommandAnswer(ok=False, error=f"{CLIENTS_MOST} clients are being served: try again in a moment")
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return self._refuse(f"a line without an end from user id {uid}") if error.partial else None
        except asyncio.LimitOverrunError:
            return self._refuse(f"a line of more than {LINE_MOST} bytes from user id {uid}")
        try:
            return await self._answer_to(line, uid)
        except CommandError as error:
            return CommandAnswer(ok=False, error=str(error))
        except Exception as error:  # a failed command never stops the desk
            return CommandAnswer(ok=False, error=f"{type(error).__name__}: {error}")


class Commands:
    """Carries out commands for the desk of this name, and waits until each is durable."""

    def __init__(self, submitter: Submitter, desk: str, log: Callable[..., None]) -> None:
        self._submitter, self._desk, self._log = submitter, desk, log

    async def carried_out(self, command: Command, channel: str) -> CommandAnswer:
        """Submit the command. Raises CommandError and what `submit` raises, except at its deadline."""
        if command.name == "status":  # users who may ask for it may read the journal too
            return CommandAnswer(ok=True, status=status_of(self._submitter.state, self._desk))
        try:
            seq, step = await self._submitter.submit(event_of(command), WITHIN_S)
        except TimeoutError:
            problem = f"the engine did not come to it in {WITHIN_S:g} s; it may still be carried out"
            return CommandAnswer(ok=False, error=problem, status=status_of(self._submitter.state, self._desk))
        reason = command.reason.strip()
        self._log("command", command=command.name, channel=channel, who=command.who, reason=reason, seq=seq)
        effects = tuple(type(effect).__name__ for effect in step.effects)
        refusal = refused_by(step.effects)
        return CommandAnswer(
            ok=True, seq=seq, status=status_of(step.state, self._desk), effects=effects, refused=refusal
        )


class ControlServer:
    """Serves `state_dir`/control.sock for the desk of this name. Only `allowed_uids` may command.

    `log` is called as `log(event, **fields)`. Used on the event loop's thread only.
    """

    def __init__(
        self,
        state_dir: Path,
        submitter: Submitter,
        desk: str,
        log: Callable[..., None],
        allowed_uids: Collection[int] | None = None,
    ) -> None:
        self._submitter, self._log = submitter, log
        self._commands = Commands(submitter, desk, log)
        self._allowed_uids = frozenset((os.geteuid(), 0) if allowed_uids is None else allowed_uids)
        self._refusals = Refusals(submitter.put, CHANNEL)
        self._socket = CommandSocket(state_dir, SOCKET, 0o600, self._answer, self._refuse, self._stranger)
        self._users: dict[int, str] = {}

    async def run(self) -> None:
        """Serve until cancelled. Raises ControlError when the socket cannot be made."""
        self._users = await asyncio.to_thread(_user_names, self._allowed_uids)
        await self._socket.run(self._log)

    def _stranger(self, uid: int) -> str:
        if uid in self._allowed_uids:
            return ""
        return f"user id {uid} may not command this desk: its own user and root may"

    async def _answer(self, line: bytes, uid: int) -> CommandAnswer:
        try:
            request = decode_with_type(_decode, line)
        except Unreadable as error:
            quote = "".join(filter(str.isprintable, str(error)))[:QUOTED_MOST]
            return self._refuse(f"an unreadable line from user id {uid}: {quote}")
        sender_name = request.who.strip() or self._users.get(uid, "")
        sender = f"{CHANNEL}/{sender_name} (uid {uid})" if sender_name else f"{CHANNEL} (uid {uid})"
        return await self._commands.carried_out(Command(request.command, request.reason, sender), CHANNEL)

    def _refuse(self, reason: str) -> CommandAnswer:
        self._refusals.note(reason)
        return CommandAnswer(ok=False, error=reason)


class SignedServer:
    """Serves `state_dir`/signed.sock: commands signed by a key of the judge, from any user.

    The state directory's group may connect: it can read the journal anyway, and without a key it can change nothing.
    """

    def __init__(
        self, state_dir: Path, submitter: Submitter, desk: str, judge: Judge, log: Callable[..., None]
    ) -> None:
        self._state_dir, self._submitter, self._judge, self._log = state_dir, submitter, judge, log
        self._commands = Commands(submitter, desk, log)
        self._refusals = Refusals(submitter.put, SIGNED)
        self._socket = CommandSocket(state_dir, SIGNED_SOCKET, 0o660, self._answer, self._refuse)

    async def run(self) -> None:
        """Carry out waiting commands, then serve until cancelled. Raises ControlError when no socket can be made."""
        await self._carry_out_waiting()
        await self._socket.run(self._log)

    async def _answer(self, line: bytes, _: int) -> CommandAnswer:
        verdict = self._judge.judge(line, channel=SIGNED)
        if isinstance(verdict, CommandRefusal):
            return self._refuse(verdict.reason)
        await asyncio.sleep(verdict.wait_ns / SECOND_NS)
        return await self._commands.carried_out(verdict.command, SIGNED)

    async def _carry_out_waiting(self) -> None:
        """Carry out the commands that were left for this start; each file is gone afterwards."""
        for _ in range(WAITING_BATCHES):  # files left without a key before it delay no command
            try:
                waiting = await asyncio.to_thread(_waiting, self._state_dir / WAITING)
            except OSError as error:  # the socket is served anyway
                self._refuse(f"what was left for this start cannot be read: {error.strerror}")
                return
            finished_rows = [await self._is_done(name, payload) for name, payload in waiting]
            if len(waiting) < WAITING_MOST or not any(finished_rows):
                return

    async def _is_done(self, name: str, payload: bytes) -> bool:
        """Carry out or refuse the command in a file; return whether the file is gone."""
        verdict = self._judge.judge(payload, channel=SIGNED, waited=True)
        if isinstance(verdict, CommandRefusal):
            self._refuse(f"left for this start: {verdict.reason}")
        elif not (await self._commands.carried_out(verdict.command, SIGNED)).ok:
            return False  # the next start tries again: its id is in the journal if it was carried out
        try:
            (self._state_dir / WAITING / name).unlink()
        except OSError:
            return False
        return True

    def _refuse(self, reason: str) -> CommandAnswer:
        self._refusals.note(reason)
        return CommandAnswer(ok=False, error=reason)


# --- what waits for a start -------------------------------------------------------------------------------------


def _waiting(folder: Path) -> list[tuple[str, bytes]]:
    """Return the files in the folder of commands, oldest first; create the folder if missing.

    Its group may add files but not remove others' (mode 1770; systemd's RestrictSUIDSGID forbids a set-group-ID bit, on
    folders too). Unreadable files stay. Raises OSError.
    """
    folder.mkdir(exist_ok=True)
    descriptor = open_own_folder(folder)
    requests: list[tuple[int, str, bytes]] = []
    try:
        os.fchmod(descriptor, 0o1770)
        names = sorted(path.name for path in folder.iterdir() if _LEFT.fullmatch(path.name))
        for name in names:
            if len(requests) == WAITING_MOST:
                break
            with contextlib.suppress(OSError), os.fdopen(open_plain(descriptor, name, os.O_RDONLY), "rb") as file:
                requests.append((os.fstat(file.fileno()).st_mtime_ns, name, file.read(SIZE_MOST + 1)))
    finally:
        os.close(descriptor)
    return [(name, payload) for _, name, payload in sorted(requests)]


# --- the socket ---------------------------------------------------------------------------------------------------


def listen(state_dir: Path, name: str = SOCKET, mode: int = 0o600) -> tuple[socket.socket, tuple[int, int]]:
    """Bind the socket, with this mode from the start; return it with the device and inode of its file.

    A dead daemon's socket is replaced. Raises ControlError where a process listens, or no socket can be made.
    """
    place = state_dir / name
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address(state_dir, name) as path:
            _clear(place, path)
            os.fchmod(server.fileno(), mode)  # before it has a name: bind gives the file this mode (Linux, unix_bind)
            server.bind(path)
            if mode != 0o600:
                Path(path).chmod(mode)  # restores bits that the umask removed
            stat = Path(path).lstat()
            _check_mode(place, Path(path), stat.st_mode, mode)
        server.setblocking(False)
    except OSError as error:
        server.close()
        raise ControlError(
            f"{place}: cannot listen: {error.strerror}; check owner and file system of the state directory"
        ) from error
    except ControlError:
        server.close()
        raise
    return server, (stat.st_dev, stat.st_ino)


def _check_mode(place: Path, path: Path, actual_mode: int, mode: int) -> None:
    if stat.S_IMODE(actual_mode) != mode:  # pragma: no cover - Linux keeps the mode of fchmod
        path.unlink()
        raise ControlError(
            f"{place}: has mode {stat.S_IMODE(actual_mode):o}, expected {mode:o}: use another file system"
        )


def _clear(place: Path, path: str) -> None:
    """Remove a dead daemon's socket. Raises ControlError where a process listens, or the file is no socket."""
    try:
        facts = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise ControlError(f"{place}: there is something that is no socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:  # its queue is full: the daemon lives
            pass
    raise ControlError(f"{place}: another process listens here: end it, or use another state directory")


def _unlink(state_dir: Path, name: str, inode: tuple[int, int]) -> None:
    """Remove our own socket's file; another process's stays."""
    with contextlib.suppress(OSError), address(state_dir, name) as path:
        if is_there(state_dir, name, inode):
            Path(path).unlink()


def peer_uid(writer: asyncio.StreamWriter) -> int:
    """Return the peer's user id, as the kernel noted it at connect."""
    connection = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def _user_names(uids: Collection[int]) -> dict[int, str]:
    """Return the users' names known to this host. Not on the event loop: it may wait for a directory service."""
    names = {}
    for uid in uids:
        with contextlib.suppress(KeyError):
            names[uid] = pwd.getpwuid(uid).pw_name
    return names
