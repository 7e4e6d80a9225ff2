"""`rltraderctl models`: what the store holds, which version answers, and who decided that.

Files alone: a running daemon notices a changed pointer by itself. Invariant: a pointer is set to nothing that did not
pass every check of the store and its trial, and every change is written down with who and why.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from daemon.config.load import DEFAULT_CONFIG, EXIT_CODE, Settings, load
from daemon.core.session import new_york_text
from daemon.host.ed25519 import KeyProblem, keygen
from daemon.host.printable import printable
from daemon.host.time.clock import Clock
from daemon.models.pointer import (
    CANDIDATE,
    CURRENT,
    POINTERS,
    TEXT_MOST,
    ModelError,
    before,
    changes,
    checked_name,
    named,
    point,
)
from daemon.models.runtime import OnnxPolicy
from daemon.models.signature import SIGNATURE_FILE, sign
from daemon.models.store import LoadedModel, check_rules, versions
from daemon.models.store import load as load_model
from daemon.models.trial import try_model
from strategies.kit.contract import Strategy
from strategies.kit.manifest import MANIFEST_FILE
from strategies.registry import STRATEGIES
from strategies.registry import strategy as strategy_named

REFUSED = 1
HISTORY_SHOWN = 10
SHOW_FIGURES = 12  # of the manifest's metrics

WORDS = {
    "list": "the versions of a strategy, and which of them the pointers name",
    "show": "one version: what it is, what it was trained on, how it came to answer",
    "check": "all checks that a version must pass before it may answer",
    "promote": "check a version, then let `current` name it",
    "candidate": "check a version, then let `candidate` name it: it answers beside the live one (policy.shadow)",
    "rollback": "check the version that `current` named before, then name it again",
    "sign": "vouch for a version with a private key (Ed25519)",
    "keygen": "make such a key; prints the public one for policy.public_key",
}
_OF_A_VERSION = frozenset({"show", "check", "promote", "sign"})
_CHANGES = frozenset({"promote", "candidate", "rollback"})


def add_to(commands: Any) -> None:
    """Add `models` to rltraderctl's command line: `commands` is what `add_subparsers` returned."""
    text = "the model store: list, check, promote, roll back, sign"
    made = commands.add_parser("models", help=text, description=text)
    words = made.add_subparsers(dest="word", required=True, metavar="COMMAND")
    for word, said in WORDS.items():
        made = words.add_parser(word, help=said, description=said)
        if word == "keygen":
            made.add_argument("file", type=Path, metavar="FILE", help="where the private key goes; must not exist")
            continue
        if word in _OF_A_VERSION:
            made.add_argument("version", metavar="VERSION", help="its name, or current, or candidate")
        if word == "candidate":
            made.add_argument("version", metavar="VERSION", nargs="?", default="", help="its name")
            made.add_argument("--clear", action="store_true", help="name none")
        made.add_argument("--models-dir", type=Path, metavar="DIR", help="the store (default: paths.models_dir)")
        made.add_argument("--strategy", metavar="NAME", help="whose versions (default: desk.strategy)")
        made.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: ./config.toml if there)")
        if word in _CHANGES:
            made.add_argument("--reason", required=True, help="why; it is written down")
            made.add_argument("--who", default="", help="who says so (default: this user); it is written down")
        if word == "sign":
            made.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key")


def run(options: argparse.Namespace, console: Console) -> int:
    """Carry out one of `WORDS`: 0, 1 where a version was refused, 2 where it cannot be done. Raises ConfigError."""
    try:
        if options.word == "keygen":
            console.print(f'public_key = "{keygen(options.file)}"', soft_wrap=True, highlight=False)
            return 0
        desk = _desk(options)
        return _DO[options.word](desk, options, console)
    except ModelError as error:
        sys.stderr.write(f"rltraderctl: {error}\n")
        return REFUSED
    except (KeyProblem, _Asked) as error:
        sys.stderr.write(f"rltraderctl: {error}\n")
    except OSError as error:
        sys.stderr.write(f"rltraderctl: the model store cannot be read or written: {error}\n")
    return EXIT_CODE


class _Asked(ValueError):
    """Something was asked that cannot be done; the text says the cure."""


