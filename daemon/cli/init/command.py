"""`rltrader init`: ask for account, strategy and data, write the desk's folder, and show the next steps.

Each answer is also a flag. All questions come first; until the last answer only fetched bars are written.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from signal import SIG_DFL, SIGHUP, SIGTERM, default_int_handler, getsignal, signal
from typing import Any, NamedTuple

from rich.console import Console
from rich.prompt import Confirm, Prompt

from daemon.cli.arguments import NotFound
from daemon.cli.init.account import (
    FOLDER,
    LIVE,
    NONE,
    PAPER,
    Account,
    NoAccount,
    keys_around,
    piped_keys,
    try_keys,
    typed_keys,
)
from daemon.cli.init.desk_folder import (
    CONFIG,
    LIVE_ADDRESSES,
    Choices,
    FolderProblem,
    about,
    check_folder,
    config_text,
    fetch_bars,
    first_state,
    overruling_variables,
    put_first_run,
    put_into_place,
    put_keys,
    put_models,
    shipped_store,
    stage,
    state_of,
    wanted_bars,
)
from daemon.cli.start.capital import SUBJECT as CAPITAL
from daemon.cli.start.checks import OK, OPTIONS_LEVEL
from daemon.config.clock import clock_of
from daemon.config.load import NO_STRATEGY, ConfigError, Credentials, DeskSettings, defaults, load
from daemon.core.desks.shares.sizes import least_capital
from daemon.core.session import new_york_date
from daemon.host.version import in_this_shell
from daemon.models.shipped import USUAL
from rltrader.install import install_line
from strategies.kit.contract import Spec
from strategies.registry import STRATEGIES, add, entry, names, strategy, typed

STOPPED = 130
FILE, NOWHERE, SYSTEMD = "file", "nowhere", "systemd"
FETCH, BUNDLED = "fetch", "bundled"
USUAL_STRATEGY = "regime_switcher"  # three funds, once a day: easiest to follow, and needs no approval
OTHERS_SHOWN = 5


class Unanswered(Exception):
    """A question without an answer and without a terminal. The text names the flag."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `init`."""
    command.set_defaults(run=run)
    command.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="the desk's folder (.)")
    account = "paper or live at the broker, or none: then the simulator is the broker"
    command.add_argument("--account", choices=(PAPER, LIVE, NONE), help=account)
    stdin_help = (
        "read key ID and secret key from standard input, a line each; else the environment's, or they are asked for"
    )
    command.add_argument("--keys-stdin", action="store_true", help=stdin_help)
    keys_help = "where the keys are kept: in files for this user alone, as systemd's credentials, or nowhere (here)"
    command.add_argument("--keep-keys", choices=(FILE, SYSTEMD, NOWHERE), help=keys_help)
    foreign_help = "what the desk does about orders and positions of others: broker.foreign_orders"
    command.add_argument("--foreign", choices=("halt", "ignore", "adopt"), help=foreign_help)
    command.add_argument("--strategy", metavar="NAME", help="a strategy, or your file: path/to/file.py")
    bars = "bars of the first dry run: fetched from the broker, or the bundled, made-up ones"
    command.add_argument("--data", choices=(FETCH, BUNDLED), help=bars)
    command.add_argument("--no-dry-run", action="store_true", help="leave the first dry run out")
    command.add_argument("--yes", action="store_true", help="ask nothing: take the usual answer where no flag has one")


def main() -> int:
    """Run `rltrader init`; returns the exit code."""
    from daemon.cli import ctl

    return ctl.main(["init", *sys.argv[1:]], prog="rltrader")


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask, write, check; returns 0, or 130 after an interrupt. Raises NotFound if the request is impossible."""
    if find_spec("onnxruntime") is None:
        raise NotFound(f"onnxruntime is not installed, and no model runs without: {install_line('cpu')}")
    init = _Init(options, console)
    try:
        with _every_stop_as_ctrl_c():
            return init.run()
    except (KeyboardInterrupt, EOFError):
        state = "no configuration and no key was written; give the same command again"
        if init.written:
            state = f"{init.folder / CONFIG} and all that belongs to it are written; rltraderd --check there tells more"
        sys.stderr.write(f"\ninit: stopped: {state}\n")
        return STOPPED
    except (NoAccount, FolderProblem, Unanswered, ConfigError) as error:
        raise NotFound(str(error)) from error


@contextmanager
def _every_stop_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and the SIGHUP of a closed terminal, raise KeyboardInterrupt, so that staged files are removed."""
    usual = [number for number in (SIGTERM, SIGHUP) if getsignal(number) is SIG_DFL]
    for number in usual:
        signal(number, default_int_handler)
    try:
        yield
    finally:
        for number in usual:
            signal(number, SIG_DFL)


