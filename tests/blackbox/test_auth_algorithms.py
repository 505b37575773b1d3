"""Contract §2: each signature algorithm, pinned per key; keys from the configuration and from a JWKS URL."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness.tokens import KeyPair, ec384_pair, ec_pair, ed25519_pair, mint, rsa_pair, unsigned
from harness.wait import until

PAIRS = {"rsa": rsa_pair(), "ec": ec_pair(), "ec384": ec384_pair(), "ed25519": ed25519_pair()}
PUBLIC = [(kind, algorithm) for kind, pair in PAIRS.items() for algorithm in pair.algorithms]


def refused(node, token):
    player = node.connect(token)
    assert player.expect("ERROR")["code"] == "UNAUTHENTICATED"
    player.closes_with(4500)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_hmac(node, algorithm):
    assert node.connect(mint("alice", algorithm=algorithm)).welcome()["player"] == "alice"


@pytest.mark.parametrize("kind, algorithm", PUBLIC)
def test_a_public_key_file(redis, start, tmp_path, kind, algorithm):
    pair = PAIRS[kind]
    key_file = tmp_path / "public.pem"
    key_file.write_bytes(pair.public_pem)
    node = start(redis, auth={"hmac_secret": None, "public_key_file": str(key_file)})
    assert node.connect(mint("alice", key=pair.private, algorithm=algorithm)).welcome()["player"] == "alice"
    others = {"rsa": rsa_pair, "ec": ec_pair, "ec384": ec384_pair, "ed25519": ed25519_pair}
    refused(node, mint("alice", key=others[kind]().private, algorithm=algorithm))
    for other, other_pair in PAIRS.items():
        if other != kind:
            refused(node, mint("alice", key=other_pair.private, algorithm=other_pair.algorithms[0]))


@pytest.mark.parametrize("kind", PAIRS)
def test_a_public_key_is_no_hmac_secret(redis, start, tmp_path, kind):
    """The classic confusion: HS256 over the public key's own text."""
    pair = PAIRS[kind]
    key_file = tmp_path / "public.pem"
    key_file.write_bytes(pair.public_pem)
    node = start(redis, auth={"hmac_secret": None, "public_key_file": str(key_file)})
    for secret in (pair.public_pem, pair.public_pem.strip()):
        refused(node, forged_hmac(secret))
    refused(node, unsigned({"sub": "alice"}))


def forged_hmac(secret):
    import base64
    import hashlib
    import hmac
    import json
    import time

    def encode(raw):
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    claims = {"sub": "alice", "exp": int(time.time()) + 100}
    signed = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    return (signed + b"." + encode(hmac.new(secret, signed, hashlib.sha256).digest())).decode()


@pytest.mark.parametrize("curve, algorithm", [(ec.SECP521R1(), "ES512"), (ec.SECP256K1(), "ES256K")])
def test_an_algorithm_outside_the_contract_is_named_beside_those_that_are_taken(redis, start, tmp_path, curve, algorithm):
    key_file = tmp_path / "public.pem"
    key_file.write_bytes(PAIRS["ec384"].public_pem)
    node = start(redis, auth={"public_key_file": str(key_file)})
    player = node.connect(mint("alice", key=ec.generate_private_key(curve), algorithm=algorithm))
    message = player.expect("ERROR")["message"]
    for name in (algorithm, "ES384", "HS256", "HS384", "HS512"):
        assert name in message
    player.closes_with(4500)


def test_any_of_several_secrets_and_keys_will_do(redis, start, tmp_path):
    """As while one is rotated: the singular keys count too."""
    files = []
    for kind in ("ec", "ec384", "rsa"):
        files.append(tmp_path / f"{kind}.pem")
        files[-1].write_bytes(PAIRS[kind].public_pem)
    new = "z" * 64
    node = start(
        redis,
        auth={"hmac_secrets": [new], "public_key_file": str(files[0]), "public_key_files": [str(file) for file in files[1:]]},
    )
    for token in (mint("alice"), mint("alice", key=new)):
        node.connect(token).welcome()
    for kind in ("ec", "ec384", "rsa"):
        for algorithm in PAIRS[kind].algorithms:
            node.connect(mint("alice", key=PAIRS[kind].private, algorithm=algorithm)).welcome()
    refused(node, mint("alice", key="y" * 64))
    refused(node, mint("alice", key=ec_pair().private, algorithm="ES256"))


