"""How fast a replay runs, where the time goes, how much memory it holds: `make bench`.

The reference is the floor of the same work in the same run: the same ONNX answers and the same journal rows written by
the same statements, with nothing else around them. Figures hold for the machine that printed them.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.tapes import recorded_minutes, synthetic_minutes
from daemon.app.replay import run_replay
from daemon.app.replay_start import TapeReplay, prepare_replay
from daemon.config.load import load
from daemon.core.effects import AskPolicy
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from daemon.models.__main__ import version_words
from daemon.operator.log import Log

VERSION = "RLTRADER_POLICY__VERSION"
MEMORY_BARS = 200_000
REPOSITORY = Path(__file__).parents[1]
FIXTURE = REPOSITORY / "tests" / "fixture_policy" / "onnx_models"
FREE_TRADING = {  # the fixture policy trades all day: nothing but money and sense stops it
    "risk.cooldown_trade_s": 0,
    "risk.cooldown_loss_s": 0,
    "risk.consecutive_losses_max": 1_000_000,
    "risk.daily_loss_max": 1.0,
    "risk.drawdown_max": 1.0,
    "paper.cash_usd": 100_000,
    "paper.contracts_per_minute": 4,  # orders of ten fill in parts
}


def settings_overrides(state_dir: Path) -> dict[str, object]:
    """The configuration of every benchmark run: defaults, the fixture policy, quiet logs."""
    return {**FREE_TRADING, "paths.state_dir": state_dir, "paths.models_dir": FIXTURE, "log.level": "error"}


class Stages:
    """Seconds spent in named calls, own time only: an inner stage's time is not counted for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, measured."""
        seconds, inner = self.seconds, self._inner
        seconds[name] = 0.0

        def measured(*arguments: Any, **keywords: Any) -> Any:
            inner.append(0.0)
            began = time.perf_counter()
            try:
                return call(*arguments, **keywords)
            finally:
                took = time.perf_counter() - began
                seconds[name] += took - inner.pop()
                inner[-1] += took

        return measured


def replay_of(tape: Path, state_dir: Path) -> TapeReplay:
    """The tape wired as the daemon wires it."""
    return prepare_replay(load(None, settings_overrides(state_dir)), tape)


def throughput(tape: Path) -> dict[str, Any]:
    """Undisturbed runs through the daemon's own process, as a user starts it: the fixture policy, the shipped one."""
    with tempfile.TemporaryDirectory() as folder:
        summary = run_daemon(tape, Path(folder) / "state", environment())
        shipped = run_daemon(tape, Path(folder) / "shipped", environment(shipped=True))
        keys = ("bars", "decisions", "orders", "fills", "partial_fills", "journal_events", "wall_s", "bars_per_s")
        latency = ("decision_us_p50", "decision_us_p99", "decision_us_p999")
        figures = {key: summary[key] for key in (*keys, *latency)}
        figures["bars_per_s_shipped_policy"] = shipped["bars_per_s"]
        return {**figures, **_floor(tape, Path(folder) / "state", summary)}


