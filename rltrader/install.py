"""The command that installs an extra here, for a missing package too. On an index the name is another project's."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rltrader import HOME

EXTRAS = {
    "onnxruntime": "cpu", "apprise": "notify", "redis": "online", "hiredis": "online", "torch": "training",
    "gymnasium": "training", "onnxscript": "training", "optuna": "training", "ray": "scale", "databento": "databento",
    "mcp": "mcp",
}  # fmt: skip
"""A package that an extra of pyproject.toml brings -> that extra."""


def what_installs(error: ModuleNotFoundError) -> str:
    """Return a clause that names the missing package and the command that installs it; "" where no extra brings it."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    return f"{error.name} is not installed: {install_line(extra)}" if extra else ""


def install_line(*extras: str) -> str:
    """Return the command that installs these extras: from a checkout's folder, else of the wheel that is installed."""
    names = ",".join(extras)
    if (HOME / "pyproject.toml").is_file():
        return f"pip install -c constraints.txt -e '.[{names}]'"
    return f"pip install {shlex.quote(f'{_wheel()}[{names}]')}"


def _wheel() -> str:
    """Return the path of the file that was installed; where it is not known or gone, the wheel's name."""
    try:
        installed = distribution("rltrader")
    except PackageNotFoundError:
        return "rltrader.whl"
    try:
        url = urlsplit(json.loads(installed.read_text("direct_url.json") or "{}").get("url", ""))
    except ValueError:
        url = urlsplit("")
    path = Path(unquote(url.path))
    if url.scheme == "file" and path.suffix == ".whl" and path.is_file():
        return str(path)
    return f"rltrader-{installed.version}-py3-none-any.whl"
