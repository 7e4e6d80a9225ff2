"""`rltraderd`: read the command line, check everything, then run. A refusal is one clear text and exit code 2.

Exit codes: 0 done or stopped cleanly, 1 the journal failed or a step raised (systemd restarts), 2 refused for a mistake
of the operator.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from daemon.cli.start.exits import TROUBLE, refuse
from daemon.config.load import DEFAULT_CONFIG, ConfigError, Credentials, DeskSettings, credentials, load, no_keys
from daemon.config.strategy import strategy_of
from daemon.engine.state_dir import enter
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass
from daemon.host.version import CommandLine, add_version
from daemon.models.shipped import to_read
from daemon.operator.log import Log
from daemon.tapes import bundled_tape
from daemon.tapes.minutes import TapeError
from daemon.tapes.span_options import QuoteChoice, add_span, chosen_bars
from rltrader import called


def parser() -> argparse.ArgumentParser:
    """Return the parser of rltraderd's command line."""
    line = CommandLine(
        prog=called("rltraderd"),
        description="Trade a policy at a broker. With --dry-run: on the live feed without sending an order, or over "
        "recorded bars (with --bars, or without keys).",
        epilog="Keys: APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment. Exit codes: 0 done or stopped, "
        "1 start it again, 2 mend what is named first.",
    )
    add_version(line)
    line.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: ./config.toml where it is)")
    line.add_argument("--dry-run", action="store_true", help="do everything but send orders: a paper broker fills them")
    line.add_argument(
        "--bars", type=Path, metavar="FILE", help="replay this tape (CSV, CSV.gz, Parquet), or folder; needs --dry-run"
    )
    line.add_argument("--symbols", metavar="A,B,…", help="whose bars of the folder (the strategy's)")
    add_span(line)
    line.add_argument(
        "--option-quotes", type=Path, metavar="FILE", help="fill option orders at these recorded quotes; needs --bars"
    )
    line.add_argument("--option-root", default="", metavar="ROOT", help="of the contracts (default: the underlying)")
    line.add_argument(
        "--closes", type=Path, metavar="FILE", help="bars for the volatility where the tape is short; with those quotes"
    )
    line.add_argument(
        "--speed", default="max", metavar="max|N", help="replay as fast as possible (max), or N times real time"
    )
    line.add_argument("--state-dir", type=_folder, metavar="DIR", help="folder of the journal (paths.state_dir)")
    line.add_argument("--models-dir", type=_folder, metavar="DIR", help="model store (paths.models_dir)")
    line.add_argument("--strategy", metavar="NAME", help="the strategy (desk.strategy), or your file: path/to/file.py")
    line.add_argument(
        "--check",
        action="store_true",
        help="check configuration, model, state directory, host and account; run nothing",
    )
    return line