def run_daemon(tape: Path, state_dir: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Play the tape by a process of its own; its summary. Raises RuntimeError where it fails."""
    command = [sys.executable, "-m", "daemon", "--dry-run", "--bars", str(tape), "--state-dir", str(state_dir)]
    process = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"rltraderd ended with {process.returncode}: {process.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return summary


def environment(*, shipped: bool = False, level: str = "error") -> dict[str, str]:
    """Variables of a daemon process: the fixture policy trading freely, or the shipped one under the defaults."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start compiles the project anew, which no user's does
    variables["RLTRADER_LOG__LEVEL"] = level
    if shipped:
        return variables | {VERSION: trading_version()}
    settings = {f"RLTRADER_{key.upper().replace('.', '__')}": str(value) for key, value in FREE_TRADING.items()}
    return {**variables, **settings, "RLTRADER_PATHS__MODELS_DIR": str(FIXTURE)}


def trading_version() -> str:
    """The shipped version that `make demo` shows: the active one may hold nothing."""
    return version_words(REPOSITORY / "onnx_models", "option_scalper").split()[0]


def _floor(tape: Path, state_dir: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The same answers and rows without a desk: bars/s that no engine on these libraries can pass."""
    replay = replay_of(tape, state_dir)
    entries = list(JournalReader(state_dir / FILE).entries())
    observation = next(iter(_golden(replay)))
    question = AskPolicy(0, 0, observation)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.create(Path(folder) / "floor.sqlite", {})
        began = time.perf_counter()
        for _ in range(summary["decisions"]):
            replay.policy.answer(question, 0)
        size = 512
        for at in range(0, len(entries), size):
            batch = CommitBatch()
            batch.entries = entries[at : at + size]
            journal.commit(batch)
        seconds = time.perf_counter() - began
        journal.close()
    floor = summary["bars"] / seconds
    return {"floor_bars_per_s": round(floor, 1), "share_of_floor": round(summary["bars_per_s"] / floor, 3)}


def _golden(replay: TapeReplay) -> tuple[Any, ...]:
    from strategies.golden import golden_observations

    return golden_observations(replay.strategy)


def stages(tape: Path) -> dict[str, Any]:
    """Microseconds a bar by stage, each its own time, measured inside one run (the clock's own cost included)."""
    from daemon.core.paper.paper import PaperBroker
    from daemon.core.step import Core, Machine
    from daemon.journal.rows import HashChain
    from daemon.models.runtime import OnnxPolicy
    from strategies.option_scalper import OptionScalper

    watch = Stages()
    patched: list[tuple[type, str, str]] = [
        (OptionScalper, "observe", "features"),
        (OnnxPolicy, "answer", "policy"),
        (PaperBroker, "step", "paper_market"),
        (Core, "step", "step"),
        (Machine, "apply", "machine"),
        (HashChain, "entry", "journal"),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for owner, name, stage in patched:
                setattr(owner, name, watch.timed(stage, getattr(owner, name)))
            began = time.perf_counter()
            summary, _ = asyncio.run(run_replay(replay_of(tape, Path(folder) / "state"), Log("error"), None))
            total = time.perf_counter() - began
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
    by_stage = {name: round(seconds / summary.bars * 1e6, 2) for name, seconds in watch.seconds.items()}
    remaining = (total - sum(watch.seconds.values())) / summary.bars * 1e6
    return {"us_per_bar": {**by_stage, "engine_and_feed": round(remaining, 2)}}


def memory() -> dict[str, Any]:
    """Resident memory of the daemon's own process along a tape of 200,000 synthetic bars, seen from outside."""
    with tempfile.TemporaryDirectory() as folder:
        tape = synthetic_minutes(Path(folder) / "long.parquet", MEMORY_BARS)
        command = [sys.executable, "-m", "daemon", "--dry-run", "--bars", str(tape)]
        process = subprocess.Popen(
            [*command, "--state-dir", str(Path(folder) / "state")],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        resident = [_resident_mb(process.pid)]
        while process.poll() is None:
            resident.append(_resident_mb(process.pid) or resident[-1])
            time.sleep(0.05)
        summary = json.loads(process.communicate()[0].splitlines()[-1])
    half, end = statistics.median(resident[len(resident) // 2 :][:20]), statistics.median(resident[-20:])
    return {
        "memory_bars": summary["bars"],
        "resident_mb_at_half": round(half, 1),
        "resident_mb_at_end": round(end, 1),
        "resident_mb_peak": round(max(resident), 1),
        "memory_growth_second_half": round(end / half - 1, 4),
    }


def _resident_mb(process: int) -> float:
    """0 when the process has just ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    except (FileNotFoundError, IndexError, ProcessLookupError):
        return 0.0


def machine() -> dict[str, Any]:
    """How fast this machine is right now: milliseconds of a million additions in plain Python, the best of five.

    Shared machines differ by a factor of two within an hour; compare figures only where this one is alike.
    """
    took = []
    for _ in range(5):
        began, total = time.perf_counter(), 0
        for number in range(1_000_000):
            total += number
        took.append(time.perf_counter() - began)
    return {"cores": os.cpu_count(), "million_additions_ms": round(min(took) * 1e3, 1)}


def main() -> None:
    """Print all figures as one JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        tape, kind = recorded_minutes() or synthetic_minutes(Path(folder) / "tape.parquet", 75_000), "synthetic"
        if tape.parent != Path(folder):
            kind = "recorded"
        figures = {"bench": "replay", "tape": tape.name, "bars_are": kind, **machine()}
        figures.update(throughput(tape), **stages(tape))
        figures.update(memory())
    sys.stdout.write(json.dumps(figures) + "\n")
    missing = [name for name in ("orders", "partial_fills") if not figures[name]]
    if missing:
        sys.exit(f"bench: the run proves nothing: no {', no '.join(missing)}")


if __name__ == "__main__":
    main()
