"""Output of `rltraderctl models list` and `show`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import lead_on
from daemon.cli.models.store import ModelStore, NotPossible
from daemon.core.session import new_york_text
from daemon.host.printable import printable
from daemon.models.ladder.cards import card_of, former_holds
from daemon.models.pointer import CURRENT, POINTERS, ModelError, changes, pointer_text
from daemon.models.signature import SIGNATURE_FILE
from daemon.models.store import (
    ALLOW_PASSIVE,
    LoadedModel,
    claim_words,
    never_traded,
    newest_fitting,
    other_values,
    versions,
)
from daemon.models.store import load as load_model
from strategies.kit.card import CARD_FILE
from strategies.registry import configured

HISTORY_SHOWN = 10
SHOW_FIGURES = 12  # most metrics of the manifest in `show`


def show_all(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    pointers = {pointer: pointer_text(store.shelf, pointer) for pointer in POINTERS}
    table = Table(box=None, pad_edge=False)
    for title in ("version", "named by", "promoted", "trained until", "feed", "signed", "note"):
        table.add_column(title, overflow="fold")
    names = versions(store.models_dir, store.strategy.spec.name)
    holds = held_back(store)
    for version in names:
        marks = ", ".join(pointer for pointer, name in pointers.items() if name == version)
        with _as_row(table, version, marks) as row:
            model = load_model(store.models_dir, store.strategy, version)
            manifest = model.manifest
            row += [
                "yes" if manifest.promoted else "no",
                manifest.training.last_session,
                manifest.training.feed,
                _signature_text(store, version),
                "; ".join(filter(None, (f"held back: {holds[version]}" if version in holds else "", manifest.note))),
            ]
    if not names:
        shelves = sorted(path.name for path in store.models_dir.glob("*") if versions(store.models_dir, path.name))
        other_shelves = f"; for those of {', '.join(shelves)} add --strategy NAME" if shelves else ""
        raise NotPossible(
            f"{store.shelf} holds no version: train and export a model, or correct --models-dir{other_shelves}"
        )
    if (active := pointers[CURRENT]) in names:
        words = ["show", active]
    elif fitting := newest_fitting(store.models_dir, store.strategy):
        more = [ALLOW_PASSIVE] if never_traded(fitting.manifest) else []
        words = ["activate", fitting.version, *more, "--reason", "TEXT"]
    else:
        words = ["check", names[-1]]
    lead_on(options, "models", *words, about=("models_dir", "strategy", "config"))
    console.print(table)
    for pointer, name in pointers.items():
        if name and name not in names:
            console.print(f"{pointer} names {name!r}, and there is no such version", highlight=False, markup=False)
    return 0


@contextmanager
def _as_row(table: Table, *cells: str) -> Iterator[list[str]]:
    """Yield a list for the row's other cells; an error meanwhile is written into the last one."""
    more: list[str] = []
    try:
        yield more
    except ModelError as error:
        more = ["", "", "", "", f"refused, {error.check}"]
    table.add_row(*cells, *map(printable, more))


def held_back(store: ModelStore) -> dict[str, str]:
    """Return the held-back versions with their reasons; {} if unreadable."""
    try:
        return former_holds(store.shelf).held
    except ModelError:
        return {}


def _signature_text(store: ModelStore, version: str) -> str:
    """Describe the signature; with policy.public_key, whether it is valid for that key."""
    key = store.settings.policy.public_key
    if not (store.shelf / version / SIGNATURE_FILE).exists():
        return "no"
    if not key:
        return "not checked"
    try:
        load_model(store.models_dir, store.strategy, version, key)
    except ModelError as error:
        return "wrong" if error.check == "signature" else "no"
    return "yes"


def show_one(store: ModelStore, options: argparse.Namespace, console: Console) -> int:
    model = load_model(store.models_dir, store.strategy, options.version)
    lead_on(options, "models", "check", model.version, about=("models_dir", "strategy", "config"))
    manifest, training = model.manifest, model.manifest.training
    lines: list[tuple[str, object]] = [
        ("version", model.version),
        ("named by", ", ".join(p for p in POINTERS if pointer_text(store.shelf, p) == model.version) or "no pointer"),
        ("promoted", "yes" if manifest.promoted else "no: on a live account it would deny every entry"),
        ("policy", f"{len(model.policy):,} bytes, SHA-256 {model.digest}"),
        ("contract hash", manifest.contract_hash),
        ("signed", _signature_text(store, model.version)),
        (
            "trained on",
            f"{training.file}, {training.sessions} sessions {training.first_session} to {training.last_session}",
        ),
        ("feed", f"{training.feed}{', synthetic bars' if training.synthetic else ''}"),
        ("files", ", ".join(manifest.files) or "none vouched for"),
        ("note", manifest.note),
        ("held back", held_back(store).get(model.version, "no")),
        ("claim", claim_words(manifest, store.settings.trading(), configured(store.strategy.spec)) or "none"),
    ]
    if values := other_values(manifest, store.strategy.spec):
        lines.append(("values", values))
    lines += _lineage(model)
    lines += [(f"rule {key}", value) for key, value in manifest.rules.items()]
    lines += [(name, value) for name, value in list(manifest.metrics.items())[:SHOW_FIGURES] if _plain(value)]
    for title, value in lines:
        console.print(f"{printable(title):<18} {printable(str(value))}", highlight=False, markup=False, soft_wrap=True)
    history = [change for change in changes(store.shelf) if model.version in (change.before, change.after)]
    for change in history[-HISTORY_SHOWN:]:
        line = (
            f"{new_york_text(change.time_ns)}  {change.pointer}: {change.before or 'none'} -> {change.after or 'none'}"
        )
        console.print(printable(f"{line}, {change.who}: {change.why}"), highlight=False, markup=False, soft_wrap=True)
    return 0


def _lineage(model: LoadedModel) -> list[tuple[str, object]]:
    """Return the card's lines (parent, trainer, stream and figures); none for a version without a card."""
    if CARD_FILE not in model.manifest.files:
        return []
    card = card_of(model)
    lines: list[tuple[str, object]] = [
        ("parent", card.parent),
        ("trainer", card.trainer),
        ("stream", f"{card.stream or 'none'}, rows {card.first_row} to {card.last_row}"),
        ("log", f"{card.decisions:,} decisions of {card.sessions} sessions, exploration {card.exploration:.1%}"),
        ("overlap", f"{card.overlap:.2f}, {card.effective:,.0f} effective episodes"),
    ]
    lines += [
        (f"lead by {name}", f"{lead.estimate:+.5f}, 95 % interval {lead.low:+.5f} to {lead.high:+.5f}")
        for name, lead in card.leads.items()
    ]
    return lines if card.leads else [*lines, ("lead", f"cannot be said: {card.cannot_be_said}")]


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float)
