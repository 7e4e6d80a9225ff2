"""What the process does without: pandas, unless the broker's library needs it. 90 MB and 0.3 s.

TA-Lib and pyarrow import pandas only to recognise its Series; alpaca-py, which only a live desk loads, needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _WithoutPandas(MetaPathFinder):
    """An import of pandas in this process ends as if it were not installed; its users then do without."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("rltraderd does not load pandas", name=name)


def without_pandas() -> None:
    """From here on pandas cannot be imported."""
    sys.meta_path.insert(0, _WithoutPandas())


def with_pandas() -> None:
    """From here on it can."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _WithoutPandas)]
