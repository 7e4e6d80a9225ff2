"""The README's way without an account: the loopback Alpaca by hand in one process, rltraderd in another."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.paths import FIXTURE_MODELS, REPOSITORY

SCRIPT = """
set -e
. "$1/loopback.env"
export RLTRADER_PATHS__MODELS_DIR="$2"
exec "$3/rltraderd" --state-dir "$1/loop" 2> "$1/log"
"""


def test_the_server_by_hand_serves_a_daemon_that_is_started_with_its_environment(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    server = [sys.executable, "-m", "simulator", "--speed", "300", "--env", str(tmp_path / "loopback.env")]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert "rltraderd --state-dir" in process.stdout.readline()
        daemon = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "sh", str(tmp_path), str(FIXTURE_MODELS), str(programs)], cwd=tmp_path
        )
        lines: list[str] = []
        while sum(" order fill:" in line for line in lines) < 2:
            line = process.stdout.readline()
            assert line, "the server ended before two orders were filled: " + "".join(lines[-20:])
            lines.append(line)
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(300) == 0
        process.send_signal(signal.SIGTERM)
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert entries[0]["event"] == "run_started"
    assert entries[-1]["stopped_by"] == "SIGINT"
    proof = [str(programs / "rltraderctl"), "verify", "--state-dir", str(tmp_path / "loop")]
    assert subprocess.run(proof, capture_output=True, text=True, check=True).stdout.startswith("identical")
