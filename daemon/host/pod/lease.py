"""Hold a Kubernetes Lease: at most one holder, and the time until which it is certainly this one.

Holders need not agree on a wall clock: a holder counts from before its own request, a candidate from after it saw the
record last change, each on a clock of its own that includes suspended time. So a holder that stops by `until` has
stopped before any candidate may begin. The record is that of client-go's leader election; the cluster's API server is
called with the pod's own service account.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import math
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
    """This holder's hold on the Lease. Call `attempt` repeatedly; work that needs the Lease may run until `until`."""

    def __init__(self, api: LeaseApi, holder: str, duration_s: int, clock: Callable[[], float]) -> None:
        """`holder` names this holder and nothing else; `clock` gives seconds that never go back."""
        self.until = -math.inf
        self.other = ""
        self._api, self._holder, self._duration_s, self._clock = api, holder, duration_s, clock
        self._other_record = ("", -math.inf)  # the other's record: resource version, and since when it is unchanged

    @property
    def held(self) -> bool:
        """True while no other holder may begin."""
        return self._clock() < self.until

    def attempt(self) -> bool:
        """Acquire or renew once; return whether the Lease is held. Raises ApiError, which does not end a held Lease."""
        lease = self._api.read()
        spec = lease.get("spec") or {}
        self.other = "" if spec.get("holderIdentity") in (None, "", self._holder) else str(spec["holderIdentity"])
        if self.other and not self._run_out(lease, spec):
            self.until = -math.inf  # removed by hand, or never held
            return False
        time_before = self._clock()
        try:
            self._api.write({**lease, "spec": self._own_spec(spec)})
        except Conflict:  # the next attempt reads the winner
            return self.held
        self.until, self.other = time_before + self._duration_s, ""
        return True

    def release(self) -> None:
        """Release the Lease, so that the next holder need not wait. Only when nothing that needs it runs any more."""
        if not self.held:
            return
        self.until = -math.inf
        lease = self._api.read()
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") == self._holder:
            self._api.write({**lease, "spec": {**spec, "holderIdentity": "", "leaseDurationSeconds": 1}})

    def _run_out(self, lease: Lease, spec: Mapping[str, Any]) -> bool:
        """Return whether the other's record has been unchanged for its whole duration, as observed here."""
        version, now = str((lease.get("metadata") or {}).get("resourceVersion", "")), self._clock()
        if self._other_record[0] != version:
            self._other_record = (version, now)
        return now - self._other_record[1] > max(self._duration_s, int(spec.get("leaseDurationSeconds") or 0))

    def _own_spec(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # for people only: no decision uses it
        renewed = spec.get("holderIdentity") == self._holder
        return {
            **spec,
            "holderIdentity": self._holder,
            "leaseDurationSeconds": self._duration_s,
            "acquireTime": spec.get("acquireTime") or now if renewed else now,
            "renewTime": now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not renewed),
        }


ANSWER_BYTES_MAX = 2**20
TEXT_MOST = 300  # characters of a refusal


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The Lease `name` in the namespace of the service account whose token, namespace and ca.crt lie in `account`."""

    host: str
    port: int
    account: Path
    name: str
    timeout_s: float = 5.0  # of each step of a request

    @classmethod
    def of_pod(cls, environment: Mapping[str, str], account: Path, name: str) -> ApiServer:
        """Return the API server as every container finds it. Raises ApiError outside of a cluster."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not port.isdecimal():
            raise ApiError("KUBERNETES_SERVICE_HOST is not set: a lease is held in a cluster alone, leave --lease out")
        return cls(host, int(port), account, name)

    def read(self) -> Lease:
        """Return the Lease. Raises ApiError."""
        return self._ask("GET", None)

    def write(self, lease: Lease) -> None:
        """Replace the Lease. Raises Conflict where it changed meanwhile, ApiError."""
        self._ask("PUT", json.dumps(lease).encode())

    def _ask(self, method: str, body: bytes | None) -> Lease:
        try:
            token = (self.account / "token").read_text().strip()  # the kubelet writes a new one every hour
            namespace = (self.account / "namespace").read_text().strip()
            context = ssl.create_default_context(cafile=self.account / "ca.crt")
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout_s, context=context)
            path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{self.name}"
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                text = answer.read(ANSWER_BYTES_MAX)
            finally:
                connection.close()
            reply = json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiError(f"the API server at {self.host}:{self.port}: {error}") from error
        if answer.status == http.HTTPStatus.CONFLICT:
            raise Conflict(f"the lease {self.name} changed meanwhile")
        if answer.status != http.HTTPStatus.OK or not isinstance(reply, dict):
            reason = str(reply.get("message", "") if isinstance(reply, dict) else reply)[:TEXT_MOST]
            raise ApiError(f"the API server answers {answer.status} for the lease {namespace}/{self.name}: {reason}")
        return reply