@dataclass(frozen=True, slots=True)
class _Desk:
    """Whose store is looked at, and the rules that its models are held against."""

    settings: Settings
    models_dir: Path
    strategy: Strategy

    @property
    def shelf(self) -> Path:
        return self.models_dir / self.strategy.spec.name

    def load(self, version: str) -> LoadedModel:
        """As the daemon loads it: signature and rules too. Raises ModelError."""
        model = load_model(self.models_dir, self.strategy, version, self.settings.policy.public_key)
        check_rules(model, self.strategy, self.settings.trading())
        return model

    def proved(self, version: str) -> LoadedModel:
        """The version after everything that a daemon does before it lets it answer. Raises ModelError."""
        model = self.load(version)
        try_model(model)
        OnnxPolicy.open(model, self.strategy, "cpu", 1)
        return model


def _desk(options: argparse.Namespace) -> _Desk:
    config = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    given = {"desk.strategy": options.strategy} if options.strategy else {}
    if options.strategy and options.strategy not in STRATEGIES:
        raise _Asked(f"--strategy is {options.strategy!r}: expected one of {', '.join(STRATEGIES)}")
    settings = load(config, given)
    return _Desk(settings, options.models_dir or settings.paths.models_dir, strategy_named(settings.desk.strategy))


# --- looking ------------------------------------------------------------------------------------------------------


def _list(desk: _Desk, _options: argparse.Namespace, console: Console) -> int:
    pointers = {pointer: named(desk.shelf, pointer) for pointer in POINTERS}
    table = Table(box=None, pad_edge=False)
    for title in ("version", "named by", "promoted", "trained until", "feed", "signed", "note"):
        table.add_column(title, overflow="fold")
    known = versions(desk.models_dir, desk.strategy.spec.name)
    for version in known:
        marks = ", ".join(pointer for pointer, name in pointers.items() if name == version)
        with _as_row(table, version, marks) as row:
            model = load_model(desk.models_dir, desk.strategy, version)
            manifest = model.manifest
            row += [
                "yes" if manifest.promoted else "no",
                manifest.training.last_session,
                manifest.training.feed,
                _signed(desk, version),
                manifest.note,
            ]
    if not known:
        raise _Asked(f"{desk.shelf} holds no version: train and export a model, or correct --models-dir")
    console.print(table)
    for pointer, name in pointers.items():
        if name and name not in known:
            console.print(f"{pointer} names {name!r}, and there is no such version", highlight=False, markup=False)
    return 0


@contextmanager
def _as_row(table: Table, *cells: str) -> Iterator[list[str]]:
    """Gather the row's other cells; what is refused meanwhile stands in the last one."""
    more: list[str] = []
    try:
        yield more
    except ModelError as error:
        more = ["", "", "", "", f"refused, {error.check}"]
    table.add_row(*cells, *map(printable, more))


def _signed(desk: _Desk, version: str) -> str:
    """Whether there is a signature, and with policy.public_key whether it is that key's."""
    key = desk.settings.policy.public_key
    if not (desk.shelf / version / SIGNATURE_FILE).exists():
        return "no"
    if not key:
        return "not checked"
    try:
        load_model(desk.models_dir, desk.strategy, version, key)
    except ModelError as error:
        return "wrong" if error.check == "signature" else "no"
    return "yes"


def _show(desk: _Desk, options: argparse.Namespace, console: Console) -> int:
    model = load_model(desk.models_dir, desk.strategy, options.version)
    manifest, trained = model.manifest, model.manifest.training
    lines: list[tuple[str, object]] = [
        ("version", model.version),
        ("named by", ", ".join(p for p in POINTERS if named(desk.shelf, p) == model.version) or "no pointer"),
        ("promoted", "yes" if manifest.promoted else "no: on a live account it would deny every entry"),
        ("policy", f"{len(model.policy):,} bytes, SHA-256 {model.digest}"),
        ("contract hash", manifest.contract_hash),
        ("signed", _signed(desk, model.version)),
        (
            "trained on",
            f"{trained.file}, {trained.sessions} sessions {trained.first_session} to {trained.last_session}",
        ),
        ("feed", f"{trained.feed}{', synthetic bars' if trained.synthetic else ''}"),
        ("files", ", ".join(manifest.files) or "none vouched for"),
        ("note", manifest.note),
    ]
    lines += [(f"rule {key}", value) for key, value in manifest.rules.items()]
    lines += [(name, value) for name, value in list(manifest.metrics.items())[:SHOW_FIGURES] if _plain(value)]
    for title, value in lines:
        console.print(f"{printable(title):<18} {printable(str(value))}", highlight=False, markup=False, soft_wrap=True)
    told = [change for change in changes(desk.shelf) if model.version in (change.before, change.after)]
    for change in told[-HISTORY_SHOWN:]:
        said = (
            f"{new_york_text(change.time_ns)}  {change.pointer}: {change.before or 'none'} -> {change.after or 'none'}"
        )
        console.print(printable(f"{said}, {change.who}: {change.why}"), highlight=False, markup=False, soft_wrap=True)
    return 0


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float)


