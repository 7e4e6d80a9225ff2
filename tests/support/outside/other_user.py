"""Processes of another user who looks at a desk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.core.state import digest
from daemon.dashboard.desks import FollowedDesk

STRANGER, GROUP = 64_901, 64_902


def as_stranger(look: Callable[[], Any]) -> Any:
    """What `look` returns (JSON) when a member of GROUP without any other right runs it."""
    into, out = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([GROUP])
            os.setresgid(GROUP, GROUP, GROUP)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            os.write(out, json.dumps(look()).encode())
            os._exit(0)
        finally:  # whatever was raised: a fork never goes on with the tests
            os.write(out, json.dumps(repr(sys.exc_info()[1])).encode())
            os._exit(1)
    os.close(out)
    with os.fdopen(into, "rb") as pipe:
        answer = json.loads(pipe.read())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, answer
    return answer


def looked(path: Path) -> Callable[[], dict[str, Any]]:
    """A look at the desk, as the dashboard takes it."""
    desk = FollowedDesk("desk", path)

    def look() -> dict[str, Any]:
        picture = desk.look()
        state = picture.state
        seen = {"problem": picture.problem, "digest": digest(state) if state is not None else ""}
        with desk.reader() as reader:
            return {**seen, "decisions": reader.query("SELECT count(*) FROM decisions")[0][0], "uid": os.getuid()}

    return look
