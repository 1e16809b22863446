"""Keys and masks: what two clients can agree on without the server, and the numbers that come of it.

    s_uv = HKDF-SHA256(X25519(secret of u, public of v))        the same for u and v
    mask = ChaCha20 stream under s_uv, as residues modulo 2^b
    box  = ChaCha20-Poly1305 under another key of the pair, one for each direction

Every key is bound to the session, so that nothing of one round is of use in another. A box has a nonce of zeros: its
key is used once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtheta.errors import FormatError, MissingExtra
from dtheta.federate.secure.ring import Residues, reduced

KEY_BYTES = 32
TAG_BYTES = 16


def _cryptography() -> Any:
    try:
        import cryptography.hazmat.primitives.asymmetric.x25519 as x25519
        import cryptography.hazmat.primitives.ciphers as ciphers
        import cryptography.hazmat.primitives.ciphers.aead as aead
        import cryptography.hazmat.primitives.hashes as hashes
        import cryptography.hazmat.primitives.kdf.hkdf as hkdf
    except ImportError as error:
        raise MissingExtra("secure aggregation needs cryptography: pip install 'dtheta[secure]'") from error
    return x25519, ciphers, aead, hashes, hkdf


def new_secret() -> bytes:
    """Return a fresh X25519 secret key from the operating system.

    Raises:
        MissingExtra: Without cryptography.
    """
    x25519, *_ = _cryptography()
    return x25519.X25519PrivateKey.generate().private_bytes_raw()


def public_of(secret: bytes) -> bytes:
    """Return the public key of a secret one."""
    x25519, *_ = _cryptography()
    return x25519.X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agreed(secret: bytes, public: bytes, purpose: bytes) -> bytes:
    """Return the key that two parties share for a purpose, from the secret of one and the public key of the other.

    Raises:
        FormatError: If the public key is one of the few that agree on the same with everybody.
    """
    x25519, _, _, hashes, hkdf = _cryptography()
    try:
        other = x25519.X25519PublicKey.from_public_bytes(public)
        raw = x25519.X25519PrivateKey.from_private_bytes(secret).exchange(other)
    except ValueError:
        raise FormatError("a public key that no secret key belongs to") from None
    return hkdf.HKDF(hashes.SHA256(), KEY_BYTES, None, purpose).derive(raw)


def mask(seed: bytes, count: int, bits: int) -> Residues:
    """Return the mask of a 32-byte seed, (count,), modulo 2^b."""
    _, ciphers, *_ = _cryptography()
    word = next(kind for kind in ("<u1", "<u2", "<u4") if 8 * np.dtype(kind).itemsize >= bits)
    stream = ciphers.Cipher(ciphers.algorithms.ChaCha20(seed, bytes(16)), None).encryptor()
    return reduced(np.frombuffer(stream.update(bytes(count * np.dtype(word).itemsize)), word), bits)


def boxed(key: bytes, text: bytes, context: bytes) -> bytes:
    """Return text encrypted under a key that is used once; the context is authenticated with it."""
    _, _, aead, *_ = _cryptography()
    return aead.ChaCha20Poly1305(key).encrypt(bytes(12), text, context)


def unboxed(key: bytes, box: bytes, context: bytes) -> bytes | None:
    """Return the text of a box, or None if it was changed or is of another context."""
    from cryptography.exceptions import InvalidTag

    _, _, aead, *_ = _cryptography()
    try:
        return aead.ChaCha20Poly1305(key).decrypt(bytes(12), box, context)
    except InvalidTag:
        return None
