"""What failed first in a group of tasks."""

from __future__ import annotations


def innermost(error: BaseException) -> BaseException:
    """Return the first exception of a group, and of the groups in it, that is none itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
