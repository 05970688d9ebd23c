"""A Xian node that writes as fast as it can, through the chain's own code.

    node.py STORAGE

For each line "block" it carries out a block: writes, and reads back what it has written
and some of what it wrote before. It ends at once where a write fails, or where a read
brings anything else than was written. After the block it says, as a line of JSON, which
height it has, how many writes and reads there were so far, how many records the state
has, and what they add up to. Until the next line it answers queries: it reads now and
then, and that touches files, because the chain opens them for writing even to read. For
the line "end" it reads everything once more.

PYTHONPATH leads to the source of xian-contracting-py311.
"""

import hashlib
import json
import os
import random
import select
import sys
from pathlib import Path

from contracting.stdlib.bridge.decimal import ContractingDecimal
from contracting.storage import hdf5
from contracting.storage.encoder import encode

CONTRACTS = 6
ADDRESSES = 300
WRITES_IN_A_BLOCK = 60
# Every write makes a file grow, and nothing makes it smaller.
ROOM_BYTES = 200 << 20
SECONDS_BETWEEN_QUERIES = 0.2
NONCES = "run_state/__n"


class Wrong(Exception):
    pass


class Node:
    def __init__(self, storage):
        self.storage = Path(storage)
        for name in ("contract_state", "run_state"):
            (self.storage / name).mkdir(parents=True)
        self.random = random.Random(1)
        self.contracts = [f"contract_state/con_{n}" for n in range(CONTRACTS)]
        self.named = CONTRACTS
        # By file and group: the encoded value, which may be none, and the stamp.
        self.state = {}
        self.sum = 0
        self.height = self.writes = self.reads = 0

    def note(self, place, record):
        """Takes out of the sum what the state had there, and adds what it has now."""
        for value in (self.state.pop(place, None), record):
            if value is not None:
                line = json.dumps([place[0], f"/{place[1]}", *value], separators=(",", ":"))
                self.sum ^= int.from_bytes(hashlib.sha256(line.encode()).digest(), "big")
        if record is not None:
            self.state[place] = record

    def path(self, place):
        return str(self.storage / place[0])

    def write(self):
        kind = self.random.random()
        stamp = 1_732_800_000_000_000_000 + self.height
        stamp = stamp if kind < 0.1 else str(stamp)
        if kind > 0.95:
            place = (NONCES, f"sender_{self.random.randrange(ADDRESSES)}")
            # The chain ends such a key with a colon.
            self.set(place, self.height, stamp, place[1] + "/")
            return
        address = self.random.randrange(ADDRESSES)
        group = f"balances/{address}" + ("/spender" if address % 5 == 0 else "")
        place = (self.random.choice(self.contracts), group)
        if kind < 0.8:
            self.set(place, self.value(), stamp, group)
        elif kind < 0.88:
            self.set(place, None, stamp, group)
        else:
            hdf5.delete_key_from_disk(self.path(place), group)
            # Of what has no value nothing is deleted.
            if self.state.get(place, (None,))[0] is not None:
                self.note(place, None)
            self.writes += 1
            self.read(place)

    def set(self, place, value, stamp, group):
        hdf5.set_value_to_disk(self.path(place), group, value, stamp)
        self.note(place, (None if value is None else encode(value), stamp))
        self.writes += 1
        self.read(place)

    def value(self):
        kind = self.random.random()
        if kind < 0.4:
            return ContractingDecimal(str(self.random.randrange(10**9) / 1000))
        if kind < 0.7:
            return self.random.randrange(10**6)
        if kind < 0.99:
            return "x" * self.random.randrange(1, 500)
        return self.random.randbytes(40_000).hex()

    def read(self, place):
        path = self.path(place)
        found = (hdf5.get_value(path, place[1]), hdf5.get_block(path, place[1]))
        self.reads += 1
        expected = self.state.get(place, (None, None))
        if found != expected:
            raise Wrong(f"{place} at height {self.height}: {found} in the place of {expected}")

    def read_any(self):
        if self.state:
            self.read(self.random.choice(list(self.state)))

    def block(self):
        self.height += 1
        for number in range(WRITES_IN_A_BLOCK):
            self.write()
            if number % 4 == 0:
                self.read_any()
        self.make_room()
        latest = {"hash": f"{self.height:064x}", "height": self.height}
        (self.storage / "__latest_block.json").write_text(json.dumps(latest))
        self.say()

    def make_room(self):
        """The largest contract goes, and another comes."""
        sizes = {
            name: os.path.getsize(self.storage / name)
            for name in self.contracts
            if (self.storage / name).exists()
        }
        if sum(sizes.values()) > ROOM_BYTES:
            largest = max(sizes, key=sizes.get)
            os.remove(self.storage / largest)
            for place in [place for place in self.state if place[0] == largest]:
                self.note(place, None)
            self.contracts[self.contracts.index(largest)] = f"contract_state/con_{self.named}"
            self.named += 1

    def say(self):
        said = {
            "height": self.height,
            "writes": self.writes,
            "reads": self.reads,
            "records": len(self.state),
            "sum": f"{self.sum:064x}",
        }
        print(json.dumps(said), flush=True)


def main():
    node = Node(sys.argv[1])
    while True:
        while not select.select([sys.stdin], [], [], SECONDS_BETWEEN_QUERIES)[0]:
            node.read_any()
        word = sys.stdin.readline()
        if word == "block\n":
            node.block()
            continue
        if word == "end\n":
            for place in node.state:
                node.read(place)
            node.say()
        return


main()
