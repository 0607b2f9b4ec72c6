"""Writes the golden vaults of format 1 and prints the keys they must yield.

Shares no code with the crate: BIP39, SLIP-0010 and HChaCha20 are written out
here, the rest comes from the Python package `cryptography`. The files are
promises to vaults that exist, so run this for a new format, never to make a
test pass.
"""

import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

HERE = pathlib.Path(__file__).parent
WORDS = "abandon " * 23 + "art"
PASSPHRASE = "grüne Wiese"  # Wraps the seed.
BIP39_PASSPHRASE = "TREZOR"


def derive(seed, path):
    """SLIP-0010, Ed25519."""
    node = hmac.digest(b"ed25519 seed", seed, "sha512")
    for index in path:
        data = b"\0" + node[:32] + struct.pack(">I", index | 1 << 31)
        node = hmac.digest(node[32:], data, "sha512")
    return node[:32]


def hchacha20(key, nonce):
    """draft-irtf-cfrg-xchacha-03, section 2.2."""
    s = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
    s += struct.unpack("<4I", nonce)

    def quarter(a, b, c, d):
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            mixed = s[z] ^ s[x]
            s[z] = (mixed << bits | mixed >> (32 - bits)) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<8I", *s[:4], *s[12:])


def write(name, wrap, key, kdf):
    nonce = hashlib.sha256(name.encode()).digest()[:24]
    aad = f"alknet-vault format=1 wrap={wrap}".encode()
    cipher = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    ciphertext = cipher.encrypt(bytes(4) + nonce[16:], SEED, aad)
    vault = {"format": 1, "wrap": wrap}
    if kdf:
        vault["kdf"] = kdf
    vault["cipher"] = "xchacha20-poly1305"
    vault["nonce"] = nonce.hex()
    vault["ciphertext"] = ciphertext.hex()
    compact = json.dumps(vault, separators=(",", ":")).encode()
    vault["checksum"] = hashlib.sha256(compact).hexdigest()
    (HERE / name / "vault.json").write_text(json.dumps(vault, indent=2) + "\n")


SEED = hashlib.pbkdf2_hmac(
    "sha512", WORDS.encode(), b"mnemonic" + BIP39_PASSPHRASE.encode(), 2048
)

key_file = hashlib.sha256(b"golden key file").digest()
(HERE / "v1-key-file" / "vault.key").write_text(key_file.hex() + "\n")
write("v1-key-file", "key-file", key_file, None)

salt = hashlib.sha256(b"golden salt").digest()[:16]
kdf = {"name": "argon2id", "memory_kib": 8192, "passes": 2, "lanes": 2, "salt": salt.hex()}
argon2id = Argon2id(salt=salt, length=32, iterations=2, lanes=2, memory_cost=8192)
write("v1-passphrase", "passphrase", argon2id.derive(PASSPHRASE.encode()), kdf)

for name, path in {
    "node": (74, 0, 0, 0),
    "owner": (74, 0, 0, 1),
    "ssh host": (74, 0, 1, 0),
    "sealing 1": (74, 2, 0, 1),
}.items():
    secret = derive(SEED, path)
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key()
    print(f"{name}: secret {secret.hex()}, public {public.public_bytes_raw().hex()}")


def seal(version, kind, provider, account, secret):
    """A sealed secret: format 1, nonce, ciphertext and tag."""
    key = derive(SEED, (74, 2, 0, version))
    nonce = hashlib.sha256(b"golden sealed").digest()[:24]
    aad = b"alknet-sealed\x01" + struct.pack(">I", version)
    for field in (kind, provider, account):
        aad += struct.pack(">Q", len(field)) + field.encode()
    cipher = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return b"\x01" + nonce + cipher.encrypt(bytes(4) + nonce[16:], secret, aad)


sealed = seal(1, "credential", "github", "ada", b"a token of another day")
(HERE / "sealed.hex").write_text(sealed.hex() + "\n")
