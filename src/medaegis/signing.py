"""Ed25519 keys and signatures (RFC 8032) for folders whose origin must be proven."""

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medaegis.errors import ArtefactError, ConfigError

SIGNATURE_BYTES = 64
_KEYS = "`medaegis keys DIR` makes a pair"


def generate_keypair(folder: Path | str) -> tuple[Path, Path]:
    """Makes a key pair: `signing-key.pem` (secret, readable by its owner only) and `public-key.pem`.

    Returns:
        Their paths, the secret one first.

    Raises:
        ArtefactError: one of them exists already (it is kept), or the folder cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    folder = Path(folder)
    paths = folder / "signing-key.pem", folder / "public-key.pem"
    for path in paths:
        if os.path.lexists(path):
            raise ArtefactError(path, "exists already and is kept", "choose another folder for the new keys")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data, mode in zip(paths, (secret, public), (0o600, 0o644), strict=True):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(data)
    except OSError as error:
        raise ArtefactError(folder, f"no keys written: {error.strerror}", "check the disk's space and rights") from None
    return paths


def load_signing_key(path: Path | str) -> Ed25519PrivateKey:
    """An unencrypted Ed25519 private key in PEM; ConfigError for anything else."""
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(path, "is not an unencrypted private key in PEM form", _KEYS) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(path, "is a private key, but not of Ed25519", _KEYS)
    return key


def load_public_key(path: Path | str) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM; ConfigError for anything else."""
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(path, "is not a public key in PEM form (the secret key must not be here)", _KEYS) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(path, "is a public key, but not of Ed25519", _KEYS)
    return key


def key_text(key: Ed25519PublicKey) -> str:
    """The 32 bytes of a public key as 64 hexadecimal digits."""
    return key.public_bytes_raw().hex()


def verifies(message: bytes, signature: bytes, key: str) -> bool:
    """Whether `signature` is that of `message` under the public key given as by `key_text`."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _read(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 16)
    except OSError as error:
        raise ConfigError(path, f"no key can be read: {error.strerror}", "give the path of a PEM file") from None
