"""`rltraderctl pause, resume, halt, close, flatten, reload, accept-broker, panic, …`: an operator's commands.

A running daemon gets the command over its control socket. For a stopped one the same event is journaled, and takes
effect at the next start. `panic` and `try-protection` need neither daemon nor journal.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from daemon.brokers.api import BrokerError, alone
from daemon.brokers.registry import broker_of, trial_of
from daemon.cli.arguments import NotFound, add_state_dir, lead_on
from daemon.config.checks import LIVE_HOST
from daemon.config.load import (
    DEFAULT_CONFIG,
    NO_STRATEGY,
    ConfigError,
    Credentials,
    DeskSettings,
    credentials,
    load,
    no_keys,
)
from daemon.core.limits import Trading
from daemon.engine.state_dir import locked_by, peek
from daemon.host.account_lock import AccountLock, Holder, lock_folder
from daemon.host.own_files import StateDirError, person
from daemon.host.passing import MayPass
from daemon.host.printable import printable, result_of
from daemon.host.time.clock import Clock
from daemon.journal.rows import JournalError, WriteFailed
from daemon.operator.commands import CLOSE, RESET_CLOCK, RESET_LIMITS, RESUME, Command, CommandError, event_of
from daemon.operator.control.client import CommandAnswer, CommandRequest, ControlError, ask
from daemon.operator.status import (
    DeskStatus,
    halts_in_words,
    holdings_in_words,
    needs_accepting,
    resume_words,
    status_of,
)


def broker_now_ns(settings: DeskSettings, keys: Credentials) -> int:
    """Return the broker's time, nanoseconds UTC. Raises NotFound if it does not answer."""
    return asyncio.run(_broker_time(settings, keys))


async def _broker_time(settings: DeskSettings, keys: Credentials) -> int:
    broker = broker_of(settings)
    connection = alone(broker, settings, keys, Clock.real())
    try:
        return (await connection.admin.clock()).now_ns
    except BrokerError as error:
        raise NotFound(
            f"the broker's clock at {broker.service(settings)} cannot be asked: {error}: nothing was changed; "
            f"try again when it answers"
        ) from None
    finally:
        await connection.close()


SENT_AS = {"reload": "reload-model"}
LINE_MOST = 300  # most characters of the listed differences, so that the next command stays visible below
ASKS = {"flatten": "FLATTEN", CLOSE: "CLOSE"}  # word to type as a confirmation
AT_START = "the daemon is stopped: what this asks for happens at its next start"
OF_A_TAPE = "this dry run is stopped: what this asks for happens if it goes on, never after its tape's end"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a journaled command."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument("--reason", required=True, help="why; it is journaled")
    command.add_argument("--who", default="", help="who asks for it (default: who used sudo, or this user); journaled")


def add_resume(command: argparse.ArgumentParser) -> None:
    """Add the options of `resume`."""
    add_options(command)
    command.add_argument(
        "--reset-limits",
        action="store_true",
        help="count daily loss and drawdown from the present equity on: after a halt for either, nothing else resumes",
    )
    help_text = "the desk's time of your look, as a refusal names it: what began until then ends, and nothing else"
    command.add_argument("--seen", default="", metavar="NS", help=help_text)


def add_flatten(command: argparse.ArgumentParser) -> None:
    """Add the options of `flatten`."""
    add_options(command)
    _add_yes(command)


def add_close(command: argparse.ArgumentParser) -> None:
    """Add the options of `close`."""
    command.add_argument("symbol", metavar="SYMBOL", help="a share, or the OCC symbol of a contract")
    command.add_argument("quantity", metavar="QUANTITY", nargs="?", default="", help="how much (default: all of it)")
    add_options(command)
    _add_yes(command)


def add_reset_clock(command: argparse.ArgumentParser) -> None:
    """Add the options of `reset-clock`."""
    add_options(command)
    _add_config(command)


def add_panic(command: argparse.ArgumentParser) -> None:
    """Add the options of `panic`."""
    command.set_defaults(run=panic)
    _add_config(command)
    desk = "the desk that stands down (default: paths.state_dir)"
    command.add_argument("--state-dir", type=Path, metavar="DIR", help=desk)
    _add_yes(command, "do not ask; needed where there is no terminal, as in a script")


def add_try_protection(command: argparse.ArgumentParser) -> None:
    """Add the options of `try-protection`."""
    command.set_defaults(run=try_protection)
    _add_config(command)
    command.add_argument("--symbol", default="SPY", help="the share, and the underlying of the contract (SPY)")
    _add_yes(command, "do not ask; needed where there is no terminal")


def _add_yes(command: argparse.ArgumentParser, text: str = "do not ask on a terminal") -> None:
    command.add_argument("--yes", action="store_true", help=text)


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration (default: ./config.toml where it is)"
    )


