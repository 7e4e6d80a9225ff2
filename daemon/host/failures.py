"""The first failure in a group of tasks."""

from __future__ import annotations


def innermost(error: BaseException) -> BaseException:
    """Return the first exception in a group, or in its nested groups, that is not a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