def _check(desk: _Desk, options: argparse.Namespace, console: Console) -> int:
    model = desk.proved(options.version)
    told = "signature, " if desk.settings.policy.public_key else ""
    console.print(
        f"{model.version}: {told}digests, contract hash, rules, graph, trial and golden answers are right",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


# --- changing -----------------------------------------------------------------------------------------------------


def _promote(desk: _Desk, options: argparse.Namespace, console: Console) -> int:
    return _name(desk, CURRENT, options.version, options, console)


def _candidate(desk: _Desk, options: argparse.Namespace, console: Console) -> int:
    if bool(options.version) == options.clear:
        raise _Asked("candidate: expected a version, or --clear for none")
    return _name(desk, CANDIDATE, options.version, options, console)


def _rollback(desk: _Desk, options: argparse.Namespace, console: Console) -> int:
    return _name(desk, CURRENT, before(desk.shelf), options, console, rollback=True)


def _name(
    desk: _Desk, pointer: str, version: str, options: argparse.Namespace, console: Console, *, rollback: bool = False
) -> int:
    """Prove the version, then let the pointer name it."""
    why, who = _said("--reason", options.reason), _said("--who", options.who.strip() or _user())
    if version:
        model = desk.proved(version)
        if pointer == CURRENT:
            _check_promoted(desk, model)
        version = model.version
    change = point(desk.shelf, pointer, version, who=who, why=why, now_ns=Clock.real().now_ns(), rollback=rollback)
    told = f"{pointer}: {change.before or 'none'} -> {change.after or 'none'}"
    if change.before == change.after:
        told += ", as before"
    elif pointer == CANDIDATE and version == named(desk.shelf, CURRENT):
        told += "; it answers as current already, and is not asked twice"
    elif pointer == CANDIDATE and version and desk.settings.policy.shadow != CANDIDATE:
        told += '; a desk asks it where its configuration says policy.shadow = "candidate"'
    else:
        told += (
            f"; a running daemon follows within policy.poll_s ({desk.settings.policy.poll_s} s), or at once by "
            "rltraderctl reload"
        )
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    return 0


def _check_promoted(desk: _Desk, model: LoadedModel) -> None:
    """With real money a version that may not open positions takes no place of one that may."""
    if desk.settings.desk.account != "live" or model.manifest.promoted:
        return
    try:
        running = load_model(desk.models_dir, desk.strategy, CURRENT)
    except ModelError:
        return  # there is none whose place it takes
    if running.manifest.promoted:
        raise ModelError(
            "not promoted",
            f"{model.version} is not promoted and {running.version} is: on a live account it would deny every entry; "
            f"promote it by its report (train-and-export promote), or name another",
        )


def _sign(desk: _Desk, options: argparse.Namespace, console: Console) -> int:
    model = load_model(desk.models_dir, desk.strategy, options.version)  # what is signed is whole
    folder = desk.shelf / checked_name(model.version, "the version")
    manifest = (folder / MANIFEST_FILE).read_bytes()
    if sha256(manifest).hexdigest() != model.manifest_digest:
        raise _Asked(f"{folder / MANIFEST_FILE} changed while it was looked at: sign it again")
    public = sign(folder, manifest, options.key)
    console.print(
        f'{folder / SIGNATURE_FILE} is written; it is good for\npublic_key = "{public}"',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _said(what: str, text: str) -> str:
    text = text.strip()
    if not text or len(text) > TEXT_MOST or not text.isprintable():
        raise _Asked(f"{what} has {len(text)} letters: expected 1 to {TEXT_MOST} printable ones")
    return text


def _user() -> str:
    """This user's name and number."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "nobody"
    return f"{name} (uid {os.getuid()})"


_DO: dict[str, Callable[[_Desk, argparse.Namespace, Console], int]] = {
    "list": _list,
    "show": _show,
    "check": _check,
    "promote": _promote,
    "candidate": _candidate,
    "rollback": _rollback,
    "sign": _sign,
}
