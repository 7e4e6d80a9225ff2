"""The built images' roots, run as they are without a container engine: mounts, users, volumes, and a look inside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.deploy.manifests import project, users
from tests.support.paths import REPOSITORY

LIMIT_S = 1800.0
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
        output: IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start it; `user` and `entrypoint` as in the image unless given.

        `volumes` are by their path inside, with `:ro` behind it where they are read-only. Without `output` the
        container writes to this process' own.
        """
        uid = users(self.name)[user] if user else self.settings["User"][0].partition(":")[0]
        mounts = [f"{outside}:{inside}" for inside, outside in volumes.items()]
        spaces = ["--mount", "--pid", "--fork", "--kill-child", *([] if network else ["--net"])]
        given = dict(line.split("=", 1) for line in self.settings["Env"]) | dict(environment or {})
        command = [*(self.settings["Entrypoint"] if entrypoint is None else entrypoint), *arguments]
        return subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", INSIDE, "sh", str(self.path), uid, *mounts, "--", *command],
            env={"HOME": "/nonexistent", **given},
            stdout=output,
        )


def image(name: str) -> str:
    """Return the full name of an image of this version."""
    return f"localhost/rltrader-{name}:{project()['version']}"


def exists(name: str) -> bool:
    """Return True if the image of this version was built here."""
    words = ["buildah", "inspect", "--type", "image", image(name)]
    return subprocess.run(words, env=os.environ | ENGINE, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def root_of(name: str) -> Iterator[Root]:
    """An image's root, mounted; removed at the end."""
    container = engine("from", "--pull-never", image(name))
    try:
        path = Path(engine("mount", container))
        config = json.loads(engine("inspect", container))["OCIv1"]["config"]
        yield Root(name, path, config | {"User": [config["User"]]})
    finally:
        engine("rm", container)


def first(process: subprocess.Popen[bytes]) -> int:
    """The id of the first process of the container's namespace."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def stopped(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM to the first process of the namespace; returns its exit code."""
    os.kill(first(process), signal.SIGTERM)
    return process.wait(timeout=LIMIT_S)


def environments(process: subprocess.Popen[bytes]) -> bytes:
    """The environments of all processes in the container."""
    space, content = Path(f"/proc/{first(process)}/ns/pid").readlink(), b""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (entry / "ns" / "pid").readlink() == space:
                content += (entry / "environ").read_bytes()
    return content


def asked_inside(process: subprocess.Popen[bytes], user: int, code: str, *arguments: str) -> dict[str, Any]:
    """What a program of Python prints as JSON that runs as this user in the container, with the image's own Python."""
    line = ["nsenter", f"--target={first(process)}", "--mount", "--net", "--pid", "--root", "--wd"]
    line += [f"--setuid={user}", "--setgid=10000", "--", "/opt/rltrader/venv/bin/python", "-c", code, *arguments]
    done = subprocess.run(line, env={"HOME": "/nonexistent"}, capture_output=True, text=True, check=True)
    read: dict[str, Any] = json.loads(done.stdout)
    return read


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
