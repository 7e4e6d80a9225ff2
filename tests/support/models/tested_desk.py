"""The configuration of a desk that has the rules of a version's tests."""

from __future__ import annotations

from pathlib import Path

from daemon.core.strategy_rules import lines_to_claim, trading_for
from strategies.kit.manifest import Manifest


def desk_config_of(manifest: Manifest, folder: Path) -> Path:
    """Write it into the folder; returns its path."""
    lines = lines_to_claim(manifest, trading_for(manifest.strategy))
    path = folder / f"{manifest.strategy}.toml"
    path.write_text("\n".join(("[desk]", f'strategy = "{manifest.strategy}"', *lines, "")))
    return path