class _Asker:
    """Asks questions at a terminal; elsewhere gives the usual answer if `--yes` allows it."""

    def __init__(self, console: Console, *, yes: bool) -> None:
        self.console, self.yes, self.terminal = console, yes, sys.stdin is not None and sys.stdin.isatty()

    @property
    def asks(self) -> bool:
        """Whether a person answers."""
        return self.terminal and not self.yes

    def choose(self, flag: str, question: str, choices: Sequence[str], usual: str) -> str:
        """Return one of the choices. Raises Unanswered."""
        if not self._may_ask(flag):
            return usual
        return Prompt.ask(question, choices=list(choices), default=usual, console=self.console)

    def text(self, flag: str, question: str, usual: str) -> str:
        """Return a text. Raises Unanswered."""
        return Prompt.ask(question, default=usual, console=self.console) if self._may_ask(flag) else usual

    def agree(self, flag: str, question: str, *, usual: bool) -> bool:
        """Return yes or no. Raises Unanswered."""
        return Confirm.ask(question, default=usual, console=self.console) if self._may_ask(flag) else usual

    def _may_ask(self, flag: str) -> bool:
        if not self.yes and not self.terminal:
            raise Unanswered(f"there is no terminal to ask at: give {flag}, or --yes for the usual answers")
        return not self.yes


class _StrategyRow(NamedTuple):
    """A strategy of the menu."""

    name: str
    spec: Spec
    needs: str


