"""`make check-images`: run the built images as they are for one session of the simulator, without a container engine.

Each root is mounted read-only, with the volumes, users and commands of the manifests, in namespaces of its own (root
only). A desk that learns starts without a model, and its trainer makes one; a second desk trades by a shipped model.
Redis, publisher and trainer have no network. The clock is the simulator's, `SPEED` times real time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet
import redis

from simulator.desks_by_hand import BUNDLED
from simulator.prices.tape import new_york_date, read_bars
from strategies.kit.contract import Bar
from strategies.kit.units import SECOND_NS
from tests.support.deploy.manifests import K3S, containers, users
from tests.support.deploy.roots import Root, Volumes, acl, asked_inside, environments, exists, root_of, stopped, until

IMAGES = ("daemon", "dashboard", "redis", "trainer")
SPEED = 120.0
BEFORE_OPEN_S = 180.0  # real seconds for the cold start: simulated time begins this long before the session
DECISIONS_LEAST = 300  # of each desk, of a session of 390 minutes
EVERY = 50  # decisions between two checkpoints of the trainer
LEARNER, SCALPER = "desk", "scalper"  # folders in the state volume
CREDENTIALS = {"CREDENTIALS_DIRECTORY": "/run/secrets"}
STATE, STORE = "/var/lib/rltrader", "/var/lib/rltrader-models"
REACHED = """
import json, os, socket, sys
reached = []
for family, host, port in json.loads(sys.argv[1]):
    try:
        with socket.socket(family) as tried:
            tried.settimeout(10)
            tried.connect((host, port))
        reached.append(host)
    except OSError:
        pass
with open("/proc/net/route") as file:
    routes = file.read().splitlines()[1:]
