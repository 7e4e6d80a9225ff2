"""`rltraderd`: reads the command line, checks everything, then runs. Refusals are one clear text and exit code 2.

Exit codes: 0 done or stopped cleanly, 1 the journal failed or a step raised (systemd restarts), 2 the operator erred.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import resource
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.config.limits_shown import in_force
from daemon.config.load import DEFAULT_CONFIG, EXIT_CODE, ConfigError, Credentials, Settings, credentials, load
from daemon.core.state import State
from daemon.engine.state_dir import check_identity, enter, locked_by, peek
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass
from daemon.host.time.calendar import CalendarError
from daemon.journal.rows import JournalError, WriteFailed
from daemon.models.store import ModelError
from daemon.operator.log import Log
from daemon.operator.log_stream import LossyStream
from daemon.tapes import bundled
from daemon.tapes.minutes import TapeError
from strategies.registry import strategy as strategy_named

TROUBLE = 1
MEND = "what was committed is intact; make room or mend the disk, then start again"
REFUSALS = (ConfigError, TapeError, CalendarError, ModelError, StateDirError, JournalError)


def parser() -> argparse.ArgumentParser:
    """The command line of rltraderd."""
    line = argparse.ArgumentParser(
        prog="rltraderd",
        description="Trade a policy at a broker. With --dry-run: on the live feed without sending an order, or over "
        "recorded bars (with --bars, or without keys).",
        epilog="Keys: APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment. Exit codes: 0 done or stopped, "
        "1 start it again, 2 mend what is named first.",
    )
    line.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: ./config.toml where it is)")
    line.add_argument("--dry-run", action="store_true", help="do everything but send orders: a paper broker fills them")
    line.add_argument(
        "--bars", type=Path, metavar="FILE", help="replay this tape (CSV, CSV.gz, Parquet); needs --dry-run"
    )
    line.add_argument(
        "--speed", default="max", metavar="max|N", help="replay as fast as possible (max), or N times real time"
    )
    line.add_argument("--state-dir", type=_folder, metavar="DIR", help="folder of the journal (paths.state_dir)")
    line.add_argument("--strategy", metavar="NAME", help="the strategy (desk.strategy)")
    line.add_argument(
        "--check",
        action="store_true",
        help="check configuration, model, state directory, host and account; run nothing",
    )
    return line


def _folder(text: str) -> Path:
    if not text:  # an unset variable of a shell: Path("") would be the working directory
        raise argparse.ArgumentTypeError("is empty; expected a folder: name one")
    return Path(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltraderd`; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        settings = _settings(options)
        speed = _speed(options.speed)
        keys = credentials()
        tape = _tape(options, settings, keys)
        if tape is None:
            _known_broker(settings)
        enter(settings.paths.state_dir)
    except (ConfigError, TapeError, StateDirError) as error:
        return _refuse(Log(), str(error))
    if tape is not None:
        return _check(settings, tape) if options.check else _run(settings, tape, speed)
    if options.check:
        from daemon.cli.doctor import examine

        return examine(settings, keys, dry_run=options.dry_run)
    return _run_live(settings, keys, dry_run=options.dry_run)


def _known_broker(settings: Settings) -> None:
    """Raise ConfigError for a broker that is not in the registry, which a replay never imports."""
    from daemon.brokers.registry import broker_of

    broker_of(settings)


def _settings(options: argparse.Namespace) -> Settings:
    config = options.config
    if config is None and DEFAULT_CONFIG.is_file():
        config = DEFAULT_CONFIG
    return load(config, {"paths.state_dir": options.state_dir, "desk.strategy": options.strategy})


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not (math.isfinite(speed) and speed > 0):
        raise ConfigError(f"--speed is {text!r}: expected max, or a number above 0 such as 60 (times real time)")
    return speed


def _tape(options: argparse.Namespace, settings: Settings, keys: Credentials) -> Path | None:
    """The tape to replay; None for a live desk. Never a silent simulation: without --dry-run there is none."""
    if not options.dry_run:
        if options.bars is not None:
            raise ConfigError(f"--bars {options.bars} needs --dry-run: a tape is never traded with a real broker")
        if not keys.complete:
            raise ConfigError(
                "no broker keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment (or as systemd "
                "credentials), or add --dry-run"
            )
        return None
    if options.bars is not None:
        return Path(options.bars)
    if keys.complete:
        return None
    return bundled(strategy_named(settings.desk.strategy).spec)


def _run_live(settings: Settings, keys: Credentials, *, dry_run: bool) -> int:
    import uvloop

    from daemon.app.live import prepare_live, run_live
    from daemon.engine.engine import StepFailed
    from daemon.engine.intake import IntakeFull
    from daemon.host.time.virtual_time import VirtualLoop

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys in memory never reach a file
    stream = LossyStream(sys.stderr)  # a reader who stalls stalls no trading
    log = Log(settings.log.level, settings.log.format, stream)
    try:
        live = prepare_live(settings, keys, dry_run=dry_run)
        joined = live.clock.participant
        with asyncio.Runner(loop_factory=partial(VirtualLoop, joined) if joined else uvloop.new_event_loop) as runner:
            stopped_by = runner.run(run_live(live, log))
    except MayPass as error:
        return _later(log, error)
    except REFUSALS as error:
        return _refuse(log, str(error))
    except WriteFailed as error:
        log("journal_failed", problem=f"{error}; {MEND}")
        return TROUBLE
    except (StepFailed, IntakeFull) as error:
        log("step_failed", problem=str(error))
        return TROUBLE
    finally:
        stream.finish()
    return TROUBLE if stopped_by == "disk_full" else 0


def _run(settings: Settings, tape: Path, speed: float | None) -> int:
    import uvloop

    from daemon.app.wiring import prepare_replay, run_replay
    from daemon.engine.engine import StepFailed
    from daemon.operator.summary import show

    screen = Console(stderr=True)
    with _progress(screen) as bar:  # the log is made while the bar owns standard error: its lines stand above the bar
        log = Log(settings.log.level if not screen.is_terminal else _quieter(settings.log.level), settings.log.format)
        try:
            replay = prepare_replay(settings, tape)
            task = bar.add_task(escape(replay.tape.name), total=replay.bars, equity="")

            def shown(state: State[object]) -> None:
                bar.update(
                    task, completed=state.stats.bars + state.stats.bars_rejected, equity=f"{state.book.equity:,.2f} USD"
                )

            summary, curve = uvloop.run(run_replay(replay, log, speed, shown if screen.is_terminal else None))
            bar.refresh()  # a short run ends before the bar is drawn by its own thread
            bar.remove_task(task)
            if not summary.bars + summary.bars_rejected:
                log("no_bars", tape=summary.tape, cure="pass bars labelled by their start, with the right zone")
        except MayPass as error:
            return _later(log, error)
        except REFUSALS as error:
            return _refuse(log, str(error))
        except WriteFailed as error:
            log("journal_failed", problem=f"{error}; {MEND}")
            return TROUBLE
        except StepFailed as error:
            log("step_failed", problem=str(error))
            return TROUBLE
    screen = Console()
    if screen.is_terminal:
        show(screen, summary, curve)
    try:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more; the journal has it all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return TROUBLE if summary.stopped_by == "disk_full" else 0


def _quieter(level: str) -> str:
    """On a terminal the progress bar tells the story: the log keeps to warnings unless debug was asked for."""
    return level if level == "debug" else max(level, "warning", key=("info", "warning", "error").index)


def _progress(screen: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("bars"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[equity]}"),
    )
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)


def _check(settings: Settings, tape: Path) -> int:
    """Check configuration, tape, model and state directory; print what would run."""
    from daemon.app.wiring import prepare_replay

    try:
        replay = prepare_replay(settings, tape)
        _check_folder(settings.paths.state_dir)
        meta = peek(settings.paths.state_dir)
        if meta is not None:
            check_identity(settings.paths.state_dir, meta, replay.meta())
        holder = locked_by(settings.paths.state_dir)
        if holder:
            raise StateDirError(f"{settings.paths.state_dir}: in use by process {holder}; stop it or choose another")
    except REFUSALS as error:
        return _refuse(Log(), str(error))
    told = {
        "configuration": "ok",
        "desk": settings.desk.name,
        "mode": "replay (dry run)",
        "strategy": replay.strategy.spec.name,
        "tape": f"{replay.tape.name}, {replay.info.rows} rows, {replay.info.first_date} to {replay.info.last_date}",
        "synthetic": bool(replay.info.synthetic),
        "model": f"{replay.model.version} on {replay.policy.provider}, verified, "
        + ("promoted" if replay.model.manifest.promoted else "not promoted: allowed in a dry run only"),
        "state_dir": f"{settings.paths.state_dir}: " + ("resumes" if meta else "new"),
        "limits": in_force(settings),
    }
    width = max(map(len, told))
    for key, value in told.items():
        sys.stdout.write(f"{key:<{width}}  {value}\n")
    sys.stdout.write(json.dumps({"check": "ok"}) + "\n")
    return 0


def _check_folder(path: Path) -> None:
    """Raise StateDirError when the daemon could neither use nor make `path`. Writes nothing."""
    try:
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise StateDirError(f"{path}: cannot be a state directory: {error.strerror}; choose another") from error
    if not there.is_dir():
        raise StateDirError(f"{path}: cannot be a state directory: {there} is no folder; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StateDirError(f"{path}: cannot be a state directory: {there} is not writable; check its owner and mode")


def _later(log: Log, problem: MayPass) -> int:
    """What may pass by itself: systemd starts the daemon again."""
    log("start_failed", problem=str(problem))
    return TROUBLE


def _refuse(log: Log, problem: str) -> int:
    for line in problem.splitlines():
        log("refused", problem=line)
    return EXIT_CODE
