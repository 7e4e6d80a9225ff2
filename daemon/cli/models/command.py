"""`rltraderctl models`: list the store's versions, and change which one answers.

Changes files only: a running daemon notices a changed pointer by itself. Invariant: a pointer names only a version that
passed every check of the store and its trial, and every change is recorded with its author and reason.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from rich.console import Console

from daemon.cli.arguments import lead_on
from daemon.cli.models.shown import held_back, show_all, show_one
from daemon.cli.models.store import ModelStore, NotPossible, store_of
from daemon.config.load import EXIT_CODE
from daemon.host.ed25519 import KeyProblem, keygen
from daemon.host.own_files import person
from daemon.host.printable import result_of
from daemon.host.time.clock import Clock
from daemon.models.ladder.cards import HoldReasons, change_holds
from daemon.models.pointer import (
    CANDIDATE,
    CURRENT,
    POINTERS,
    TEXT_MOST,
    ModelError,
    checked_name,
    former_version,
    point,
    pointer_text,
    version_of_pointer,
)
from daemon.models.signature import SIGNATURE_FILE, sign
from daemon.models.store import ALLOW_PASSIVE, LoadedModel, check_promoted, never_traded
from daemon.models.store import load as load_model
from strategies.kit.manifest import MANIFEST_FILE

REFUSED = 1
STORE = ("models_dir", "strategy", "config")
"""Options that select a store; the suggested next command repeats them."""

WORDS = {
    "list": "the versions of a strategy, and which of them the pointers name",
    "show": "one version: what it is, what it was trained on, how it came to answer",
    "check": "all checks that a version must pass before it may answer",
    "activate": "check a version, then let `current` name it: desks that follow the store use it from then on",
    "candidate": "check a version, then let `candidate` name it: it answers along with the live one (policy.shadow)",
    "rollback": "check the version that `current` named before, then name it again",
    "hold": "keep a version off the ladder; one that climbs is refused or rolled back",
    "release": "let a version climb that was held back",
    "freeze": "propose no new version; a trainer publishes none",
    "thaw": "end a freeze",
    "sign": "vouch for a version with a private key (Ed25519)",
    "keygen": "make such a key; prints the public one for policy.public_key",
}
_OF_A_VERSION = frozenset({"show", "check", "activate", "hold", "release", "sign"})
_CHANGES = frozenset({"activate", "candidate", "rollback", "hold", "release", "freeze", "thaw"})
FORMERLY = {"promote": "activate"}
"""Former name of a command -> its name."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the commands of `models`."""
    command.set_defaults(run=run)
    words = command.add_subparsers(dest="word", required=True, metavar="COMMAND")
    for word, text in WORDS.items():
        former = [name for name, now in FORMERLY.items() if now == word]
        subparser = words.add_parser(word, help=text, description=text, aliases=former)
        if word == "keygen":
            subparser.add_argument("file", type=Path, metavar="FILE", help="where the private key goes; must not exist")
            continue
        if word in _OF_A_VERSION:
            subparser.add_argument("version", metavar="VERSION", help="its name, or current, or candidate")
        if word == "candidate":
            subparser.add_argument("version", metavar="VERSION", nargs="?", default="", help="its name")
            subparser.add_argument("--clear", action="store_true", help="name none")
        subparser.add_argument("--models-dir", type=Path, metavar="DIR", help="the store (default: paths.models_dir)")
        subparser.add_argument("--strategy", metavar="NAME", help="whose versions (default: desk.strategy)")
        subparser.add_argument(
            "--config", type=Path, metavar="FILE", help="configuration (default: ./config.toml if there)"
        )
        if word in _CHANGES:
            subparser.add_argument("--reason", required=True, help="why; it is written down")
            subparser.add_argument("--who", default="", help="who asks for it (default: this user); it is written down")
        if word == "activate":
            passive = "also a version that never traded in its test"
            subparser.add_argument(ALLOW_PASSIVE, action="store_true", help=passive)
        if word == "sign":
            subparser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key")