class _Init:
    """One run of `rltrader init` and its answers so far."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options, self.console = options, console
        self.ask = _Asker(console, yes=options.yes)
        self.folder: Path = options.folder
        self.kept = NOWHERE
        self.first = Path()  # state directory of the first dry run
        self.written = False

    def run(self) -> int:
        self._choose_folder()
        self.first = first_state(self.folder)
        kind, account = self._account()
        name, spec = self._strategy(account)
        self._say(f"strategy: {name}: {about(spec)}")
        foreign = self._foreign(account)
        settings = _broker_settings(kind)
        bars = self._bars(settings, spec, account)
        number = account.summary.number if account is not None else ""
        choices = Choices(typed(name), spec, kind, number, foreign)
        with stage(self.folder) as folder:
            (folder / CONFIG).write_text(config_text(choices), encoding="utf-8")
            put_models(folder, self.folder, spec.name)
            summary = self._first_run(folder, spec, bars)
            if account is not None and self.kept == FILE:
                put_keys(folder, account.keys)  # as late as possible: a kill leaves no keys in a hidden folder
            put_into_place(folder, self.folder)
            self.written = True
        os.chdir(self.folder)  # the commands below run in that folder
        self._say("")
        self._say(f"written to {self.folder}: {CONFIG}, which has what differs from the defaults")
        if summary:
            self._say(_result(summary, self.first))
        if account is not None:
            self._check(account)
        self._what_next(kind, name, first=bool(summary))
        return 0

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _explain(self, text: str) -> None:
        """Print an explanation, if a person answers."""
        if self.ask.asks:
            self._say(text)

    # --- the questions ------------------------------------------------------------------------------------------------

    def _choose_folder(self) -> None:
        """Let a person name another folder if this one is unsuitable. Raises FolderProblem."""
        while True:
            try:
                check_folder(self.folder)
            except FolderProblem as problem:
                if not self.ask.asks:
                    raise
                self._say(f"{problem}")
                self.folder = Path(self.ask.text("DIR", "Folder for the desk", "~/desk")).expanduser()
            else:
                return

    def _account(self) -> tuple[str, Account | None]:
        """Return the account's kind, and its data; None without an account."""
        keys, origin = keys_around(self.folder)
        kind: str | None = self.options.account
        if kind is None:
            self._explain("The account: paper trades with play money at the broker, live with real money.")
            self._explain("none needs no keys: a simulator on this machine is the broker.")
            usual = PAPER if keys is not None or self.options.keys_stdin else NONE
            kind = self.ask.choose("--account", "Account", (PAPER, LIVE, NONE), usual)
            question = "Real money: this desk's orders will move it. Go on?"
            if kind == LIVE and not self.ask.agree("--account live", question, usual=False):
                raise FolderProblem(
                    "not for real money, then: nothing was written; --account paper is the same with play money"
                )
        if kind == NONE:
            return kind, None
        if self.options.keys_stdin:
            keys, origin = piped_keys(), "standard input"
        return kind, self._try_keys(kind, keys, origin)

    def _try_keys(self, kind: str, keys: Credentials | None, origin: str) -> Account:
        """Try keys until the broker accepts some; only a person may try again."""
        settings, symbols = _broker_settings(kind), _all_shares()
        while True:
            try:
                if keys is None:
                    keys, origin = self._type_keys(kind), "typed"
                elif origin != "typed":
                    self._say(f"keys: from {origin}")
                account = try_keys(settings, keys, symbols)
            except NoAccount as problem:
                if not self.ask.asks:
                    raise
                self._say(f"keys: {problem}")
                if problem.of_keys:
                    keys = None
                elif not self.ask.agree("--account", "Try again?", usual=True):
                    raise
            else:
                summary = account.summary
                state = f"it may not trade now: {summary.blocked}" if summary.blocked else "it may trade"
                equity = f"{summary.equity} USD of equity"
                self._say(f"keys: accepted for {kind} account {summary.number}: {equity}; {state}")
                self._choose_place(origin)
                return account

    def _type_keys(self, kind: str) -> Credentials:
        if not self.ask.asks:
            raise Unanswered(
                f"no keys of the {kind} account: set APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment, or "
                "give them on standard input with --keys-stdin; without keys: --account none"
            )
        self._say(f"The API keys of the {kind} account, from its page at the broker:")
        return typed_keys()

    def _choose_place(self, origin: str) -> None:
        if origin == FOLDER:
            self.kept = FOLDER
            return
        chosen: str | None = self.options.keep_keys
        if chosen is None:
            usual = NOWHERE if origin == "environment" else FILE
            self._explain(
                f"Where the keys are kept: file is {self.folder / FOLDER}, which this user alone may read; systemd is "
                "for a service; nowhere leaves them where they are now."
            )
            chosen = self.ask.choose("--keep-keys", "Keep them", (FILE, SYSTEMD, NOWHERE), usual)
        if chosen == FILE and (self.folder / FOLDER).exists():
            place = self.folder / FOLDER
            raise FolderProblem(f"{place} is there already, and nothing is overwritten: move it away")
        self.kept = chosen

    def _foreign(self, account: Account | None) -> str:
        if account is None or not account.others:
            return self.options.foreign or "halt"
        self._say(f"The account is not empty: {len(account.others)} orders and positions that are not this desk's:")
        for line in account.others[:OTHERS_SHOWN]:
            self._say(f"  {line}")
        self._say(
            "halt: the desk takes no risk until a person resumes it. ignore: it counts them apart and leaves them "
            "alone. adopt: they become its own."
        )
        chosen: str = self.options.foreign or self.ask.choose(
            "--foreign", "What the desk does about them", ("halt", "ignore", "adopt"), "halt"
        )
        return chosen

    def _strategy(self, account: Account | None) -> tuple[str, Spec]:
        """Return the strategy's name and spec."""
        if self.options.strategy is not None:
            return self._strategy_of(self.options.strategy, account)
        rows = [_StrategyRow(name, spec := strategy(name).spec, _needs(spec, account)) for name in names()]
        for number, (name, spec, needs) in enumerate(rows, start=1):
            self._explain(f"  {number}  {name:18}{about(spec)}; {needs}")
        while True:
            usual = next(str(number) for number, one in enumerate(rows, start=1) if one.name == USUAL_STRATEGY)
            text = self.ask.text("--strategy", "Strategy: a number, a name, or your file", usual)
            name = rows[int(text) - 1].name if text.isdecimal() and 0 < int(text) <= len(rows) else text
            try:
                chosen = self._strategy_of(name, account)
            except FolderProblem as problem:
                self._say(f"{problem}")
                continue
            if not _lacks_level(chosen[1], account) or not self.ask.asks:
                return chosen
            if self.ask.agree("--strategy", "Choose it all the same?", usual=False):
                return chosen

    def _strategy_of(self, text: str, account: Account | None) -> tuple[str, Spec]:
        try:
            name = add(text)
        except ValueError as error:
            raise FolderProblem(f"{error}") from error
        spec = strategy(name).spec
        if _lacks_level(spec, account):
            assert account is not None
            level = account.summary.options_level
            self._say(
                f"options level {level}: {OPTIONS_LEVEL} is needed to buy calls and puts: apply for it at the broker"
            )
        return name, spec

    def _bars(self, settings: DeskSettings, spec: Spec, account: Account | None) -> Path | None:
        """Return the file of bars for the first dry run; None for the bundled tape."""
        if self.options.no_dry_run or account is None or not _has_models(self.folder, spec.name):
            return None
        span = wanted_bars(self.folder, spec, new_york_date(clock_of(settings).now_ns()))
        chosen: str | None = self.options.data
        if chosen is None:
            many = f"{len(spec.symbols)} symbols" if len(spec.symbols) > 4 else ", ".join(spec.symbols)
            text = f"Fetch bars for a first dry run ({span.bars} of {many}, {span.first} to {span.last})?"
            chosen = FETCH if self.ask.agree("--data", text, usual=True) else BUNDLED
        if chosen == BUNDLED:
            return None
        file = fetch_bars(span, account.keys, settings.alpaca.data_url)
        if file is None:
            self._say("no bars: the first dry run is over the bundled, made-up ones")
        return file

    # --- what follows -------------------------------------------------------------------------------------------------

    def _first_run(self, folder: Path, spec: Spec, bars: Path | None) -> dict[str, Any]:
        """Return the summary of the first dry run; empty without one."""
        if self.options.no_dry_run:
            return {}
        if not _has_models(self.folder, spec.name):
            command = (
                f"{in_this_shell('train-and-export')} --strategy {shlex.quote(typed(spec.name))} --bars FILE --activate"
            )
            self._say(f"no first dry run: there is no model of {spec.name} yet. In the desk's folder this makes one:")
            self._say(f"  {command}")
            return {}
        over = f"{bars}" if bars is not None else "the bundled, made-up bars"
        with self.console.status(f"first dry run, over {over}"):
            return put_first_run(folder, self.folder, spec, self.first, bars)

    def _check(self, account: Account) -> None:
        """Show the findings of `rltraderd --check` that are not ok, and whether the account is large enough."""
        from daemon.cli.start.doctor import findings_of

        try:
            lines = asyncio.run(findings_of(load(CONFIG, {}), account.keys, dry_run=False))
        except ConfigError as error:  # variables of this shell contradict it
            self._say(f"the check of this desk: {error}")
            return
        findings = [line for line in lines if line.verdict != OK or line.subject == CAPITAL]
        if findings:
            self._say("the check of this desk (all of it: the second command below):")
        for line in findings:
            text = line.text.replace("\n", f"\n{'':8}")
            self._say(f"  {line.verdict:4}  {line.subject}: {text}")

    def _what_next(self, kind: str, name: str, *, first: bool) -> None:
        if variables := overruling_variables(os.environ):
            self._say(f"note: these variables of this shell win over {CONFIG}: {', '.join(variables)}")
        if self.kept == SYSTEMD:
            self._say("the keys as systemd's credentials, as root (docs/TRADING_HOST.md, 3):")
            self._say("  install -d -m 700 /etc/rltrader/credentials && cd /etc/rltrader/credentials")
            self._say('  systemd-ask-password "Key ID:" | install -m 600 /dev/stdin APCA_API_KEY_ID')
            self._say('  systemd-ask-password "Secret key:" | install -m 600 /dev/stdin APCA_API_SECRET_KEY')
        run = in_this_shell("rltraderd")
        look = f"{in_this_shell('rltrader-dashboard')} --state-dir {self.first if first else state_of(kind)}"
        commands = [("look at it", look)]
        if kind == NONE:
            strategy_option = f"--strategy {shlex.quote(typed(name))}"
            account = f"--accounts {entry(name).desk}" if name in STRATEGIES else strategy_option
            commands.append(("start its broker", f"{in_this_shell('rltrader-simulator')} {account} --env sim.env"))
            commands.append(("run it, in a second terminal", f". ./sim.env.{entry(name).desk}; {run}"))
            commands.append(("before each new simulator", f"rm -r {state_of(kind)}"))  # it knows nothing of the book
        else:
            keys = f"CREDENTIALS_DIRECTORY={FOLDER} " if self.kept in (FILE, FOLDER) else ""
            money = "real money" if kind == LIVE else "play money"
            commands.append(("check it", f"{keys}{run} --check"))
            commands.append((f"run it, with {money}", f"{keys}{run}"))
        self._say("next:")
        if self.folder != Path():
            self._say(f"  cd {shlex.quote(str(self.folder))}")
        wide = max(len(label) for label, _ in commands) + 1
        for label, command in commands:
            self._say(f"  {label + ':':{wide}}  {command}")