def _with_keys(options: argparse.Namespace, *, panics: bool = False) -> tuple[DeskSettings, Credentials]:
    """Load configuration and broker's keys. Raises ConfigError."""
    config = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    settings, keys = _for_a_panic(config) if panics else load(config, {}), credentials()
    if not keys.complete:
        raise ConfigError(no_keys(keys))
    return settings, keys


_WHOLE = ("desk", "paths", "alpaca", "clock")  # tables that must be valid: account, paths, desk
_RULES = tuple(name for name in Trading.__dataclass_fields__ if name in DeskSettings.model_fields)


def _for_a_panic(config: Path | None) -> DeskSettings:
    """Load the settings of a panic; imports no strategy, and reports other mistakes without stopping.

    A strategy's file that raises or hangs, or a faulty configuration, may be the reason for the panic. Raises
    ConfigError if the account or its address is uncertain.
    """
    try:
        return load(config, NO_STRATEGY, only=[name for name in DeskSettings.model_fields if name not in _RULES])
    except ConfigError as error:
        settings = load(config, NO_STRATEGY, only=_WHOLE)
        sys.stdout.write(printable(f"the configuration has mistakes, [{'], ['.join(_WHOLE)}] count: {error}") + "\n")
        return settings


def run(options: argparse.Namespace, console: Console) -> int:
    """Carry out a journaled command; returns 0, or 1 with a message if the desk refuses it.

    Raises NotFound, StateDirError, JournalError, ControlError.
    """
    name = options.command
    if not options.reason.strip():
        raise NotFound(f"--reason is empty: a {name} states why")
    holder = _running(options.state_dir)
    if name == "reload" and not holder:
        raise NotFound(
            f"{options.state_dir}: no daemon runs here, so there is nothing to reload: its next start reads the model "
            f"store anyway"
        )
    if name in ASKS and not options.yes and not confirmed(ASKS[name]):
        raise NotFound("nothing was touched")
    answer = _ask(options, holder) if holder else _offline(options)
    _lead_on(options, answer.status, running=bool(holder))
    with result_of(f"rltraderctl: the {name} (event {answer.seq:,})"):
        show(answer, console, "" if holder else OF_A_TAPE if _over_a_tape(answer.status) else AT_START)
    return 1 if answer.refused else 0


def _lead_on(options: argparse.Namespace, status: DeskStatus | None, *, running: bool) -> None:
    """Set the suggested next command from the desk's status."""
    if status is not None and needs_accepting(status):
        lead_on(options, "accept-broker", "--reason", "TEXT")
    elif status is not None and (status.halt or status.pause):
        lead_on(options, *resume_words(status.loss_to_reset), "--reason", "TEXT")
    elif running:
        lead_on(options, "status", "--watch")
    elif _over_a_tape(status):
        lead_on(options, "status")
    else:
        dry = ["--dry-run"] if status is not None and status.mode == "dry_run" else []
        lead_on(options, *dry, "--check", program="rltraderd")


def _over_a_tape(status: DeskStatus | None) -> bool:
    from daemon.app.replay_start import RECORDED_QUOTES, REPLAY

    return status is not None and status.mode in (REPLAY, RECORDED_QUOTES)


def panic(options: argparse.Namespace, _console: Console) -> int:
    """Flatten the account without daemon or journal; returns the code of `rescue`. Raises ConfigError, NotFound."""
    settings, keys = _with_keys(options, panics=True)
    from daemon.app.offline.rescue import print_line, rescue
    from daemon.brokers.registry import broker_of

    print_line(f"the {settings.desk.account} account at {broker_of(settings).service(settings)}: cancel all, close all")
    if not options.yes and not has_terminal() and not started_by_systemd():
        command_again = shlex.join(["rltraderctl", "panic", "--yes", *_places(options)])
        raise NotFound(
            f"nothing was touched: there is no terminal to confirm this on, so --yes has to: {command_again}"
        )
    if not options.yes and not confirmed("PANIC"):
        raise NotFound("nothing was touched")
    return rescue(settings, keys, options.state_dir or settings.paths.state_dir)


def try_protection(options: argparse.Namespace, _console: Console) -> int:
    """Try resting stops at a paper account; returns 0 if it is flat afterwards. Raises ConfigError, NotFound."""
    settings, keys = _with_keys(options)
    service = broker_of(settings).service(settings)
    if settings.desk.account == "live" or urlsplit(service).hostname == LIVE_HOST:
        raise NotFound(f"desk.account is {settings.desk.account!r} at {service}: this buys and sells, on paper alone")
    attempt = trial_of(settings)
    if not options.yes and not (has_terminal() and confirmed("TRY")):
        raise NotFound("nothing was sent: it buys one share and one contract on the paper account, --yes starts it")
    lock = AccountLock(lock_folder(), Holder("try-protection", "", os.getpid(), streams=False), service)
    lock.claim_key(keys.key)
    try:
        return asyncio.run(attempt(settings, keys, options.symbol, print))
    finally:
        lock.close()