def _folder(text: str) -> Path:
    if not text:  # an unset shell variable: Path("") would be the working directory
        raise argparse.ArgumentTypeError("is empty; expected a folder: name one")
    return Path(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltraderd`; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        settings = _settings(options) if options.check or options.dry_run else _settings_to_trade(options)
        speed = _speed(options.speed)
        keys = credentials()
        tape = _tape(options, settings, keys)
        chosen = _quotes(options)
        if tape is None:
            _known_broker(settings)
        enter(settings.paths.state_dir)
    except MayPass as error:
        Log()("start_failed", problem=str(error))
        return TROUBLE
    except (ConfigError, TapeError, StateDirError) as error:
        return _refuse(options, Log(), str(error))
    if tape is not None:
        if options.check:
            from daemon.cli.start.replay_check import check

            return check(settings, tape, chosen)
        from daemon.cli.start.replay import run

        return run(settings, tape, speed, chosen)
    if options.check:
        from daemon.cli.start.doctor import examine

        return examine(settings, keys, dry_run=options.dry_run)
    from daemon.cli.start import live

    return live.run(settings, keys, dry_run=options.dry_run, on_refusal=partial(_refuse, options))


def _known_broker(settings: DeskSettings) -> None:
    """Raise ConfigError for a broker that is not in the registry; a replay never imports it."""
    from daemon.brokers.registry import broker_of

    broker_of(settings)


def _sources(options: argparse.Namespace) -> tuple[Path | None, dict[str, object]]:
    """Return the configuration's file or None, and the keys of the command line."""
    config = options.config
    if config is None and DEFAULT_CONFIG.is_file():
        config = DEFAULT_CONFIG
    return config, {
        "paths.state_dir": options.state_dir,
        "paths.models_dir": options.models_dir,
        "desk.strategy": options.strategy,
    }


def _settings_to_trade(options: argparse.Namespace) -> DeskSettings:
    """Load the settings. If they have mistakes, a desk with holdings runs on for its exits.

    Raises ConfigError if it holds nothing, MayPass if it cannot run now.
    """
    from daemon.app.live.model_choice import check_still_held
    from daemon.app.live.settings_choice import watch_own_code

    watch_own_code(*_sources(options))
    try:
        settings = _settings(options)
        check_still_held(settings)
    except ConfigError as refusal:
        from daemon.app.live.settings_choice import NotWhole, settings_of_a_held_desk, tell_not_started

        config, overrides = _sources(options)
        try:
            settings, mistakes = settings_of_a_held_desk(config, overrides, refusal)
        except NotWhole as error:
            tell_not_started(config, error, Log())
            raise
        return settings.in_place_of(mistakes)
    return settings


def _refuse(options: argparse.Namespace, log: Log, problem: str) -> int:
    """Refuse a start and notify the operator; a desk with holdings is started again."""
    if options.check or options.dry_run:
        return refuse(log, problem)
    from daemon.app.live.settings_choice import refused_unread, refused_while_held, tell_not_started

    config, overrides = _sources(options)
    try:
        holder_refusal = refused_while_held(config, overrides, problem)
    except MayPass as error:
        log("start_failed", problem=f"{problem}; {error}")
        return TROUBLE
    if holder_refusal is None:
        if (unread := refused_unread(config, overrides, problem)) is not None:
            tell_not_started(config, unread, log)
        return refuse(log, problem)
    tell_not_started(config, holder_refusal, log)
    log("start_failed", problem=str(holder_refusal))
    return TROUBLE


def _settings(options: argparse.Namespace) -> DeskSettings:
    config, overrides = _sources(options)
    settings = load(config, overrides)
    store = to_read(settings.paths.models_dir) if options.dry_run else settings.paths.models_dir
    return settings if store == settings.paths.models_dir else load(config, {**overrides, "paths.models_dir": store})


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


def _quotes(options: argparse.Namespace) -> QuoteChoice | None:
    """Return the recorded option quotes for the replay, or None."""
    if options.option_quotes is None:
        if options.closes is not None or options.option_root:
            raise ConfigError("--closes and --option-root belong to --option-quotes FILE: add it, or leave them out")
        return None
    if options.bars is None:
        raise ConfigError(f"--option-quotes {options.option_quotes} needs --bars: the bars of the same sessions")
    return QuoteChoice(options.option_quotes, options.option_root, options.closes)


def _tape(options: argparse.Namespace, settings: DeskSettings, keys: Credentials) -> Path | None:
    """Return the tape to replay, or None for a live desk. Without --dry-run nothing is simulated."""
    if not options.dry_run:
        if options.bars is not None or options.first_date:
            option_text = f"--bars {options.bars}" if options.bars is not None else f"--from {options.first_date}"
            raise ConfigError(f"{option_text} needs --dry-run: a tape is never traded with a real broker")
        if not keys.complete:
            raise ConfigError(f"{no_keys(keys)}; at the simulator read the file that its --env wrote; or add --dry-run")
        return None
    if options.symbols and not options.first_date:
        raise ConfigError(f"--symbols {options.symbols} goes with --from and --to: it names bars of a folder")
    symbols = tuple(options.symbols.split(",")) if options.symbols else ()
    chosen = chosen_bars(options, options.bars, strategy_of(settings).spec, symbols)
    if chosen is not None:
        return chosen
    if keys.complete:
        return None
    return bundled_tape(strategy_of(settings).spec)
