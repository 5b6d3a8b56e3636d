"""Lines between machines are encrypted, and lead to nobody but the coordinator that the store names.

Its process makes a key and a certificate for itself alone, and keeps the key. The certificate lies in the store beside
its address and the secret that houses say: who may read the store may speak to it, and nobody else understands a word.
"""

import ipaddress
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import grpc

from reelray.cluster.coordinator.words import OPTIONS
from reelray.proto.errors import InputError

CERTIFICATE = "certificate"
"""Name of what the store has of it."""
HOST = "coordinator.reelray.internal"
"""Whom the certificate names, wherever it listens."""
CLOCKS_DIFFER, VALID = timedelta(days=2), timedelta(days=3650)


@dataclass(frozen=True, kw_only=True, slots=True)
class LineKey:
    """Of one coordinator's process.

    Args:
        certificate: In PEM, signed by itself.
        key: Its private key, in PEM.
    """

    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def make(cls) -> Self:
        """A fresh one."""
        from cryptography import x509  # noqa: PLC0415  houses need none of this
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - CLOCKS_DIFFER)
            .not_valid_after(now + VALID)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        return cls(
            certificate=certificate.public_bytes(pem),
            key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        )

    def credentials(self) -> grpc.ServerCredentials:
        """For a server."""
        return grpc.ssl_server_credentials([(self.key, self.certificate)])


def is_socket(address: str) -> bool:
    """Whether an address is a file of this machine."""
    return address.startswith("unix:")


def check_clear(address: str) -> None:
    """Refuse to speak in the clear where others may listen.

    Raises:
        InputError: The address is of the network.
    """
    with suppress(ValueError):
        if is_socket(address) or ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback:
            return
    raise InputError(f"{address} can be reached from other machines; a coordinator's line there must be encrypted")


def open_channel(address: str, certificate: str | None) -> Any:
    """A channel to a coordinator.

    Args:
        address: Where it listens.
        certificate: What the store has of it; None for one that speaks in the clear.

    Raises:
        InputError: It would speak in the clear over the network.
    """
    if certificate is None:
        check_clear(address)
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    trusted = grpc.ssl_channel_credentials(certificate.encode())
    options = (*OPTIONS, ("grpc.ssl_target_name_override", HOST))
    return grpc.aio.secure_channel(address, trusted, options=options)
