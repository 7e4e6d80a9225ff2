"""Versions with a card in a store, as a trainer publishes them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec

from strategies.kit import card as cards
from strategies.kit.manifest import MANIFEST_FILE, decode, encode
from tests.support.models.swaps import publish

CARD = cards.Card(
    format=cards.FORMAT,
    version="v2",
    parent="v1",
    trainer="trainer's code",
    stream="rltrader:desk:epoch:experience",
    first_row=1,
    last_row=900,
    decisions=3000,
    sessions=10,
    exploration=0.03,
    overlap=1.0,
    effective=900.0,
    leads={"dr": cards.Lead(estimate=0.2, low=0.1, high=0.3)},
    session_mean=0.0,
    session_deviation=0.5,
    band=(0.005, 0.02, 0.08, 0.32),
)


def with_card(store: Path, card: cards.Card, *, seed: int = 2, version: str = "", vouched: bool = True) -> Path:
    """Publish a version (the card's, unless another is named) with this card; the manifest vouches for it or not."""
    return vouch(publish(store, version or card.version, seed), card, vouched=vouched)


def vouch(folder: Path, card: cards.Card, *, vouched: bool = True) -> Path:
    """Put the card into the version's folder; the manifest vouches for it or not."""
    data = cards.encode(card)
    (folder / cards.CARD_FILE).write_bytes(data)
    if vouched:
        manifest = decode((folder / MANIFEST_FILE).read_bytes())
        files = {cards.CARD_FILE: sha256(data).hexdigest()}
        (folder / MANIFEST_FILE).write_bytes(encode(msgspec.structs.replace(manifest, files=files)))
    return folder
