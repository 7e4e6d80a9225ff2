"""One Lease at the cluster's API server, asked with the pod's own service account."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.host.pod.lease import ApiError, Conflict, Lease

ANSWER_BYTES_MAX = 2**20
TEXT_MOST = 300  # letters of a refusal


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
            trusted = ssl.create_default_context(cafile=self.account / "ca.crt")
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout_s, context=trusted)
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
