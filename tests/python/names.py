"""Reads the golden files with other people's code: Python's hashlib, the package
`multiformats` for CIDs, and a protobuf reader of a few lines. Agrees, or says
with what it does not.

    python tests/python/names.py tests/golden
"""

import hashlib
import pathlib
import sys

from multiformats import CID, multihash

PIECE_BYTES = 1 << 20


def content(length, seed):
    """The content of the golden chunks, as tests/golden.rs makes it."""
    return bytes((n * 31 + seed) % 251 for n in range(length))


CHUNKS = {
    "two pieces": content(PIECE_BYTES + 1, 1),
    "short": content(7, 2),
    "full piece": content(PIECE_BYTES, 3),
}


def cid_of(data):
    return str(CID("base32", 1, "raw", multihash.digest(data, "sha2-256")))


def listing(text):
    """Names and bytes of a golden listing."""
    items = {}
    for line in text.splitlines():
        if line.startswith("  "):
            items[name] += bytes.fromhex(line.strip())
        else:
            name = line
            items[name] = b""
    return items


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """The fields of a protobuf message, in order."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        value, at = varint(data, at)
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        yield key >> 3, value


def check_manifest(name, data):
    """Chunks of a manifest against the content that they must have."""
    numbers = [number for number, _ in fields(data)]
    assert numbers == sorted(numbers), f"{name}: fields out of order"
    known = {hashlib.sha256(chunk).digest(): chunk for chunk in CHUNKS.values()}
    chunks = [dict(fields(value)) for number, value in fields(data) if number == 10]
    for entry in chunks:
        chunk = known[entry[2]]
        pieces = [chunk[at : at + PIECE_BYTES] for at in range(0, len(chunk), PIECE_BYTES)]
        assert entry[1] == len(chunk), f"{name}: size"
        hashes = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
        assert entry[3] == hashes, f"{name}: piece hashes"
    whole = hashlib.sha256(b"".join(known[entry[2]] for entry in chunks)).digest()
    if name != "unproven":  # that one has a hash of its own choice
        assert dict(fields(data))[7] == whole, f"{name}: ABCI hash"


def main(folder):
    folder = pathlib.Path(folder)
    manifests = listing((folder / "manifests.txt").read_text())
    for name, data in manifests.items():
        check_manifest(name, data)
    data_of = {"chunk": CHUNKS, "manifest": manifests}
    agreed = 0
    for line in (folder / "names.txt").read_text().splitlines():
        kind, digest, cid, name = line.split(" ", 3)
        data = data_of[kind][name]
        assert cid == cid_of(data), f"{kind} {name}: {cid} here, {cid_of(data)} there"
        read = CID.decode(cid)
        found = (read.version, read.codec.name, read.hashfun.name, read.raw_digest.hex())
        assert found == (1, "raw", "sha2-256", digest), f"{kind} {name}: {found}"
        agreed += 1
    print(f"{agreed} names agree")


main(sys.argv[1])
