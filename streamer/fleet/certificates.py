"""Certificates for a fleet's servers, signed by its own authority. Needs ``cryptography``."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from streamer.base.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DAYS = 3650
"""Validity; long, as all certificates of an unattended cluster would expire on the same day."""

_LONGEST_NAME = 64
"""Maximum characters of a common name in X.509."""


class Pair(NamedTuple):
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str, now: float) -> Pair:
    """Create an authority.

    Args:
        name: Its common name.
        now: Start of its validity, in seconds since 1970.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = (
        _begun(subject, key, now)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _signed(builder, key, key)


def make_certificate(authority: Pair, hosts: Sequence[str], now: float) -> Pair:
    """Create the certificate of one server, valid for clients and for the other servers.

    Args:
        authority: The authority that signs it.
        hosts: Names and addresses of the server.
        now: Start of its validity, in seconds since 1970.

    Raises:
        RefusedError: The authority is no valid pair of certificate and key.
    """
    try:
        issuer = x509.load_pem_x509_certificate(authority.certificate)
        issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    except (ValueError, TypeError) as error:
        hint = "move both files away to get a new one, and install what it signs on every server"
        raise RefusedError("sign a certificate", "ca.pem, ca.key", f"they hold no authority: {error}", hint) from None
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise RefusedError("sign a certificate", "ca.key", "it is no key of an elliptic curve", "move it away")
    key = ec.generate_private_key(ec.SECP256R1())
    both = x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH, x509.OID_CLIENT_AUTH])  # servers are clients of each other
    builder = (
        _begun(_subject(hosts[0]), key, now)
        .issuer_name(issuer.subject)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _signed(builder, key, issuer_key)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:_LONGEST_NAME])])


def _begun(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: float) -> x509.CertificateBuilder:
    begins = datetime.fromtimestamp(now, UTC) - timedelta(hours=1)  # clocks of hosts differ
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Pair:
    certificate = builder.sign(signer, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), private)
