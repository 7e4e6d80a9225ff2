"""Hold a Kubernetes Lease: at most one holder, and the moment until which it is certainly this one.

Two holders never agree on a wall clock, and need not: a holder counts from before its own request, a candidate from
after it saw the record last change, each on a clock of its own that also counts suspended time. So a holder that stops
by `until` has stopped before any candidate may begin. The record is that of client-go's leader election.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Lease = Mapping[str, Any]
"""A Lease of coordination.k8s.io/v1, as JSON."""


class ApiError(Exception):
    """The API server did not answer, or refused. The message names the cure where it is the operator's."""


class Conflict(ApiError):
    """The Lease changed since it was read: another writer was first."""


class LeaseApi(Protocol):
    """One Lease at the API server. Both calls raise ApiError; `write` raises Conflict."""

    def read(self) -> Lease:
        """Return the Lease."""

    def write(self, lease: Lease) -> None:
        """Replace the Lease, if it still has the resource version of `lease`."""


class Tenure:
    """This holder's hold on the Lease. `attempt` again and again; what needs it may run until `until`."""

    def __init__(self, api: LeaseApi, holder: str, duration_s: int, clock: Callable[[], float]) -> None:
        """`holder` names this holder and nothing else; `clock` gives seconds that never go back."""
        self.until = -math.inf
        self.other = ""
        self._api, self._holder, self._duration_s, self._clock = api, holder, duration_s, clock
        self._seen = ("", -math.inf)  # the other's record: resource version, and since when it stands

    @property
    def held(self) -> bool:
        """True while no other holder may begin."""
        return self._clock() < self.until

    def attempt(self) -> bool:
        """Acquire or renew once. Returns whether the Lease is held. Raises ApiError: what was held stays held."""
        lease = self._api.read()
        spec = lease.get("spec") or {}
        self.other = "" if spec.get("holderIdentity") in (None, "", self._holder) else str(spec["holderIdentity"])
        if self.other and not self._run_out(lease, spec):
            self.until = -math.inf  # taken away by hand, or never held
            return False
        before = self._clock()
        try:
            self._api.write({**lease, "spec": self._mine(spec)})
        except Conflict:  # the next attempt reads who was first
            return self.held
        self.until, self.other = before + self._duration_s, ""
        return True

    def release(self) -> None:
        """Give the Lease back, so that the next holder need not wait. Only when nothing that needs it runs any more."""
        if not self.held:
            return
        self.until = -math.inf
        lease = self._api.read()
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") == self._holder:
            self._api.write({**lease, "spec": {**spec, "holderIdentity": "", "leaseDurationSeconds": 1}})

    def _run_out(self, lease: Lease, spec: Mapping[str, Any]) -> bool:
        """Return whether the other's record has stood unchanged for its whole duration, as seen from here."""
        version, now = str((lease.get("metadata") or {}).get("resourceVersion", "")), self._clock()
        if self._seen[0] != version:
            self._seen = (version, now)
        return now - self._seen[1] > max(self._duration_s, int(spec.get("leaseDurationSeconds") or 0))

    def _mine(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # for people: nothing here is decided by it
        renewed = spec.get("holderIdentity") == self._holder
        return {
            **spec,
            "holderIdentity": self._holder,
            "leaseDurationSeconds": self._duration_s,
            "acquireTime": spec.get("acquireTime") or now if renewed else now,
            "renewTime": now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not renewed),
        }