def _places(options: argparse.Namespace) -> list[str]:
    """Return the given options of a panic that name files."""
    places = (("--config", options.config), ("--state-dir", options.state_dir))
    return [part for name, path in places if path is not None for part in (name, str(path))]


def has_terminal() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def started_by_systemd() -> bool:
    """Return whether this process is a systemd unit's main process, which needs no confirmation."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def confirmed(word: str) -> bool:
    """Ask a person at the terminal to confirm; True without a terminal."""
    if not has_terminal():
        return True
    try:
        return input(f"type {word} to go on: ") == word
    except (EOFError, KeyboardInterrupt):
        return False


def _running(state_dir: Path) -> str:
    """Return the process id of the daemon on `state_dir`, "" for none. Raises StateDirError."""
    try:
        return locked_by(state_dir)
    except OSError as error:
        raise StateDirError(
            f"{state_dir}: cannot be read: {error.strerror}: run it as root or as the desk's user"
        ) from error


def _ask(options: argparse.Namespace, holder: str) -> CommandAnswer:
    """Send the command to the running daemon. Raises ControlError."""
    command = _sent_as(options)
    try:
        answer = ask(options.state_dir, CommandRequest(1, command, options.reason, _sender(options)))
    except ControlError as error:
        raise ControlError(f"the daemon of this desk (process {holder}): {error}") from error
    if not answer.ok:
        raise ControlError(printable(f"process {holder} refused the {options.command}: {answer.error}"))
    return answer


def _sent_as(options: argparse.Namespace) -> str:
    """Return the command's name in `commands.NAMES`."""
    name: str = options.command
    if name == RESUME:
        return " ".join((RESET_LIMITS if options.reset_limits else RESUME, *filter(None, (options.seen,))))
    if name == CLOSE:
        return " ".join((name, options.symbol.upper(), *filter(None, (options.quantity,))))
    return SENT_AS.get(name, name)


def _offline(options: argparse.Namespace) -> CommandAnswer:
    """Journal the command for a stopped desk."""
    from daemon.app.offline.command import command_offline

    command = Command(_sent_as(options), options.reason, f"offline/{_sender(options)} (uid {os.getuid()})")
    try:
        event_at = event_of(command)
        broker_ns = _broker_ns(options) if options.command == RESET_CLOCK else None
        state, refusal = command_offline(
            options.state_dir,
            lambda now_ns: event_at(now_ns if broker_ns is None else broker_ns),
            by_its_strategy=options.command == RESUME,  # only a resume lets it decide
        )
    except CommandError as error:
        raise NotFound(str(error)) from None
    except (MayPass, JournalError, WriteFailed) as error:
        way_out = "; what cannot wait: rltraderctl panic closes everything without a journal"
        raise JournalError(f"{error}{way_out * (options.command in ASKS)}") from error
    desk = (peek(options.state_dir) or {}).get("desk", "")
    return CommandAnswer(ok=True, seq=state.seq, status=status_of(state, desk), refused=refusal)


def _broker_ns(options: argparse.Namespace) -> int:
    from daemon.cli.control import broker_now_ns

    return broker_now_ns(*_with_keys(options))


def _sender(options: argparse.Namespace) -> str:
    return options.who.strip() or person()


def show(answer: CommandAnswer, console: Console, more: str = "") -> None:
    """Print the answer in two lines."""
    status = answer.status
    if status is None:
        console.print(f"journaled as event {answer.seq:,}")
        return
    stands = [f"halted: {halts_in_words(status.halt)}" if status.halt else "not halted"]
    if status.pause:
        stands.append(f"paused: {status.pause}")
    console.print(printable(f"journaled as event {answer.seq:,}; {'; '.join(stands)}"))
    console.print(printable("; ".join([*holding(status, answer.effects), *filter(None, (more,))])))
    differences = status.differences and printable(f"book and broker differ: {status.differences}", LINE_MOST)
    for line in filter(None, (differences, printable(status.then))):
        console.print(line)
    if answer.refused:
        console.print(printable(f"this does nothing: {answer.refused}"))


def holding(status: DeskStatus, effects: Sequence[str] = ()) -> list[str]:
    """Describe holdings and working orders; `effects` are the command's effects."""
    parts = [
        f"holds {holdings_in_words(status) or 'nothing'}",
        f"{status.orders} order{'s' * (status.orders != 1)} at work" if status.orders else "no order at work",
    ]
    order_count, cancel_count = effects.count("SubmitOrder"), effects.count("CancelOrder")
    parts += [f"{order_count} sent"] * bool(order_count) + [f"{cancel_count} being cancelled"] * bool(cancel_count)
    parts += ["waits for the broker's report"] * ("AskBroker" in effects)
    return parts
