"""What must not change when code only moves: `python -m tests.support.oracle FOLDER [STRATEGY …]` writes it as files.

For each strategy a dry run of its bundled tape by its newest learned version (events, state digest, trades, status,
figures), and a small training, run once whole and once killed and taken up again (report, study and ledger).
Run it before and after a change, then `diff -r BEFORE AFTER`; times, paths and the digest of the code are left out.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from daemon.engine.recover import code_digest
from tests.support.paths import REPOSITORY
from tests.support.training.made_up_days import days, write_days

DAILY = "daemon/tapes/daily_synthetic_500.csv.gz"
MINUTES = "daemon/tapes/spy_synthetic_30.csv.gz"
TAPES = {
    "option_scalper": MINUTES,
    "daily_rebalancer": DAILY,
    "regime_switcher": DAILY,
    "forecast_ensemble": DAILY,
    "online_dqn": MINUTES,
}
MADE_UP = ("AAA", "BBB", "CCC")
"""Symbols of the made-up days of a forecaster's training, which needs more years than the tape has."""
TRAINING = {
    "option_scalper": ("--steps", "20000"),
    "daily_rebalancer": ("--steps", "16384"),
    "regime_switcher": ("--steps", "16384"),
    "forecast_ensemble": ("--preset", "smoke", "--symbols", ",".join(MADE_UP)),
    "online_dqn": ("--preset", "smoke"),
}
CHANGING = re.compile(
    r"seconds|_s$|_us_|per_s|utc|code_version|code$|version$|code_sha|exported_at|started|hardware|cpu|decision_ms"
)
READERS = (
    ("verify",),
    ("status", "--json"),
    ("trades", "--csv"),
    ("trades", "--json"),
    ("report", "--range", "ALL", "--json"),
)
KILLED_AFTER_S = 6.0
"""Of a training that is taken up again; its results are the same wherever it was killed."""


def main() -> None:
    """Write the files of the strategies named, or of all five."""
    folder, *names = sys.argv[1:]
    for name in names or TAPES:
        out = Path(folder) / name
        out.mkdir(parents=True, exist_ok=True)
        _replay(name, out)
        _train(name, out)
        print(name, flush=True)


def _replay(name: str, out: Path) -> None:
    version = _run("daemon.models", name).split()[0]
    with tempfile.TemporaryDirectory(prefix="rltrader-oracle.") as temporary:
        state = Path(temporary) / "state"
        words = ("--dry-run", "--strategy", name, "--bars", TAPES[name], "--state-dir", str(state))
        summary = json.loads(_run("daemon", *words, RLTRADER_POLICY__VERSION=version))
        _write(out / "summary.json", summary)
        for command in READERS:
            output = _run("daemon.cli.ctl", *command, "--state-dir", str(state)).replace(temporary, "FOLDER")
            (out / f"{'_'.join(command)}.txt").write_text(output)
        events = _run("daemon.cli.ctl", "events", "--json", "--limit", "100000000", "--state-dir", str(state))
        same = events.replace(code_digest(), "CODE").replace(temporary, "FOLDER")
        (out / "events.txt").write_text(f"{same.count(chr(10))} events, SHA-256 {sha256(same.encode()).hexdigest()}\n")


def _train(name: str, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="rltrader-oracle.") as temporary:
        bars = TAPES[name]
        if name == "forecast_ensemble":
            bars = str(write_days(Path(temporary) / "days.csv", MADE_UP, days("2016-06-01", "2022-07-15")))
        for way in ("whole", "resumed"):
            store, runs = Path(temporary) / way / "store", Path(temporary) / way / "run"
            words = ["training", "--strategy", name, "--bars", bars, "--models-dir", str(store)]
            words += ["--run-dir", str(runs), *TRAINING[name], "--allow-unproven", "--checkpoint-s", "0.2"]
            if way == "resumed":
                began = subprocess.Popen(
                    _command(*words), cwd=REPOSITORY, stdout=subprocess.DEVNULL, env=_environment()
                )
                time.sleep(KILLED_AFTER_S)
                began.send_signal(signal.SIGINT)
                began.wait()
            _run(*words)
            _write(out / f"report_{way}.json", json.loads(next(store.glob("*/*/report.json")).read_text()))
            lines = [json.loads(line) for line in next(store.glob("*/ledger.jsonl")).read_text().splitlines()]
            _write(out / f"ledger_{way}.json", lines)
            for file in sorted(runs.rglob("*.json")):
                if file.name.startswith("study"):
                    _write(out / f"{file.stem}_{way}.json", json.loads(file.read_text()))
            manifest = json.loads(next(store.glob("*/*/manifest.json")).read_text())
            _write(out / f"manifest_{way}.json", manifest)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(_constant(content), indent=1, sort_keys=True) + "\n")


def _constant(content: object) -> object:
    """Leave out what the clock, the machine and the digest of the code say."""
    if isinstance(content, dict):
        return {key: _constant(value) for key, value in content.items() if not CHANGING.search(key)}
    return [_constant(value) for value in content] if isinstance(content, list) else content


def _environment(**extra: str) -> dict[str, str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("RLTRADER_", "APCA_"))}
    return {**variables, "OMP_NUM_THREADS": "1", **extra}


def _command(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", module, *words]


def _run(module: str, *words: str, **extra: str) -> str:
    done = subprocess.run(
        _command(module, *words), cwd=REPOSITORY, env=_environment(**extra), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(words)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
