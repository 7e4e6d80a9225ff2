"""Block the import of pandas (90 MB, 0.3 s): TA-Lib and pyarrow import it only to recognise its Series.

An own strategy that imports a library gets pandas back (`strategies.kit.own.load`): the daemon then loads what training
loads.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _WithoutPandas(MetaPathFinder):
    """Fails each import of pandas as if it were not installed; its users then go without."""

    for_shipped_alone = True

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("the programs of the daemon do not load pandas", name=name)


def without_pandas() -> None:
    """Make every later import of pandas fail as if it were not installed."""
    sys.meta_path.insert(0, _WithoutPandas())
