"""Prints which version a demonstration runs: `python -m daemon.models STRATEGY`. Used by `make demo`.

The store's `current`, or, if that is a passive policy that never trades, the newest learned version that traded in its
test. The rest of the line says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

from daemon.models.pointer import CURRENT
from daemon.models.shipped import USUAL, to_read
from daemon.models.store import is_passive, trades_in_test, versions
from strategies.kit.manifest import MANIFEST_FILE, Manifest, decode


def version_words(models_dir: Path, strategy: str) -> str:
    """Return the version's name, a space, and words for what was not learned or is not current, which go on a sentence.

    Raises OSError, ValueError for a pointer or a manifest that cannot be read.
    """

    def manifest(version: str) -> Manifest:
        return decode((models_dir / strategy / version / MANIFEST_FILE).read_bytes())

    current = (models_dir / strategy / CURRENT).read_text().strip()
    facts = manifest(current)
    if not is_passive(facts):
        return f"{CURRENT} "
    passive = f"{CURRENT}  by the passive policy {current}, the active one: no lead of a learned one is proven"
    if trades_in_test(facts) != 0:
        return passive
    manifests = {version: manifest(version) for version in versions(models_dir, strategy)}
    learned_versions = [
        version for version, one in manifests.items() if not is_passive(one) and trades_in_test(one) != 0
    ]
    if not learned_versions:
        return passive
    newest = learned_versions[-1]
    return f"{newest}  by the learned policy {newest}, no lead proven: the active one never trades"


if __name__ == "__main__":
    try:
        print(version_words(to_read(USUAL), sys.argv[1]))
    except (IndexError, OSError, ValueError) as error:
        raise SystemExit(f"python -m daemon.models STRATEGY: {error}") from None
