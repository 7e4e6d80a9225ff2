"""A shelf that the desk's user shares with its trainer, with real users: what the trainer writes there moves nothing.

A child process with the trainer's user and group attacks; this process, as root's stand-in for the desk, becomes the
desk's user before it looks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from daemon.models import pointer
from daemon.models.ladder.cards import HoldReasons, former_holds, holds_of, write_holds
from daemon.models.pointer import (
    CURRENT,
    PROMOTIONS_FILE,
    ModelError,
    changes,
    former_version,
    point,
    pointer_text,
    version_of_pointer,
)
from daemon.models.store import load
from strategies.kit.contract import AnyStrategy
from strategies.kit.manifest import MANIFEST_FILE
from strategies.registry import strategy
from tests.support.models.tiny_models import manifest_of, put

DESK, TRAINER, GROUP = 10001, 10003, 10000  # users of the images; no name is needed
GRAPH, LOGITS = b"graph", ((0.0,) * 6,) * 7
NAME = "option_scalper"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root, to become other users",
)


@pytest.fixture
def shelf() -> Iterator[Path]:
    """The shelf, owned by the desk's user and sticky, in a store that is its own; this process is the desk's user."""
    root = Path("/tmp") / f"rltrader-shelf-{os.getpid()}"
    store = root / "store"
    for folder, mode in ((root, 0o755), (store, 0o2751), (store / NAME, 0o3771)):
        folder.mkdir()
        os.chown(folder, DESK, GROUP)
        folder.chmod(mode)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(GROUP)
    os.seteuid(DESK)
    try:
        yield store / NAME
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        shutil.rmtree(root)


def as_trainer(command: str, folder: Path) -> int:
    """Let the trainer's user run a line of shell in the folder; returns its exit code."""
    os.seteuid(0)
    try:
        users = [f"--reuid={TRAINER}", f"--regid={GROUP}", "--clear-groups"]
        result = subprocess.run(["setpriv", *users, "sh", "-ec", command], cwd=folder, check=False, capture_output=True)
    finally:
        os.seteuid(DESK)
    return result.returncode


def published(shelf: Path, version: str, graph: bytes = GRAPH) -> None:
    """Put a version of the trainer's into the shelf."""
    os.seteuid(0)
    put(shelf.parent, manifest_of(strategy(NAME), graph, LOGITS, version=version), graph, current=False)
    for path in (shelf / version, *(shelf / version).iterdir()):
        os.chown(path, TRAINER, GROUP)
    os.seteuid(DESK)


def name(shelf: Path, version: str, *, rollback: bool = False) -> None:
    point(shelf, CURRENT, version, author="ladder", why="a test", now_ns=1, rollback=rollback)


def test_the_trainer_cannot_put_a_shelf_of_its_own_in_the_place_of_the_real_one(shelf: Path) -> None:
    assert as_trainer(f"mv {NAME} gone", shelf.parent) != 0
    assert as_trainer("mkdir evil", shelf) == 0  # in the shelf it may add


@pytest.mark.parametrize("command", ["echo evil > current", "ln -s v1/manifest.json current", "mkdir -p current/x"])
def test_a_current_that_the_trainer_made_names_nothing_and_the_desk_s_own_takes_its_place(
    shelf: Path, command: str
) -> None:
    published(shelf, "v1")
    assert as_trainer(command, shelf) == 0
    assert pointer_text(shelf, CURRENT) == ""
    with pytest.raises(ModelError, match="owner"):
        version_of_pointer(shelf, CURRENT)
    name(shelf, "v1")
    assert version_of_pointer(shelf, CURRENT) == "v1"
    assert as_trainer("echo evil > current || mv current gone", shelf) != 0


@pytest.mark.parametrize("command", ["umask 077; echo '{}' > promotions.jsonl", "mkdir -p promotions.jsonl/x"])
def test_a_history_that_the_trainer_made_first_keeps_no_rollback_back(shelf: Path, command: str) -> None:
    published(shelf, "v1")
    published(shelf, "v2")
    parts = " ".join(f".current.{os.getpid()}.part/x" for _ in range(1))
    assert as_trainer(f"{command}; mkdir -p {parts}", shelf) == 0
    name(shelf, "v1")
    name(shelf, "v2")
    name(shelf, former_version(shelf), rollback=True)
    assert version_of_pointer(shelf, CURRENT) == "v1"
    assert [change.after for change in changes(shelf)] == ["v1", "v2", "v1"]
    assert as_trainer(f"echo x >> {PROMOTIONS_FILE} || rm -f {PROMOTIONS_FILE}", shelf) != 0


