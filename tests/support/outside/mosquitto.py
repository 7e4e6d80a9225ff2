"""A real Mosquitto with the configuration of systemd/mosquitto/, on free loopback ports, with an authority of its own.

Only paths, address and port differ from what is installed on a host. Everybody's password is made for the test.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import getpass
import ipaddress
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from daemon.operator.mqtt.connection import MqttBroker
from tests.support.paths import REPOSITORY
from tests.support.ports import free_port

INSTALLED = REPOSITORY / "systemd" / "mosquitto"
USERS = ("paper-1", "paper-2", "operator", "monitor", "guard")
BINARY = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
PASSWD = shutil.which("mosquitto_passwd", path="/usr/bin:/usr/local/bin")
LIMIT_S = 180.0  # generous: nothing here is measured


@dataclass(slots=True)
class Mosquitto:
    """One broker: `start` and `stop` as often as wanted, always on the same port."""

    folder: Path
    port: int
    passwords: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def ca_file(self) -> Path:
        """The certificate of the broker's authority."""
        return self.folder / "ca.crt"

    def broker(self, username: str = "paper-1", ca_file: Path | None = None) -> MqttBroker:
        """How a client of this name reaches it."""
        return MqttBroker(
            "127.0.0.1", self.port, ca_file=str(ca_file or self.ca_file), username=username, keepalive_s=10
        )

    def start(self) -> None:
        """Return when it takes connections."""
        assert BINARY is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "-c", str(self.folder / "rltrader.conf")], stdout=log, stderr=log, cwd=self.folder
            )
        end = time.monotonic() + LIMIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "the broker does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def prepared(folder: Path) -> Mosquitto:
    """A broker that is ready to start: certificates, passwords, and the installed files with other paths."""
    folder.mkdir(parents=True, exist_ok=True)
    mosquitto = Mosquitto(folder, free_port(), {user: secrets.token_hex(16) for user in USERS})
    certificates(folder)
    passwords = folder / "rltrader.passwd"
    passwords.write_text("".join(f"{user}:{password}\n" for user, password in mosquitto.passwords.items()))
    assert PASSWD is not None
    subprocess.run([PASSWD, "-U", str(passwords)], check=True, capture_output=True)
    shutil.copy(INSTALLED / "rltrader.acl", folder / "rltrader.acl")
    text = (INSTALLED / "rltrader.conf").read_text()
    for installed, own in (
        ("/etc/mosquitto/certs/", f"{folder}/"),
        ("/etc/mosquitto/", f"{folder}/"),
        ("listener 8883", f"listener {mosquitto.port} 127.0.0.1"),
    ):
        assert installed in text
        text = text.replace(installed, own)
    (folder / "rltrader.conf").write_text(f"user {getpass.getuser()}\n{text}")
    return mosquitto


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Mosquitto]:
    """A broker that runs; skips where Mosquitto is not installed."""
    if BINARY is None or PASSWD is None:
        pytest.skip("needs Debian's packages mosquitto and mosquitto-clients: apt-get install mosquitto")
    mosquitto = prepared(folder)
    mosquitto.start()
    try:
        yield mosquitto
    finally:
        mosquitto.stop()


def authority(folder: Path, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate authority; its certificate is written as `<name>.crt`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rltrader test {name}")])
    certificate = (
        _lasting(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def certificates(folder: Path) -> None:
    """The authority's certificate, and the broker's for 127.0.0.1 with its key."""
    issuer, issuer_key = authority(folder, "ca")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        _lasting(subject, issuer.subject, key)
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    (folder / "broker.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "broker.key").write_bytes(text)


def _lasting(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """A certificate from yesterday until long after this test."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
    )
