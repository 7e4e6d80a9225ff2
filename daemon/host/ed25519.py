"""Ed25519 keys and signatures (RFC 8032), for model versions and heads of a journal's chain.

Invariant: a private key is readable by its owner only, and its value is in no output, exception or log.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

PUBLIC_KEY_BYTES = 32
KEY_BYTES_MAX = 4096


class KeyProblem(ValueError):
    """An unusable key file; the text has the reason and the cure, never the file's content."""


def keygen(path: Path) -> str:
    """Write a new private key (PEM, PKCS 8) to `path`, for its owner only; return the public one in base64.

    Raises:
        KeyProblem: there is a file already, or it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization  # 40 ms, loaded only when signatures are used
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise KeyProblem(
            f"{path}: the key cannot be written ({error.strerror}): name a new file in a folder of yours"
        ) from None
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signature_of(data: bytes, key_file: Path) -> tuple[str, str]:
    """Return the signature of these bytes with the private key in `key_file`, and the public key, both in base64.

    Raises:
        KeyProblem: the file is no Ed25519 private key, or others than its owner may read it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with key_file.open("rb") as file:
            mode, pem = os.fstat(file.fileno()).st_mode, file.read(KEY_BYTES_MAX)
    except (OSError, ValueError) as error:
        raise KeyProblem(f"{key_file}: the key cannot be read ({type(error).__name__}): check path and owner") from None
    if mode & _open_bits(key_file):
        raise KeyProblem(f"{key_file}: others may use this key (mode {stat.S_IMODE(mode):o}): chmod 600, or a new key")
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyProblem(f"{key_file}: no Ed25519 private key in PEM: make one with rltraderctl models keygen")
    public_key = key.public_key().public_bytes_raw()
    return base64.b64encode(key.sign(data)).decode(), base64.b64encode(public_key).decode()


def _open_bits(key_file: Path) -> int:
    """Return the permission bits that a key's file must not have; a credential's group, the service's own, may read."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    in_folder = folder and key_file.absolute().parent == Path(folder).absolute()
    return stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if in_folder else stat.S_IRWXG)


def is_signature(data: bytes, signature: bytes, public_key: str) -> bool:
    """Return whether the public key (base64, 32 bytes) made this signature (base64) of these bytes.

    Raises:
        ValueError: the public key is invalid.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
    try:
        key.verify(base64.b64decode(signature.strip(), validate=True), data)
    except (InvalidSignature, ValueError):
        return False
    return True