def _broker_settings(kind: str) -> DeskSettings:
    """Return the settings to query an account of this kind. Raises ConfigError."""
    live = kind == LIVE
    addresses = {name: text for name, text in LIVE_ADDRESSES.items() if live and _unset(name)}
    overrides = {"desk.account": LIVE if live else PAPER, "desk.account_number": "unknown" if live else ""}
    overrides |= {f"alpaca.{name}": text for name, text in addresses.items()}
    return load(None, {**overrides, **NO_STRATEGY}, only=("desk", "alpaca", "clock", "feed", "paths"))


def _unset(address: str) -> bool:
    """Return whether the environment has no address of its own, which would override the file."""
    return f"RLTRADER_ALPACA__{address.upper()}" not in os.environ


def _all_shares() -> tuple[str, ...]:
    specs = [strategy(name).spec for name in names()]
    return tuple(sorted({symbol for spec in specs if not spec.chained for symbol in spec.symbols}))


def _needs(spec: Spec, account: Account | None) -> str:
    """Return a strategy's needs of an account, as a text."""
    if spec.chained:
        part = float(str(defaults()["sizing"]["premium_fraction"]))
        money = f", {account.equity * part:,.0f} USD" if account is not None else ""
        return f"options level {OPTIONS_LEVEL}; a position costs at most {part:.0%} of the equity{money}"
    prices = [account.bids.get(symbol, 0.0) for symbol in spec.symbols] if account is not None else []
    if not prices or not all(price > 0 for price in prices):
        return "fractions of shares where the account is small"
    return f"{least_capital(len(prices), max(prices)):,} USD for whole shares, fractions with less"


def _lacks_level(spec: Spec, account: Account | None) -> bool:
    return spec.chained and account is not None and (account.summary.options_level or 0) < OPTIONS_LEVEL


def _has_models(folder: Path, name: str) -> bool:
    stores = (folder / USUAL, shipped_store())
    return any(store is not None and (store / name).is_dir() for store in stores)


def _result(summary: dict[str, Any], state: Path) -> str:
    """Return the result of the first dry run in a sentence."""
    made_up = ", whose prices are made up" if summary["synthetic"] else ""
    halt_text = f"; it halted: {summary['halted']}" if summary["halted"] else ""
    return (
        f"first dry run in {state}: {summary['bars']:,} bars of {summary['tape']}{made_up}: {summary['decisions']:,} "
        f"decisions, {summary['fills']:,} fills, {float(summary['equity_usd']):,.2f} USD at its end{halt_text}"
    )
