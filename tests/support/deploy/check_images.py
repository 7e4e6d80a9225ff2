"""`make check-images`: run the built images as they are for one session of the simulator, without a container engine.

Each root is mounted read-only, with the volumes and users of the manifests, in namespaces of its own (root only).
Redis and publisher have no network. The clock is the simulator's, `SPEED` times real time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.deploy.manifests import project, users
from tests.support.paths import REPOSITORY

SPEED = 120.0
LIMIT_S = 1800.0
DECISIONS_LEAST = 300  # of a session of 390 minutes
ENGINE = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
INSIDE = """
set -e
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
  outside=${1%%:*} inside=${1#*:}; place=$root${inside%:ro}
  mkdir -p "$place"; mount --bind "$outside" "$place"
  [ "$inside" = "${inside%:ro}" ] || mount -o remount,bind,ro "$place"
  shift
done
shift
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for name in null zero random urandom; do touch "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"; done
mkdir "$root/dev/shm"; chmod 1777 "$root/dev/shm"
exec setpriv --no-new-privs /usr/sbin/chroot --userspec="$user:10000" --groups= "$root" "$@"
"""


def engine(*words: str) -> str:
    """The output of one call of buildah."""
    done = subprocess.run(["buildah", *words], env=os.environ | ENGINE, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclass(slots=True)
class Root:
    """One image's root, and how a container of it begins."""

    name: str
    path: Path
    settings: dict[str, list[str]]

    def start(
        self,
        arguments: Sequence[str],
        volumes: dict[str, Path],
        *,
        user: str = "",
        network: bool = False,
        entrypoint: Sequence[str] | None = None,
        **environment: str,
    ) -> subprocess.Popen[bytes]:
        """Start it; `user` and `entrypoint` as in the image unless given.

        `volumes` are by their path inside, with `:ro` behind it where they are read-only.
        """
        uid = users(self.name)[user] if user else self.settings["User"][0].partition(":")[0]
        mounts = [f"{outside}:{inside}" for inside, outside in volumes.items()]
        spaces = ["--mount", "--pid", "--fork", "--kill-child", *([] if network else ["--net"])]
        given = dict(line.split("=", 1) for line in self.settings["Env"]) | environment
        command = [*(self.settings["Entrypoint"] if entrypoint is None else entrypoint), *arguments]
        return subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", INSIDE, "sh", str(self.path), uid, *mounts, "--", *command],
            env={"HOME": "/nonexistent", **given},
        )


@contextlib.contextmanager
def root_of(name: str) -> Iterator[Root]:
    """An image's root, mounted; removed at the end."""
    container = engine("from", "--pull-never", f"localhost/rltrader-{name}:{project()['version']}")
    try:
        path = Path(engine("mount", container))
        config = json.loads(engine("inspect", container))["OCIv1"]["config"]
        yield Root(name, path, config | {"User": [config["User"]]})
    finally:
        engine("rm", container)


