"""Minting JWTs in every algorithm of the contract, and a JWKS endpoint to find the public keys at."""

import base64
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "a-test-secret-that-is-long-enough-for-every-hmac-of-the-contract-0123456789"


def mint(sub="alice", *, key=SECRET, algorithm="HS256", expires_in=3600, headers=None, **claims):
    """A token; `expires_in=None` leaves `exp` out, `sub=None` leaves `sub` out."""
    body = dict(claims)
    if sub is not None:
        body["sub"] = sub
    if expires_in is not None:
        body["exp"] = int(time.time() + expires_in)
    return jwt.encode(body, key, algorithm=algorithm, headers=headers)


def mint_expiring_at(when, sub="alice", **claims):
    """A token whose `exp` is this Unix time in seconds, a fraction allowed."""
    return jwt.encode({"sub": sub, "exp": when, **claims}, SECRET, algorithm="HS256")


def unsigned(claims, header=None):
    """An `alg: none` token, which nobody may accept."""
    parts = [header or {"alg": "none", "typ": "JWT"}, claims]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


@dataclass
class KeyPair:
    """A private key to sign with, and its public side as PEM and as a JWK."""

    private: object
    algorithms: tuple

    @property
    def public_pem(self):
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def jwk(self, kid, algorithm):
        kinds = {"RS": jwt.algorithms.RSAAlgorithm, "PS": jwt.algorithms.RSAAlgorithm, "ES": jwt.algorithms.ECAlgorithm}
        kind = kinds.get(algorithm[:2], jwt.algorithms.OKPAlgorithm)
        key = json.loads(kind.to_jwk(self.private.public_key()))
        key.pop("key_ops", None)
        return {**key, "kid": kid, "alg": algorithm, "use": "sig"}


def rsa_pair():
    return KeyPair(rsa.generate_private_key(public_exponent=65537, key_size=2048), ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))


def ec_pair():
    return KeyPair(ec.generate_private_key(ec.SECP256R1()), ("ES256",))


def ec384_pair():
    return KeyPair(ec.generate_private_key(ec.SECP384R1()), ("ES384",))


def ed25519_pair():
    return KeyPair(ed25519.Ed25519PrivateKey.generate(), ("EdDSA",))


class Jwks:
    """A local HTTP server with a key set that tests change; counts how often it is asked."""

    def __init__(self, *keys):
        self.keys = list(keys)
        self.requests = 0
        self.failing = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                body = json.dumps({"keys": outer.keys}).encode()
                self.send_response(500 if outer.failing else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/.well-known/jwks.json"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