# JWKS


def signed(pair: KeyPair, kid, algorithm):
    return mint("alice", key=pair.private, algorithm=algorithm, headers={"kid": kid})


@pytest.mark.parametrize("kind, algorithm", PUBLIC)
def test_a_key_of_a_jwks_url(redis, start, jwks, kind, algorithm):
    pair = PAIRS[kind]
    keys = jwks(pair.jwk("k1", algorithm))
    node = start(redis, auth={"hmac_secret": None, "jwks_url": keys.url})
    node.connect(signed(pair, "k1", algorithm)).welcome()
    refused(node, mint("alice"))


def test_the_algorithm_of_a_jwk_is_pinned(redis, start, jwks):
    pair = PAIRS["rsa"]
    keys = jwks(pair.jwk("k1", "RS256"))
    node = start(redis, auth={"hmac_secret": None, "jwks_url": keys.url})
    refused(node, signed(pair, "k1", "PS256"))
    node.connect(signed(pair, "k1", "RS256")).welcome()


def test_several_jwks_are_told_apart_by_kid(redis, start, jwks):
    keys = jwks(*[PAIRS[kind].jwk(kind, PAIRS[kind].algorithms[0]) for kind in PAIRS])
    node = start(redis, auth={"hmac_secret": None, "jwks_url": keys.url})
    for kind, pair in PAIRS.items():
        node.connect(signed(pair, kind, pair.algorithms[0])).welcome()
    refused(node, signed(PAIRS["ec"], "rsa", "ES256"))


def test_jwks_are_cached(redis, start, jwks):
    keys = jwks(PAIRS["ec"].jwk("k1", "ES256"))
    node = start(redis, auth={"hmac_secret": None, "jwks_url": keys.url})
    for _ in range(20):
        node.connect(signed(PAIRS["ec"], "k1", "ES256")).welcome()
    assert keys.requests <= 3


def test_a_new_key_is_found_after_a_rotation(redis, start, jwks):
    keys = jwks(PAIRS["ec"].jwk("k1", "ES256"))
    node = start(redis, auth={"hmac_secret": None, "jwks_url": keys.url})
    node.connect(signed(PAIRS["ec"], "k1", "ES256")).welcome()
    new = ed25519_pair()
    keys.keys.append(new.jwk("k2", "EdDSA"))

    def welcomed():
        player = node.connect(signed(new, "k2", "EdDSA"))
        return player.expect().type == "WELCOME"

    until(welcomed, "the new key is known", timeout=45)


def test_forged_kids_do_not_make_the_node_ask_again_and_again(redis, start, jwks):
    keys = jwks(PAIRS["ec"].jwk("k1", "ES256"))
    node = start(redis, auth={"hmac_secret": None, "jwks_url": keys.url})
    for number in range(30):
        refused(node, signed(PAIRS["ec"], f"forged-{number}", "ES256"))
    assert keys.requests <= 5


def test_known_keys_live_on_while_the_jwks_url_fails(redis, start, jwks):
    keys = jwks(PAIRS["ec"].jwk("k1", "ES256"))
    node = start(redis, auth={"hmac_secret": None, "jwks_url": keys.url})
    node.connect(signed(PAIRS["ec"], "k1", "ES256")).welcome()
    keys.failing = True
    refused(node, signed(PAIRS["ec"], "k9", "ES256"))
    node.connect(signed(PAIRS["ec"], "k1", "ES256")).welcome()


def test_hmac_tokens_signed_with_a_short_foreign_key_are_refused(node):
    refused(node, jwt.encode({"sub": "alice"}, "secret", algorithm="HS256"))