def run(options: argparse.Namespace, console: Console) -> int:
    """Carry out one of `WORDS`; returns 0, 1 for a refused version, 2 for an impossible request. Raises ConfigError."""
    if options.word in FORMERLY:
        options.word, former = FORMERLY[options.word], options.word
        sys.stderr.write(f"rltraderctl: models {former} is now called models {options.word}\n")
    try:
        if options.word == "keygen":
            lead_on(options, "models", "sign", "VERSION", "--key", str(options.file), about=())
            console.print(f'public_key = "{keygen(options.file)}"', soft_wrap=True, highlight=False)
            return 0
        store = store_of(options)
        return _DO[options.word](store, options, console)
    except ModelError as error:
        sys.stderr.write(f"rltraderctl: {error}\n")
        return REFUSED
    except (KeyProblem, NotPossible) as error:
        sys.stderr.write(f"rltraderctl: {error}\n")
    except OSError as error:
        sys.stderr.write(f"rltraderctl: the model store cannot be read or written: {error}\n")
    return EXIT_CODE


def _check(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    model = store.proved(options.version)
    _lead_to_activation(store, options, model.version)
    signature = "signature, " if store.settings.policy.public_key else ""
    console.print(
        f"{model.version}: {signature}digests, contract hash, rules, graph, trial and golden answers are right",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


# --- changing -----------------------------------------------------------------------------------------------------


def _lead_to_activation(store: ModelStore, options: argparse.Namespace, version: str) -> None:
    """Suggest to activate a checked version, or the list if it is active already."""
    if version == pointer_text(store.shelf, CURRENT):
        lead_on(options, "models", "list", about=STORE)
    else:
        lead_on(options, "models", "activate", version, "--reason", "TEXT", about=STORE)


def _activate(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    model = load_model(store.models_dir, store.strategy, options.version)
    if never_traded(model.manifest) and not options.allow_passive:
        raise ModelError(
            "passive",
            f"{model.version} never traded in its test, so a desk with it would do nothing: train longer or with "
            f"another seed, or add {ALLOW_PASSIVE}",
        )
    return _name(store, CURRENT, options.version, options, console)


def _candidate(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    if bool(options.version) == options.clear:
        raise NotPossible("candidate: expected a version, or --clear for none")
    return _name(store, CANDIDATE, options.version, options, console)


def _rollback(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    return _name(store, CURRENT, former_version(store.shelf), options, console, rollback=True)


def _name(
    store: ModelStore,
    pointer: str,
    version: str,
    options: argparse.Namespace,
    console: Console,
    *,
    rollback: bool = False,
) -> int:
    """Check the version, then set the pointer to it."""
    why, author = _checked_text("--reason", options.reason), _checked_text("--who", options.who.strip() or _user())
    judged_digest = ""
    if version:
        model = store.proved(version)
        if pointer == CURRENT:
            _check_promotion(store, model)
        version, judged_digest = model.version, model.manifest_digest
    now_ns = Clock.real().now_ns()
    change = point(
        store.shelf,
        pointer,
        version,
        author=author,
        why=why,
        now_ns=now_ns,
        rollback=rollback,
        judged_digest=judged_digest,
    )
    if pointer == CURRENT:
        lead_on(options, "reload", "--reason", "TEXT")
    elif version:
        lead_on(options, "shadow")
    else:
        lead_on(options, "models", "list", about=STORE)
    message = f"{pointer}: {change.before or 'none'} -> {change.after or 'none'}"
    if change.before == change.after:
        message += ", as before"
    elif pointer == CANDIDATE and version == pointer_text(store.shelf, CURRENT):
        message += "; it answers as current already, and is not asked twice"
    elif pointer == CANDIDATE and version and store.settings.policy.shadow != CANDIDATE:
        message += '; a desk asks it where its configuration has policy.shadow = "candidate"'
    elif pointer == CURRENT and (chosen := store.settings.policy.version) != CURRENT:
        message += f'; a desk of this configuration stays with policy.version = "{chosen}" until that is "current"'
    else:
        message += (
            f"; a running daemon follows within policy.poll_s ({store.settings.policy.poll_s} s), or at once by "
            "rltraderctl reload"
        )
    if version in (holds := held_back(store)):
        message += f"; it is held back from the ladder: {holds[version]}"
    with result_of(f"rltraderctl: models {options.word}"):
        console.print(message, highlight=False, markup=False, soft_wrap=True)
    return 0


def _check_promotion(store: ModelStore, model: LoadedModel) -> None:
    """Refuse to replace a promoted version by an unpromoted one on a live account."""
    if store.settings.desk.account != "live":
        return
    try:
        running = load_model(store.models_dir, store.strategy, CURRENT)
    except ModelError:
        return  # there is none to replace
    check_promoted(model, running, store.strategy, store.settings.trading())


def _holds(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    """Write the file that holds versions off the ladder."""
    author, why = _checked_text("--who", options.who or _user()), _checked_text("--reason", options.reason)
    version = getattr(options, "version", "")
    version = version_of_pointer(store.shelf, version) if version in POINTERS else version
    holds = change_holds(store.shelf, partial(_held_anew, options.word, version, f"{why} (by {author})"))
    opposite = {"hold": "release", "freeze": "thaw"}.get(options.word)
    of = [version] if options.word == "hold" else []
    lead_on(options, "models", *([opposite, *of, "--reason", "TEXT"] if opposite else ["list"]), about=STORE)
    learning = f"frozen, {holds.frozen}" if holds.frozen else "goes on"
    text = f"learning: {learning}; held back: {', '.join(holds.held) or 'none'}"
    if options.word == "hold" and not (store.shelf / version).is_dir():
        text += f"; {store.shelf} has no version {version} yet: is this its name?"
    elif options.word == "hold" and version == pointer_text(store.shelf, CURRENT):
        text += f"; {version} is current and answers on, unless it is a canary: rltraderctl models rollback ends that"
    with result_of(f"rltraderctl: models {options.word}"):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def _held_anew(word: str, version: str, reason: str, former: HoldReasons) -> HoldReasons:
    """Return the holds after one of the four commands. Raises ModelError, NotPossible."""
    holds = dict(former.held)
    match word:
        case "hold":
            holds[checked_name(version, "the version")] = reason
        case "release":
            if holds.pop(version, None) is None:
                raise NotPossible(f"{version} is not held back: {', '.join(holds) or 'no version'} is")
        case _:
            return HoldReasons(reason if word == "freeze" else "", holds)
    return HoldReasons(former.frozen, holds)


def _sign(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    model = load_model(store.models_dir, store.strategy, options.version)  # only a checked version may be signed
    folder = store.shelf / checked_name(model.version, "the version")
    manifest = (folder / MANIFEST_FILE).read_bytes()
    if sha256(manifest).hexdigest() != model.manifest_digest:
        raise NotPossible(f"{folder / MANIFEST_FILE} changed while it was looked at: sign it again")
    public = sign(folder, manifest, options.key)
    lead_on(options, "models", "check", model.version, about=STORE)
    console.print(
        f'{folder / SIGNATURE_FILE} is written; it is good for\npublic_key = "{public}"',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _checked_text(option: str, text: str) -> str:
    text = text.strip()
    if not text or len(text) > TEXT_MOST or not text.isprintable():
        raise NotPossible(f"{option} has {len(text)} letters: expected 1 to {TEXT_MOST} printable ones")
    return text


def _user() -> str:
    """Return the person's name, and this process's user id."""
    return f"{person()} (uid {os.getuid()})"


_DO: dict[str, Callable[[ModelStore, argparse.Namespace, Console], int]] = {
    "list": show_all,
    "show": show_one,
    "check": _check,
    "activate": _activate,
    "candidate": _candidate,
    "rollback": _rollback,
    **dict.fromkeys(("hold", "release", "freeze", "thaw"), _holds),
    "sign": _sign,
}