print(json.dumps({
    "user": os.getuid(), "reached": reached, "routes": routes, "devices": [name for _, name in socket.if_nameindex()],
    "read-only": bool(os.statvfs("/").f_flag & os.ST_RDONLY), "secrets": os.listdir("/run/secrets"),
}))
"""


def main() -> None:
    """Run the session; SystemExit where something is wrong."""
    if os.geteuid() != 0:
        raise SystemExit("check-images: mounting roots is root's: run it as root")
    if shutil.which("buildah") is None:
        raise SystemExit("check-images: buildah is missing: run 'apt-get install buildah' as root, then 'make images'")
    missing = [name for name in IMAGES if not exists(name)]
    if missing:
        raise SystemExit(f"check-images: no image of {', '.join(missing)}: run 'make images' first")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rltrader-images.")))
        folder.chmod(0o755)
        roots = {name: stack.enter_context(root_of(name)) for name in IMAGES}
        deployment = Deployment(Volumes(folder), roots)
        stack.callback(deployment.kill)
        deployment.start()
        deployment.first_model()
        deployment.trade()
        deployment.stop()
    print(f"== {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


class Deployment:
    """The containers of one desk that learns, and of a second daemon, without an engine."""

    def __init__(self, volumes: Volumes, roots: dict[str, Root]) -> None:
        self._volumes, self._roots = volumes, roots
        self._state, self._models = volumes.make("state", 10001), volumes.make("models", 10001, 0o2751)
        self._shelf, self._socket = self._models / "online_dqn", volumes.make("socket", 10004, 0o2750)
        self._own = volumes.make("trainer", 10003)
        self._port = free_port()
        self._keys: list[str] = []
        self._broker = 0  # its port
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def kill(self) -> None:
        """End all at once."""
        for process in self._running.values():
            process.kill()

    def start(self) -> None:
        """Start the simulator, Redis, the daemons and the publisher; the desk that learns waits for a model."""
        self._simulator()
        store = self._roots["daemon"].start([], {STORE: self._models}, entrypoint=["/opt/rltrader/put-models"])
        if store.wait() != 0:
            raise SystemExit("check-images: the store could not be prepared")
        self._redis()
        waits, trades = self._daemon(LEARNER), self._daemon(SCALPER)
        self._publisher()
        self._until(lambda: (waits / "ready").exists() and (trades / "ready").exists(), "both daemons are ready")
        print("== both daemons are ready under rltrader-pod: their root is read-only, their keys are files", flush=True)
        if self._journal(LEARNER).exists() or any(self._shelf.iterdir()):
            raise SystemExit("check-images: the desk that learns has a model before its trainer made one")
        print("== the desk that learns waits without a model", flush=True)

    def first_model(self) -> None:
        """Let the trainer make the first model, which wakes the desk; it has no key and no way out."""
        began = time.monotonic()
        self._trainer()
        self._look_at_trainer()
        self._until((self._shelf / "current").exists, "the trainer's first version is the desk's model")
        self._until(self._journal(LEARNER).exists, "the first model wakes the desk")
        version = (self._shelf / "current").read_text().strip()
        took, owner = time.monotonic() - began, (self._shelf / version).stat().st_uid
        if owner != 10003:
            raise SystemExit(f"check-images: {version} belongs to the user {owner}, expected the trainer's, 10003")
        print(f"== the trainer made {version} after {took:.0f} s, and it woke the desk", flush=True)
        self._dashboard()
        self._until(lambda: page(self._port), "the dashboard answers")
        print("== the dashboard answers", flush=True)

    def trade(self) -> None:
        """Wait for the session's end, and look at what came of it."""
        over = self._running.pop("simulator")
        self._until(lambda: over.poll() is not None, "the session is over")
        counts = {name: decisions(self._journal(name)) for name in (LEARNER, SCALPER)}
        if not page(self._port) or min(counts.values()) < DECISIONS_LEAST:
            raise SystemExit(
                f"check-images: decisions: {counts}, expected {DECISIONS_LEAST} or more and a page of them"
            )
        print(f"== the session is over; decisions: {counts}", flush=True)
        self._until(lambda: self._added() >= DECISIONS_LEAST, "the session's experience is in Redis")
        self._until(lambda: self._learned() >= DECISIONS_LEAST, "the trainer learns from it")
        print(f"== Redis got {self._added()} decisions; the trainer learned from {self._learned()}", flush=True)
        self._until(lambda: self._length() < self._added(), "what a checkpoint holds is trimmed")
        print(f"== {self._added() - self._length()} of them are in a checkpoint and trimmed", flush=True)

    def stop(self) -> None:
        """Stop all cleanly, and prove both journals by the image's own code."""
        codes = {name: stopped(self._running[name]) for name in reversed(list(self._running))}
        if any(codes.values()):
            raise SystemExit(f"check-images: not all ended cleanly: {codes}")
        if not (self._own / "desk" / "trainer.pt").exists():
            raise SystemExit("check-images: the trainer left no checkpoint")
        for name in (LEARNER, SCALPER):
            with (self._volumes.folder / "verify.log").open("w+b") as log:
                proof = self._roots["daemon"].start(
                    ["verify", f"--state-dir={STATE}/{name}"],
                    {STATE: self._state},
                    entrypoint=["rltraderctl"],
                    output=log,
                )
                code = proof.wait()
            text = (self._volumes.folder / "verify.log").read_text()
            print(text, end="", flush=True)
            if code != 0 or "identical" not in text:
                raise SystemExit(f"check-images: the journal {name} is not proven")
        print("== all stopped cleanly, and both journals are proven", flush=True)

    # --- the containers -----------------------------------------------------------------------------------------------

    def _simulator(self) -> None:
        """A simulator that serves both desks an account each, from some hours before the last session on."""
        bars = read_bars(BUNDLED, "SPY")
        last = [bar for bar in bars if new_york_date(bar.start_ns) == new_york_date(bars[-1].start_ns)]
        begin_s = last[0].start_ns / SECOND_NS - BEFORE_OPEN_S * SPEED
        begin = datetime.fromtimestamp(begin_s, UTC).isoformat()
        line = [sys.executable, "-m", "simulator", "--speed", str(SPEED), "--accounts", "online,scalper"]
        line += ["--sim-start", begin, "--env", str(self._volumes.folder / "env")]
        with (self._volumes.folder / "simulator.log").open("wb") as log:
            self._running["simulator"] = subprocess.Popen(line, stdout=log, stderr=log)
        self._until(lambda: "APCA_API_SECRET_KEY" in self._env(SCALPER), "the simulator serves")
        self._broker = urlsplit(self._env(LEARNER)["RLTRADER_ALPACA__TRADING_URL"]).port or 0
        recorded(bars[: -len(last)], self._models / "bars.parquet")

    def _env(self, desk: str) -> dict[str, str]:
        """What a desk's environment needs to trade at the simulator; nothing before that serves."""
        file = self._volumes.folder / {LEARNER: "env.online", SCALPER: "env.scalper"}[desk]
        words = shlex.split(file.read_text()) if file.exists() else []
        return dict(word.split("=", 1) for word in words if "=" in word)

    def _redis(self) -> None:
        self._running["redis"] = self._roots["redis"].start(
            ["--aclfile", "/run/secrets/users.acl"],
            {
                "/var/lib/rltrader-redis": self._volumes.make("redis", 10004),
                "/run/rltrader-redis": self._socket,
                "/run/secrets:ro": self._volumes.secrets("redis-secrets", 10004, users__acl=acl()),
            },
        )

    def _daemon(self, desk: str) -> Path:
        """Start a desk's daemon; returns the folder of its probes."""
        run, variables = self._volumes.make(f"{desk}-run", 10001), self._env(desk)
        keys = {name: variables.pop(name) for name in ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")}
        self._keys += keys.values()
        command = ["--", "rltraderd", "--state-dir", f"{STATE}/{desk}"]
        volumes = {STATE: self._state, STORE: self._models, "/run/rltrader": run}
        volumes["/run/secrets:ro"] = self._volumes.secrets(f"{desk}-keys", 10001, **keys)
        if desk == LEARNER:
            given = command_of("rltraderd/daemon")
            command, volumes["/etc/rltrader:ro"] = given[given.index("--") :], self._volumes.make("config", 0, 0o755)
            shutil.copy(K3S / "config.toml", self._volumes.folder / "config")
        else:
            variables["RLTRADER_PATHS__MODELS_DIR"] = STORE
        self._running[f"daemon {desk}"] = self._roots["daemon"].start(
            command, volumes, network=True, environment=CREDENTIALS | variables
        )
        return run

    def _publisher(self) -> None:
        user = "rltrader-publisher"
        self._running["publisher"] = self._roots["daemon"].start(
            command_of("rltraderd/publisher"),
            {
                f"{STATE}:ro": self._state,
                "/var/lib/rltrader-publisher": self._volumes.make("publisher", 10005),
                "/run/rltrader": self._volumes.make("publisher-run", 10005),
                "/run/rltrader-redis": self._socket,
                "/run/secrets:ro": self._volumes.secrets("publisher-password", 10005, REDIS_PASSWORD=user),
            },
            user=user,
            environment=CREDENTIALS,
        )

    def _trainer(self) -> None:
        user = "rltrader-trainer"
        self._running["trainer"] = self._roots["trainer"].start(
            [*command_of("rltrader-trainer/trainer"), "--preset=smoke", f"--checkpoint-every={EVERY}"],
            {
                "/var/lib/rltrader-trainer": self._own,
                STORE: self._models,
                "/run/rltrader": self._volumes.make("trainer-run", 10003),
                "/run/rltrader-redis": self._socket,
                "/run/secrets:ro": self._volumes.secrets("trainer-password", 10003, REDIS_PASSWORD=user),
            },
            environment=CREDENTIALS,
        )

    def _dashboard(self) -> None:
        self._running["dashboard"] = self._roots["dashboard"].start(
            [f"--state-dir={STATE}/{name}" for name in (LEARNER, SCALPER)]
            + [f"--models-dir={STORE}", f"--port={self._port}"],
            {f"{STATE}:ro": self._state, f"{STORE}:ro": self._models},
            network=True,
        )

    # --- looking ------------------------------------------------------------------------------------------------------

    def _until(self, reached: Any, what: str) -> None:
        until(reached, what, *self._running.values())

    def _journal(self, desk: str) -> Path:
        return self._state / desk / "journal.sqlite"

    def _look_at_trainer(self) -> None:
        """No key in any environment, none among its files, and no way to the broker, which answers outside."""
        trainer, user = self._running["trainer"], int(users("trainer")["rltrader-trainer"])
        self._until((self._volumes.folder / "trainer-run" / "ready").exists, "the trainer is ready")
        for name, process in self._running.items():
            if name != "simulator" and any(key.encode() in environments(process) for key in self._keys):
                raise SystemExit(f"check-images: a key of the broker is in the environment of {name}")
        if b"REDIS" in environments(trainer) or b"APCA" in environments(trainer):
            raise SystemExit("check-images: a key is in the environment of the trainer")
        socket.create_connection(("127.0.0.1", self._broker), timeout=30).close()
        doors = [(socket.AF_INET, "127.0.0.1", self._broker), (socket.AF_INET, "192.0.2.1", 443)]
        answers = asked_inside(trainer, user, REACHED, json.dumps([*doors, (socket.AF_INET6, "2001:db8::1", 443)]))
        expected = {"user": user, "reached": [], "routes": [], "devices": ["lo"]}
        expected |= {"read-only": True, "secrets": ["REDIS_PASSWORD"]}
        if answers != expected:
            raise SystemExit(f"check-images: inside the trainer: {answers}, expected {expected}")
        print("== the trainer has no key of the broker, no route, and a root that is read-only", flush=True)

    def _asked(self) -> tuple[redis.Redis, str]:
        """Redis as the dashboard's user, and the name of the desk's stream."""
        user, journal = "rltrader-dashboard", self._journal(LEARNER)
        client = redis.Redis(unix_socket_path=str(self._socket / "redis.sock"), username=user, password=user)
        return client, f"rltrader:{meta(journal, 'desk')}:{meta(journal, 'epoch')}:experience"

    def _added(self) -> int:
        """How many entries were ever added to the stream, 0 before there is one."""
        client, stream = self._asked()
        with contextlib.suppress(redis.ResponseError):
            return int(client.xinfo_stream(stream)["entries-added"])
        return 0

    def _length(self) -> int:
        """How many of them are there now."""
        client, stream = self._asked()
        return int(client.xlen(stream))

    def _learned(self) -> int:
        """How many decisions the trainer learned from, as it shows to the dashboard."""
        path = self._shelf / "learning.json"
        return int(json.loads(path.read_text())["transitions"]) if path.exists() else 0


def command_of(name: str) -> list[str]:
    """The arguments of a container in the manifests."""
    (arguments,) = (container.spec["args"] for container in containers() if container.name == name)
    return list(arguments)


def recorded(bars: list[Bar], path: Path) -> None:
    """Write recorded bars as an operator copies them into the store."""
    names = ("open", "high", "low", "close", "volume")
    columns: dict[str, Any] = {name: pa.array([float(getattr(bar, name)) for bar in bars]) for name in names}
    times = pa.array([bar.start_ns for bar in bars], pa.timestamp("ns", "UTC"))
    pa.parquet.write_table(pa.table({"symbol": [bar.symbol for bar in bars], "timestamp": times, **columns}), path)
    os.chown(path, 10001, 10000)
    path.chmod(0o640)


def decisions(journal: Path) -> int:
    """How many decisions the journal has, 0 before there is one."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db,
    ):
        return int(db.execute("SELECT count(*) FROM decisions").fetchone()[0])
    return 0


def meta(journal: Path, key: str) -> str:
    """A value that the journal is bound to."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        return str(db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


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


if __name__ == "__main__":
    main()
