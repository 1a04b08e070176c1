"""Somebody who issues tokens and shares nothing with us: PyJWT and cryptography. Each line of
standard input asks for something as JSON, and is answered with a line: a set of public keys
for {"jwks": [KEY, …]}, a token for {"key": KEY, "claims": {…}, "header": {…}}. A key is its
algorithm and a number, as ES256-1, and is made when it is first asked for."""

import base64
import hashlib
import hmac
import json
import sys

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

KEYS = {}


def key(name):
    if name not in KEYS:
        KEYS[name] = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }.get(algorithm(name), lambda: rsa.generate_private_key(65537, 2048))()
    return KEYS[name]


def algorithm(name):
    return name.partition("-")[0]


def public(name):
    jwk = jwt.get_algorithm_by_name(algorithm(name)).to_jwk(key(name).public_key(), as_dict=True)
    return {**jwk, "kid": name, "use": "sig", "alg": algorithm(name)}


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def confused(name, claims):
    """Signed with HMAC by the public key of another algorithm, which PyJWT won't do."""
    pem = key(name).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": name}).encode()
    signed = f"{part(header)}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"


def answer(asked):
    if "jwks" in asked:
        return json.dumps({"keys": [public(name) for name in asked["jwks"]]})
    name, claims = asked["key"], asked["claims"]
    headers = {"kid": name, **asked.get("header", {})}
    match asked.get("as", algorithm(name)):
        case "none":
            return jwt.encode(claims, None, algorithm="none", headers=headers)
        case "HS256":
            return confused(name, claims)
        case other:
            return jwt.encode(claims, key(name), algorithm=other, headers=headers)


for line in sys.stdin:
    print(answer(json.loads(line)), flush=True)