def test_a_history_that_root_began_keeps_no_rollback_back(shelf: Path) -> None:
    for version in ("v1", "v2"):
        (shelf / version).mkdir()
    os.seteuid(0)
    try:
        for now_ns, version in enumerate(("v1", "v2")):
            point(shelf, CURRENT, version, author="root", why="by hand", now_ns=now_ns)
        assert (shelf / PROMOTIONS_FILE).stat().st_uid == 0
    finally:
        os.seteuid(DESK)
    point(shelf, CURRENT, "v1", author="ladder", why="v2: rolled_back", now_ns=2, rollback=True)
    assert version_of_pointer(shelf, CURRENT) == "v1"
    assert [(change.after, change.who) for change in changes(shelf)] == [
        ("v1", "root"),
        ("v2", "root"),
        ("v1", "ladder"),
    ]
    assert (shelf / PROMOTIONS_FILE).stat().st_uid == DESK


def test_a_version_that_was_changed_after_its_promotion_is_refused(shelf: Path) -> None:
    scalper: AnyStrategy = strategy(NAME)
    published(shelf, "v1")
    published(shelf, "v2")
    name(shelf, "v1")
    assert load(shelf.parent, scalper).policy == GRAPH
    os.seteuid(0)
    shutil.rmtree(shelf / "v1")
    os.seteuid(DESK)
    published(shelf, "v1", b"evil")
    with pytest.raises(ModelError, match="promoted version"):
        load(shelf.parent, scalper)
    name(shelf, "v2")
    with pytest.raises(ModelError, match="promoted version"):
        name(shelf, former_version(shelf), rollback=True)
    assert load(shelf.parent, scalper).version == "v2"


def digest_of(shelf: Path, version: str) -> str:
    return sha256((shelf / version / MANIFEST_FILE).read_bytes()).hexdigest()


def test_a_version_that_was_swapped_after_it_was_judged_is_not_named(shelf: Path) -> None:
    published(shelf, "v1")
    published(shelf, "v2")
    name(shelf, "v1")
    digest = digest_of(shelf, "v2")
    assert as_trainer("mv v2 judged", shelf) == 0
    published(shelf, "v2", b"evil")
    with pytest.raises(ModelError, match="judged version"):
        point(shelf, CURRENT, "v2", author="ladder", why="a test", now_ns=1, judged_digest=digest)
    assert (version_of_pointer(shelf, CURRENT), [change.after for change in changes(shelf)]) == ("v1", ["v1"])
    assert as_trainer("mv v2 evil; mv judged v2", shelf) == 0
    point(shelf, CURRENT, "v2", author="ladder", why="a test", now_ns=1, judged_digest=digest)
    assert (version_of_pointer(shelf, CURRENT), changes(shelf)[-1].digest) == ("v2", digest)
    assert as_trainer("mv v2 judged; mv evil v2", shelf) == 0  # after the pointer moved
    with pytest.raises(ModelError, match="promoted version"):
        load(shelf.parent, strategy(NAME))


@pytest.mark.parametrize(
    "command",
    [
        """echo '{"frozen":"by me","held":{"v1":"by me"}}' > holds.json""",
        "echo '{' > holds.json; chmod 600 holds.json",
        "mkdir -p holds.json/x",
        "ln -s v1/manifest.json holds.json",
    ],
)
def test_holds_that_the_trainer_made_hold_nothing_and_a_person_s_take_their_place(shelf: Path, command: str) -> None:
    published(shelf, "v1")
    assert as_trainer(command, shelf) == 0
    assert holds_of(shelf) == HoldReasons()
    assert former_holds(shelf) == HoldReasons()
    write_holds(shelf, HoldReasons(frozen="a quiet week"))
    assert holds_of(shelf) == HoldReasons(frozen="a quiet week")
    assert as_trainer("echo '{}' > holds.json || rm -f holds.json || mv holds.json gone", shelf) != 0
    assert holds_of(shelf) == HoldReasons(frozen="a quiet week")


def test_who_holds_the_shelf_s_lock_for_ever_keeps_no_change_back(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    published(shelf, "v1")
    monkeypatch.setattr(pointer, "LOCK_S", 0.1)
    holder = subprocess.Popen(["flock", str(shelf), "sh", "-c", "echo held; exec sleep 30"], stdout=subprocess.PIPE)
    request.addfinalizer(_finalizer(holder))
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    name(shelf, "v1")
    assert version_of_pointer(shelf, CURRENT) == "v1"


def _finalizer(process: subprocess.Popen[bytes]) -> Callable[[], None]:
    def end() -> None:
        with process:  # closes its pipe too
            process.kill()

    return end
