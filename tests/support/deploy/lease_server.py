"""An API server with Leases alone, over TLS on loopback: resource versions, conflicts and refusals as in Kubernetes."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.outside.mosquitto import certificates

TOKEN = "the token of the pod"
PATH = "/apis/coordination.k8s.io/v1/namespaces/rltrader/leases/"


class LeaseServer:
    """The Leases by name, and what was asked. `refuse` answers everything with this status; None answers."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.leases: dict[str, dict[str, Any]] = {
            name: {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": "rltrader", "resourceVersion": "1"},
            }
            for name in names
        }
        self.refuse: int | None = None
        self.account = folder / "account"
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        certificates(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "broker.crt", folder / "broker.key")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
        (self.account / "token").write_text(TOKEN)
        (self.account / "namespace").write_text("rltrader")

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self._http.server_address[1])

    def holder(self, name: str) -> str:
        """Who holds the Lease now."""
        return str(self.leases[name].get("spec", {}).get("holderIdentity", ""))

    def change(self, name: str, **spec: object) -> None:
        """Write the Lease as somebody else."""
        with self._lock:
            self._store(name, {**self.leases[name], "spec": {**self.leases[name].get("spec", {}), **spec}})

    def _store(self, name: str, lease: dict[str, Any]) -> None:
        version = str(int(self.leases[name]["metadata"]["resourceVersion"]) + 1)
        self.leases[name] = {**lease, "metadata": {**lease["metadata"], "resourceVersion": version}}

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The answer to one request."""
        with self._lock:
            self.asked.append(method)
            name = path.removeprefix(PATH)
            if self.refuse is not None:
                return self.refuse, {"kind": "Status", "message": "etcdserver: leader changed"}
            if token != f"Bearer {TOKEN}":
                return 401, {"kind": "Status", "message": "Unauthorized"}
            if name not in self.leases:
                return 404, {"kind": "Status", "message": f'leases "{name}" not found'}
            if method == "PUT":
                given = json.loads(body)
                if given["metadata"]["resourceVersion"] != self.leases[name]["metadata"]["resourceVersion"]:
                    return 409, {"kind": "Status", "message": "the object has been modified"}
                self._store(name, given)
            return 200, self.leases[name]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        def answer(request: BaseHTTPRequestHandler) -> None:
            body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
            status, given = self.answer(request.command, request.path, request.headers.get("Authorization", ""), body)
            text = json.dumps(given).encode()
            request.send_response(status)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)

        return type(
            "Handler",
            (BaseHTTPRequestHandler,),
            {"do_GET": answer, "do_PUT": answer, "log_message": lambda *_: None},
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[LeaseServer]:
        """Serve in a thread."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()
