"""Failures of a REST exchange with Alpaca."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.brokers.api import BrokerError, BrokerRefused


class RestError(BrokerError):
    """The broker did not do, or did not confirm, a request."""


class Refused(RestError, BrokerRefused):
    """A definite refusal (HTTP 4xx). `code` is Alpaca's, None where the body has none; `extra` are the body's other
    keys."""

    def __init__(self, status: int, code: int | None, message: str, extra: Mapping[str, object]) -> None:
        super().__init__(f"{status} {'-' if code is None else code} {message}")
        self.status = status
        self.of_keys = status in (401, 403)
        self.code = code
        self.message = message
        self.extra = extra


class Throttled(RestError):
    """429: the rate limit. `retry_after_s` is from the header, None without one."""

    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__(f"429 rate limit exceeded, retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Unanswered(RestError):
    """No usable answer (timeout, reset, 5xx, redirect, unreadable body): it may or may not have happened."""


class NotSent(RestError):
    """It never left the process: its turn did not come in time, or its queue was full or closed."""


class Lapsed(NotSent):
    """It never left the process: the order's validity had passed when its turn came."""


class MethodRefused(NotSent):
    """A client for other methods was used: a bug. Nothing was sent."""
