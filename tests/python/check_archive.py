"""Reads an archive with h5py and a CAR with another implementation of CIDs.

Usage: check_archive.py ARCHIVE.h5 FILE.car < expected.json

The expected JSON is what snapswarm says of the snapshot; everything in it is
compared with what h5py, multiformats (CID) and ipld-car (CAR, DAG-CBOR) find.
"""

import hashlib
import json
import sys

import h5py
import ipld_car
from multiformats import CID, multihash

PIECE_BYTES = 1 << 20


def cid_of(data):
    return CID("base32", 1, "raw", multihash.digest(data, "sha2-256"))


def equal(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")


def varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return number, at


def fields(data):
    """The fields of a protobuf message, as (number, value)."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            sys.exit(f"wire type {key & 7}")
        yield key >> 3, value


def check_archive(path, expected):
    with h5py.File(path, "r") as file:
        equal("groups", sorted(file), ["chunks", "manifest"])
        attributes = {
            name: value if isinstance(value, str) else int(value)
            for name, value in file.attrs.items()
        }
        equal("attributes", attributes, expected["attributes"])

        manifest = file["manifest"][()].tobytes()
        equal("manifest CID", str(cid_of(manifest)), expected["manifest"])
        chunks = [
            dict(fields(value)) for number, value in fields(manifest) if number == 10
        ]

        names = [f"{index:06}" for index in range(len(expected["chunks"]))]
        equal("datasets", sorted(file["chunks"]), names)
        data = []
        for name, listed, wanted in zip(names, chunks, expected["chunks"], strict=True):
            dataset = file["chunks"][name]
            equal(f"{name}: type", dataset.dtype.str, "|u1")
            equal(f"{name}: storage", dataset.chunks, None)
            content = dataset[()].tobytes()
            equal(f"{name}: size", len(content), wanted["size"])
            equal(f"{name}: size in the manifest", listed[1], wanted["size"])
            equal(f"{name}: CID", str(cid_of(content)), wanted["cid"])
            digest = hashlib.sha256(content).digest()
            equal(f"{name}: SHA-256 in the manifest", listed[2], digest)
            pieces = b"".join(
                hashlib.sha256(content[at : at + PIECE_BYTES]).digest()
                for at in range(0, len(content), PIECE_BYTES)
            )
            equal(f"{name}: pieces in the manifest", listed[3], pieces)
            data.append(content)
    return manifest, data


def check_car(path, expected, manifest, chunks):
    with open(path, "rb") as file:
        roots, blocks = ipld_car.decode(file.read())
    equal("roots", [root.encode("base32") for root in roots], [expected["manifest"]])
    distinct = [manifest, *dict.fromkeys(chunks)]
    equal("blocks", len(blocks), len(distinct))
    for number, ((cid, content), wanted) in enumerate(zip(blocks, distinct)):
        content = bytes(content)
        equal(f"block {number}: version", cid.version, 1)
        equal(f"block {number}: codec", cid.codec.name, "raw")
        equal(f"block {number}: CID", bytes(cid), bytes(cid_of(content)))
        equal(f"block {number}: content", content == wanted, True)


def main():
    archive, car = sys.argv[1:]
    expected = json.load(sys.stdin)
    manifest, chunks = check_archive(archive, expected)
    check_car(car, expected, manifest, chunks)
    print(f"{len(chunks)} chunks agree")


main()
