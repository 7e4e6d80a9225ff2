"""Run the notebooks: `.venv/bin/python docs/notebooks/run.py FOLDER [NAME …]` writes them with their outputs to FOLDER.

In the repository they stand without outputs: those would be old after the next change, and would hide a line's
change in a comparison. Each runs in a new folder. Exit code 1: a cell raised.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 600


def executed(notebook: Path, folder: Path) -> Any:
    """Run a notebook in `folder`; returns it with its outputs. Raises CellExecutionError."""
    read = nbformat.read(notebook, as_version=4)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    environment = known | {"PATH": programs, "NO_COLOR": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    client = NotebookClient(read, timeout=TIMEOUT_S, resources={"metadata": {"path": str(folder)}})
    client.extra_arguments = ["--log-level=ERROR"]  # a kernel listens on 127.0.0.1 and warns of it
    client.execute(env=environment)
    return read


def main() -> int:
    """Run all notebooks, or those that are named; returns the exit code."""
    to = Path(sys.argv[1])
    names = sys.argv[2:] or [path.stem for path in sorted(HERE.glob("*.ipynb"))]
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"{name}.") as folder:
            try:
                read = executed(HERE / f"{name}.ipynb", Path(folder))
            except CellExecutionError as error:
                sys.stderr.write(f"{name}: {error}\n")
                return 1
        nbformat.write(read, to / f"{name}.ipynb")
        sys.stdout.write(f"{to / name}.ipynb\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