def stopped(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM to the first process of the namespace; returns its exit code."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    return process.wait(timeout=LIMIT_S)


def until(reached: Callable[[], bool], what: str, *alive: subprocess.Popen[bytes]) -> None:
    """Return when `reached`; SystemExit when that takes too long or a process ended."""
    end = time.monotonic() + LIMIT_S
    while not reached():
        if time.monotonic() > end or any(process.poll() is not None for process in alive):
            raise SystemExit(f"check-images: in vain waited for: {what}")
        time.sleep(0.2)


@dataclass(slots=True)
class Volumes:
    """The volumes of one deployment, as the images' users own them."""

    folder: Path

    def make(self, name: str, uid: int, mode: int = 0o2770) -> Path:
        """A folder of this user in the deployment's group."""
        path = self.folder / name
        path.mkdir()
        os.chown(path, uid, 10000)
        path.chmod(mode)
        return path

    def secrets(self, name: str, uid: int, **files: str) -> Path:
        """A folder with files that this user alone may read."""
        path = self.make(name, uid, 0o500)
        for key, text in files.items():
            (path / key.replace("__", ".")).write_text(text)
            os.chown(path / key.replace("__", "."), uid, 10000)
            (path / key.replace("__", ".")).chmod(0o400)
        return path


def acl() -> str:
    """The file of users; each one's password is its name."""
    text = (REPOSITORY / "systemd" / "redis" / "users.acl").read_text()
    return re.sub(
        r"(?m)^user (\S+) on #\w+", lambda m: f"user {m[1]} on #{hashlib.sha256(m[1].encode()).hexdigest()}", text
    )


def simulator(folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """A simulator that serves, and the environment of a daemon there."""
    file = folder / "desk.env"
    line = [sys.executable, "-m", "simulator", "--speed", str(SPEED), "--env", str(file)]
    with (folder / "simulator.log").open("wb") as log:
        process = subprocess.Popen(line, cwd=REPOSITORY, stdout=log, stderr=log)
    until(lambda: file.exists() and "APCA_API_SECRET_KEY" in file.read_text(), "the simulator serves", process)
    words = [word for word in shlex.split(file.read_text()) if "=" in word]
    return process, dict(word.split("=", 1) for word in words)


def decisions(journal: Path) -> int:
    """How many decisions the journal has, 0 before there is one."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db,
    ):
        return int(db.execute("SELECT count(*) FROM decisions").fetchone()[0])
    return 0


def page(port: int) -> bool:
    """Whether the dashboard answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """A port of the loopback device that is free now."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def main() -> None:
    """Run the session; SystemExit where something is wrong."""
    if os.geteuid() != 0:
        raise SystemExit("check-images: mounting roots is root's: run it as root")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rltrader-images.")))
        folder.chmod(0o755)
        roots = {name: stack.enter_context(root_of(name)) for name in ("daemon", "dashboard", "redis")}
        deployment = Deployment(Volumes(folder), roots)
        stack.callback(deployment.kill)
        deployment.start()
        deployment.trade()
        deployment.stop()


class Deployment:
    """The containers of one desk, without an engine."""

    def __init__(self, volumes: Volumes, roots: dict[str, Root]) -> None:
        self._volumes, self._roots = volumes, roots
        self._state, self._models = volumes.make("state", 10001), volumes.make("models", 10001, 0o2771)
        self._run, self._socket = volumes.make("run", 10001), volumes.make("socket", 10004)
        self._journal = self._state / "desk" / "journal.sqlite"
        self._port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def kill(self) -> None:
        """End all at once."""
        for process in self._running.values():
            process.kill()

    def start(self) -> None:
        """Start all in the order of the manifests."""
        self._running["simulator"], variables = simulator(self._volumes.folder)
        store = self._roots["daemon"].start(
            [], {"/var/lib/rltrader-models": self._models}, entrypoint=["/opt/rltrader/put-models"]
        )
        if store.wait() != 0:
            raise SystemExit("check-images: the store could not be prepared")
        self._running["redis"] = self._redis()
        self._running["daemon"] = self._daemon(variables)
        until((self._run / "ready").exists, "the daemon is ready", *self._running.values())
        print("== the daemon is ready under rltrader-pod: its root is read-only, its keys are files", flush=True)
        self._running["publisher"] = self._publisher()
        self._running["dashboard"] = self._roots["dashboard"].start(
            ["--state-dir=/var/lib/rltrader/desk", "--models-dir=/var/lib/rltrader-models", f"--port={self._port}"],
            {"/var/lib/rltrader:ro": self._state, "/var/lib/rltrader-models:ro": self._models},
            network=True,
        )
        until(lambda: page(self._port), "the dashboard answers", *self._running.values())
        print("== the dashboard answers", flush=True)

    def trade(self) -> None:
        """Wait for the session's end, and look at what came of it."""
        over = self._running.pop("simulator")
        until(lambda: over.poll() is not None, "the session is over", *self._running.values())
        made = decisions(self._journal)
        if not page(self._port) or made < DECISIONS_LEAST:
            raise SystemExit(f"check-images: {made} decisions, expected {DECISIONS_LEAST} or more, and a page of them")
        print(f"== the session is over: {made} decisions", flush=True)
        stream = f"rltrader:{_meta(self._journal, 'desk')}:{_meta(self._journal, 'epoch')}:experience"
        until(lambda: self._length(stream) > 0, f"entries in {stream}", *self._running.values())
        print(f"== the stream has {self._length(stream)} entries, carried without a network", flush=True)

    def stop(self) -> None:
        """Stop all cleanly, and prove the journal by the image's own code."""
        codes = {name: stopped(self._running[name]) for name in ("publisher", "daemon", "redis")}
        if any(codes.values()):
            raise SystemExit(f"check-images: not all ended cleanly: {codes}")
        proof = self._roots["daemon"].start(
            ["verify", "--state-dir=/var/lib/rltrader/desk"],
            {"/var/lib/rltrader": self._state},
            entrypoint=["rltraderctl"],
        )
        if proof.wait() != 0:
            raise SystemExit("check-images: the journal is not proven")
        print("== all stopped cleanly, and the journal is proven", flush=True)

    def _redis(self) -> subprocess.Popen[bytes]:
        return self._roots["redis"].start(
            ["--aclfile", "/run/secrets/users.acl"],
            {
                "/var/lib/rltrader-redis": self._volumes.make("redis", 10004),
                "/run/rltrader-redis": self._socket,
                "/run/secrets:ro": self._volumes.secrets("redis-secrets", 10004, users__acl=acl()),
            },
        )

    def _daemon(self, variables: dict[str, str]) -> subprocess.Popen[bytes]:
        keys = {name: variables.pop(name) for name in ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")}
        return self._roots["daemon"].start(
            ["--", "rltraderd", "--state-dir", "/var/lib/rltrader/desk"],
            {
                "/var/lib/rltrader": self._state,
                "/var/lib/rltrader-models": self._models,
                "/run/rltrader": self._run,
                "/run/secrets:ro": self._volumes.secrets("keys", 10001, **keys),
            },
            network=True,
            CREDENTIALS_DIRECTORY="/run/secrets",
            RLTRADER_PATHS__MODELS_DIR="/var/lib/rltrader-models",
            **variables,
        )

    def _publisher(self) -> subprocess.Popen[bytes]:
        return self._roots["daemon"].start(
            [
                "--",
                "rltrader-publisher",
                "--state-dir=/var/lib/rltrader/desk",
                "--own-dir=/var/lib/rltrader-publisher/desk",
                "--redis=unix:///run/rltrader-redis/redis.sock",
            ],
            {
                "/var/lib/rltrader:ro": self._state,
                "/var/lib/rltrader-publisher": self._volumes.make("publisher", 10005),
                "/run/rltrader": self._volumes.make("publisher-run", 10005),
                "/run/rltrader-redis": self._socket,
                "/run/secrets:ro": self._volumes.secrets("publisher-keys", 10005, REDIS_PASSWORD="rltrader-publisher"),
            },
            user="rltrader-publisher",
            CREDENTIALS_DIRECTORY="/run/secrets",
        )

    def _length(self, stream: str) -> int:
        """How many entries the stream has."""
        user = "rltrader-dashboard"
        ask = ["redis-cli", "-s", str(self._socket / "redis.sock"), "--user", user, "--pass", user, "--no-auth-warning"]
        done = subprocess.run([*ask, "xlen", stream], capture_output=True, text=True, check=True)
        return int(done.stdout)


def _meta(journal: Path, key: str) -> str:
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        return str(db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


if __name__ == "__main__":
    main()
