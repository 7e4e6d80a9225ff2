"""Ed25519 signature of a version, over the exact bytes of its manifest.

The manifest holds the digests of the version's files, so one signature covers them all.
"""

from __future__ import annotations

from pathlib import Path

from daemon.host.ed25519 import PUBLIC_KEY_BYTES, is_signature, signature_of
from daemon.host.whole_files import write_whole
from daemon.models.pointer import ModelError

SIGNATURE_FILE = "manifest.sig"
SIGNATURE_BYTES_MAX = 256


def keys_of(public_key: str) -> frozenset[str]:
    """Return the keys of `policy.public_key`."""
    return frozenset(filter(None, public_key.split(",")))


def sign(folder: Path, manifest: bytes, key_file: Path) -> str:
    """Write the version's `manifest.sig` with the private key in `key_file`; returns the public key in base64.

    Raises:
        KeyProblem: the file is no Ed25519 private key, or others than its owner may read it.
        OSError: the signature cannot be written.
    """
    signature, public_key = signature_of(manifest, key_file)
    write_whole(folder / SIGNATURE_FILE, signature.encode() + b"\n", exact=True)
    return public_key


def check_signature(path: Path, manifest: bytes, signature: bytes, public_key: str) -> None:
    """Check the signature (base64) over a manifest's bytes: one of these public keys made it.

    Args:
        public_key: base64, 32 bytes; several are separated by commas.

    Raises:
        ModelError: it is wrong, or key or signature are malformed; check "signature".
    """
    try:
        good = any(is_signature(manifest, signature, key) for key in sorted(keys_of(public_key)))
    except ValueError as error:
        raise ModelError(
            "signature", f"policy.public_key is no Ed25519 key ({error}): give {PUBLIC_KEY_BYTES} bytes in base64"
        ) from None
    if not good:
        raise ModelError(
            "signature",
            f"{path} is not the signature of this manifest by policy.public_key: the version was changed since it was "
            f"signed or is somebody else's; sign it again after you looked at it (rltraderctl models sign)",
        )
