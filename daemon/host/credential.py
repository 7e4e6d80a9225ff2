"""Read a secret: from systemd's credentials (files in $CREDENTIALS_DIRECTORY), else from the environment.

Invariant: a process that read one leaves no core dump.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path


class CredentialProblem(Exception):
    """A credential that cannot be read. The message names its file and no content."""


def credential(name: str) -> tuple[str, str]:
    """Return the secret's stripped text, "" where unset, and its source.

    The process leaves no core dump from then on. Raises CredentialProblem.
    """
    leave_no_core_dump()
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / name
    text = _content(path) if folder else None
    if text is None:
        return os.environ.get(name, "").strip(), f"environment {name}"
    return text.strip(), str(path)


def leave_no_core_dump() -> None:
    """Keep this process's memory, with its secrets, out of core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _content(path: Path) -> str | None:
    """Return the text of a credential's file; None without one."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no ASCII text"
    raise CredentialProblem(f"{path}: the credential cannot be read ({problem}): write the key alone, as text")
