"""The door of the process `rltraderd`: says what it never loads, then hands over to `daemon.cli`.

TA-Lib and pyarrow import pandas only to recognise its Series: 90 MB and 0.3 s for nothing that this process uses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _WithoutPandas(MetaPathFinder):
    """An import of pandas in this process ends as if it were not installed; its users then do without."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("rltraderd does not load pandas", name=name)


def main() -> int:
    """Run `rltraderd`; returns the exit code."""
    sys.meta_path.insert(0, _WithoutPandas())
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy multiplies nothing here; its idle threads cost time
    from daemon import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
