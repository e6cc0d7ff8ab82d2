"""A token issuer for tests: keys of every kind, malformed tokens, a key set over HTTP, a certificate."""

import asyncio
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.utils import base64url_encode

NAME = "https://issuer.example"
AUDIENCE = "taskql"


@dataclass(frozen=True)
class SigningKey:
    """A private key, and its public JWK as the issuer publishes it."""

    algorithm: str
    private: Any
    kid: str | None = None
    published: Mapping[str, Any] = field(default_factory=dict)

    def pem(self) -> bytes:
        """The public key as PEM text, which an attacker may use as an HMAC secret."""
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem


def made_key(algorithm: str, kid: str | None = None, *, bits: int = 2048, **members: Any) -> SigningKey:
    """A new key for an algorithm; `members` add to its JWK, or remove from it where they are None."""
    private = _private(algorithm, bits)
    public = private.public_key()
    published = {**jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True), "kid": kid, "alg": algorithm}
    published = {name: value for name, value in (published | members).items() if value is not None}
    return SigningKey(algorithm, private, kid, published)


def _private(algorithm: str, bits: int) -> Any:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if algorithm in curves:
        return ec.generate_private_key(curves[algorithm])
    return rsa.generate_private_key(65537, bits)


def shared_key(secret: str, algorithm: str = "HS256") -> SigningKey:
    return SigningKey(algorithm, secret.encode())


def claims(subject: object, **more: Any) -> dict[str, Any]:
    """Claims that are valid for an hour; None omits a claim."""
    now = int(time.time())
    given = {"iss": NAME, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 3600} | more
    return {name: value for name, value in given.items() if value is not None}


def token(key: SigningKey, content: Mapping[str, Any] | bytes, **header: Any) -> str:
    """Sign a payload without validating it; None omits a member of the header."""
    named = {"alg": key.algorithm, "typ": "JWT", "kid": key.kid} | header
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    return sealed(key, {name: value for name, value in named.items() if value is not None}, payload)


def sealed(key: SigningKey, header: Mapping[str, Any], payload: bytes) -> str:
    algorithm = jwt.get_algorithm_by_name(key.algorithm)
    text = base64url_encode(json.dumps(header).encode()) + b"." + base64url_encode(payload)
    return (text + b"." + base64url_encode(algorithm.sign(text, algorithm.prepare_key(key.private)))).decode()


def confused(secret: bytes, content: Mapping[str, Any]) -> str:
    """An HS256 token signed with public data as the secret."""
    head = base64url_encode(b'{"alg": "HS256", "typ": "JWT", "kid": "rsa"}')
    text = head + b"." + base64url_encode(json.dumps(content).encode())
    return (text + b"." + base64url_encode(hmac.digest(secret, text, "sha256"))).decode()


def self_signed(directory: Path) -> Path:
    """A self-signed certificate for localhost and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = directory / "certificate.pem"
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


class Published:
    """A key set endpoint: its content, the number of fetches, and whether it responds."""

    def __init__(self, url: str, keys: Sequence[SigningKey]) -> None:
        self.url, self.fetches, self.status = url, 0, "200 OK"
        self.headers = "Content-Type: application/json\r\n"
        self.answers = asyncio.Event()
        self.answers.set()
        self.publish(*keys)

    def publish(self, *keys: SigningKey) -> None:
        self.body = json.dumps({"keys": [key.published for key in keys]}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            await self.answers.wait()
            head = (
                f"HTTP/1.1 {self.status}\r\n{self.headers}Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + self.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def published(*keys: SigningKey, tls: ssl.SSLContext | None = None) -> AsyncIterator[Published]:
    """Serve a key set on this machine."""
    issuer = Published("", keys)
    async with await asyncio.start_server(issuer.answer, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        issuer.url = f"https://localhost:{port}/jwks" if tls else f"http://127.0.0.1:{port}/jwks"
        try:
            yield issuer
        finally:
            issuer.answers.set()
