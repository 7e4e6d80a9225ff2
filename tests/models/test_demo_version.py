"""Which version a demonstration runs: the current one, or a learned one where that never trades."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from daemon.models.__main__ import version_words
from strategies.registry import strategy
from tests.support.models.tiny_models import manifest_of, mlp, put, weights

NAME = "option_scalper"
PASSIVE = "the passive policy 2024-01-0, the active one: no lead of a learned one is proven"


def version(store: Path, name: str, exported: str, trades: int, *, current: bool = False) -> None:
    policy = mlp(weights())
    manifest = manifest_of(strategy(NAME), policy, ())
    metrics = {**manifest.metrics, "exported": exported, "test": {"trades": trades}}
    put(store, msgspec.structs.replace(manifest, version=name, metrics=metrics), policy, current=current)


@pytest.mark.parametrize(
    ("exported", "trades", "expected"),
    [
        ("passive", 0, "2024-03-b  by the learned policy 2024-03-b, no lead proven: the active one never trades"),
        ("passive", 7, f"current  by {PASSIVE}"),  # a passive policy that holds shares has something to show
        ("unproven", 0, "current "),
        ("", 7, "current "),
    ],
)
def test_a_learned_version_is_shown_where_the_active_one_is_passive_and_never_trades(
    exported: str, trades: int, expected: str, tmp_path: Path
) -> None:
    for name in ("2024-02-a", "2024-03-b"):
        version(tmp_path, name, "unproven", 5)
    version(tmp_path, "2024-01-0", exported, trades, current=True)
    assert version_words(tmp_path, NAME) == expected


def test_without_a_learned_version_the_active_one_is_shown(tmp_path: Path) -> None:
    version(tmp_path, "2024-01-0", "passive", 0, current=True)
    assert version_words(tmp_path, NAME) == f"current  by {PASSIVE}"


def test_a_version_that_says_no_proof_or_was_made_before_there_was_one_is_shown_if_it_traded(tmp_path: Path) -> None:
    version(tmp_path, "2024-01-0", "passive", 0, current=True)
    version(tmp_path, "2024-02-a", "", 37)
    version(tmp_path, "2024-03-b", "unproven", 0)
    assert version_words(tmp_path, NAME).startswith("2024-02-a ")
