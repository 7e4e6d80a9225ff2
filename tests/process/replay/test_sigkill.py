"""Real kills: `rltraderd` is killed with SIGKILL at random moments, fifty times, and started again on what it left.

In the end digest, orders, fills and chained events are those of a run that nobody disturbed. The seed of the moments
is printed; kills count only when they ended a run that had begun and had not finished.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.desks.desk_run import (
    chained,
    environment,
    read_models,
    rltraderd,
    summary_of,
    table,
    tape_rows,
    verified,
    write_tape,
)
from tests.support.desks.warm import Command

KILLS = 50
LANES = 2
SHORTEST_S, LONGEST_S = 0.02, 0.35  # after the desk took over; a whole run takes about two seconds
SEED = 20261120


@dataclass(slots=True)
class RequestQueue:
    """State directories of one lane, one after another: each is killed and resumed until its tape is at its end."""

    folder: Path
    kills: int = 0
    early: int = 0  # kills before the desk had taken over
    ends: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)


def run_once(tape: Path, state_dir: Path, env: Mapping[str, str], delay_s: float | None, *, early: bool) -> str:
    """One start. It is killed `delay_s` after it took over (`early`: after it was started); returns its last line."""
    process = Command("daemon", ["--dry-run", "--bars", str(tape), "--state-dir", str(state_dir)], tape.parent, env)
    out: list[str] = []
    stdout, stderr = process.stdout, process.stderr
    reader = threading.Thread(target=lambda: out.extend(stdout.readlines()))
    reader.start()
    if early and delay_s is not None:
        time.sleep(delay_s)
        process.kill()
    else:
        for line in stderr:
            if json.loads(line)["event"] == "run_started":
                break
        drain = threading.Thread(target=lambda: [None for _ in stderr])
        drain.start()
        if delay_s is not None:
            time.sleep(delay_s)
            process.kill()
        drain.join()
    reader.join()
    code = process.wait()
    process.close()
    assert code in (0, -signal.SIGKILL), f"exit code {code}"
    return out[-1] if code == 0 else ""


def work(lane: RequestQueue, tape: Path, env: Mapping[str, str], draw: random.Random) -> RequestQueue:
    while lane.kills < KILLS // LANES:
        state_dir = lane.folder / f"state{len(lane.ends)}"
        last_line = ""
        while not last_line:
            early = draw.random() < 0.05
            enough = lane.kills >= KILLS // LANES
            delay_s = None if enough else draw.uniform(0 if early else SHORTEST_S, LONGEST_S)
            last_line = run_once(tape, state_dir, env, delay_s, early=early)
            if not last_line:
                lane.early += early
                lane.kills += not early
        lane.ends.append((state_dir, json.loads(last_line)))
    return lane


def test_fifty_kills_lose_no_fill_and_send_no_order_twice(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    tape = write_tape(tmp_path / "tape.csv", tape_rows(9, 390))
    env = environment(RLTRADER_JOURNAL__GROUP_EVENTS="16", RLTRADER_JOURNAL__SNAPSHOT_EVENTS="1000")
    undisturbed = tmp_path / "undisturbed"
    finished = rltraderd("--dry-run", "--bars", tape, "--state-dir", undisturbed, cwd=tmp_path, env=env)
    assert finished.returncode == 0, finished.stderr
    expected = summary_of(finished)
    assert expected["orders"] == len(table(undisturbed, "orders")) > 0
    assert expected["fills"] == len(table(undisturbed, "fills")) > 0
    assert expected["partial_fills"] > 0

    lanes = [RequestQueue(tmp_path / f"lane{number}") for number in range(LANES)]
    with ThreadPoolExecutor(LANES) as pool:
        runs = [pool.submit(work, lane, tape, env, random.Random(SEED + n)) for n, lane in enumerate(lanes)]
        kills = sum(run.result().kills for run in runs)
    ends = [end for lane in lanes for end in lane.ends]
    print(
        f"{kills} kills, {sum(lane.early for lane in lanes)} more before the desk took over, {len(ends)} journals; "
        f"{expected['orders']} orders, {expected['fills']} fills, {expected['partial_fills']} partial"
    )
    assert kills >= KILLS  # each was followed by a start on the same state directory
    journaled = 0
    for state_dir, summary in ends:
        for key in ("state_digest", "journal_events", "orders", "fills", "partial_fills", "decisions", "equity_usd"):
            assert summary[key] == expected[key], key
        assert read_models(state_dir) == read_models(undisturbed)
        assert chained(state_dir) == chained(undisturbed)
        report = verified(state_dir)
        assert report.difference == ""
        assert report.stepped == expected["journal_events"]
        journaled += sum(1 for row in table(state_dir, "events") if row[3] == "RunStarted") - 1
    print(f"{journaled} restarts came far enough to be journaled")
    assert journaled >= KILLS // 4
