"""A Ray cluster: one that is joined, or one of this machine alone that is started and ended here.

Ray is imported when it is used and not before. Invariant: a Ray that is started here listens on loopback only, and none
of its processes outlives the context.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rltrader import module_command
from rltrader.install import install_line
from training.rl.scratch import scratch

LOCAL = "local"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # read at Ray's import: every server listens on 127.0.0.1
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_AUTH_MODE": "token",  # otherwise another user of this machine could join and run code as this user
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
LOOPBACK = "127.0.0.1"
REACH_S = 5.0
HEAD = tuple(module_command("training.rl.ray_head"))
STARTS = 3
START_S = 240.0  # timeout of one start, which took 45 seconds beside eight busy processes on two cores
END_S = 60.0
SCRATCH = "rlt-ray-"  # short: the paths of Ray's sockets have at most 107 bytes
OBJECT_STORE_BYTES = 80_000_000  # small, because each process reads the bars itself


@contextlib.contextmanager
def connected(address: str, cores: int) -> Iterator[Any]:
    """The module `ray`, connected while this lasts.

    Args:
        address: "local" starts Ray on this machine, "auto" joins the cluster of this machine, else host:port of one.
        cores: of this machine, for one that is started here.

    Raises:
        RuntimeError: Ray is not installed, or no cluster answers; the text has the cure.
    """
    local = address == LOCAL
    os.environ.update(ENVIRONMENT | (LOCAL_ENVIRONMENT if local else {}))
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise RuntimeError(f"--ray needs Ray ({error}): install it with {install_line('scale')}") from error
    if not local and address != "auto":
        _reach(address)
    with _local_ray(cores) if local else contextlib.nullcontext(address) as cluster_address:
        try:
            with _own_handlers():
                ray.init(address=cluster_address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (ConnectionError, ValueError) as error:
            raise RuntimeError(f"no Ray cluster at {address!r} ({error}): start one, or use --ray local") from error
        try:
            if local and ray.util.get_node_ip_address() != LOOPBACK:
                raise RuntimeError("Ray was imported before and would listen on the network: start a new process")
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _local_ray(cores: int) -> Iterator[str]:
    """The address of a Ray of this machine, held by a process of its own while this lasts.

    Raises:
        RuntimeError: several starts failed; the text has Ray's last output and the cure.
    """
    with contextlib.ExitStack() as stack:
        with _one_start():
            for attempt in range(STARTS):
                try:
                    address = stack.enter_context(_start_ray(cores))
                    break
                except RuntimeError:
                    if attempt == STARTS - 1:
                        raise
        yield address


@contextlib.contextmanager
def _start_ray(cores: int) -> Iterator[str]:
    """Start Ray once; this takes seconds, on a busy machine a minute.

    Raises:
        RuntimeError: it did not start.
    """
    with scratch(Path(tempfile.gettempdir()), SCRATCH) as folder:
        options = {
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(folder),
            "log_to_driver": False,
            "logging_level": "ERROR",
        }
        log = folder / "log"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [*HEAD, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            ) as head,
        ):
            assert head.stdout is not None
            limit = threading.Timer(START_S, head.kill)
            limit.start()
            try:
                address = head.stdout.readline().strip()
                limit.cancel()  # from here on it may run for hours
                if not address:
                    words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                    raise RuntimeError(
                        f"Ray did not start on this machine ({words[-1] if words else 'no word'}): give the same "
                        "command again when the machine is less busy, or leave --ray out"
                    )
                yield address
            finally:
                limit.cancel()
                _end(head)


def _end(head: subprocess.Popen[str]) -> None:
    """Ask the head to shut Ray down. A head that hangs is killed; Ray's agents notice that and end."""
    assert head.stdin is not None
    head.stdin.close()
    try:
        head.wait(END_S)
    except subprocess.TimeoutExpired:
        head.kill()


@contextlib.contextmanager
def _one_start() -> Iterator[None]:
    """Let this user's processes start Ray one at a time: two concurrent starts take each other's servers."""
    path = Path(tempfile.gettempdir()) / f"rltrader-ray-{os.getuid()}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Restore our SIGTERM handler, which Ray replaces by one that exits at once."""
    handler_before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler_before)


def _reach(address: str) -> None:
    """Check that the address answers: Ray itself retries for minutes, during which it ignores a stop.

    Raises:
        RuntimeError: `address` is no host:port, or has no answer within five seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=REACH_S):
            return
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"no Ray cluster at {address!r} ({error}): give host:port of its head, or use --ray local"
        ) from error
