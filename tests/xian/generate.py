"""Makes a large storage with the layout that a Xian node has, for benches.

    generate.py FOLDER --records N --files N [--grown] [--seed N] [--height N]

FOLDER gets contract_state/, run_state/ and __latest_block.json. Each contract has
its source, balances and, below every fifth balance, an allowance; stamps are texts,
and numbers for one record of fifty. With --grown each key is written as the node
writes it, the file opened and closed for each: files grow to some 6 KB a key, twenty
times what they hold. Without it they are written in one go. Low-level calls, because
the usual ones take four times as long.
"""

import argparse
import json
import random
from pathlib import Path

import numpy
from h5py import h5a, h5f, h5g, h5p, h5s, h5t, string_dtype

TEXT = h5t.C_S1.copy()
TEXT.set_size(h5t.VARIABLE)
TEXT.set_cset(h5t.CSET_UTF8)
# An array of plain objects would be written as what lies in memory where they begin.
STRING = string_dtype()
SCALAR = h5s.create(h5s.SCALAR)
ACCESS = h5p.create(h5p.FILE_ACCESS)
ACCESS.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_LATEST)


def set_attribute(group, name, value):
    if isinstance(value, int):
        attribute = h5a.create(group, name, h5t.STD_I64LE, SCALAR)
        attribute.write(numpy.array(value, dtype="<i8"))
    else:
        attribute = h5a.create(group, name, TEXT, SCALAR)
        attribute.write(numpy.array(value.encode(), dtype=STRING))


def write(file, path, value, block):
    at = h5g.open(file, b"/")
    for name in path:
        at = h5g.open(at, name) if name in at else h5g.create(at, name)
    set_attribute(at, b"value", value)
    set_attribute(at, b"block", block)


class Contract:
    """A file, opened for each key or once."""

    def __init__(self, path, grown):
        self.path, self.grown = bytes(path), grown
        h5f.create(self.path, h5f.ACC_EXCL, fapl=ACCESS).close()
        self.file = None

    def write(self, path, value, block):
        if self.file is None:
            self.file = h5f.open(self.path, h5f.ACC_RDWR, fapl=ACCESS)
        write(self.file, path, value, block)
        if self.grown:
            self.close()

    def close(self):
        if self.file is not None:
            self.file.close()
            self.file = None


def fill(contract, records, rng):
    block = 1_732_800_000_000_000_000
    source = json.dumps("def seed():\n    pass\n" * 1500)
    contract.write([b"__code__"], source, -1)
    above = b""
    for number in range(records - 1):
        block += rng.randrange(10**10)
        address = rng.randbytes(32).hex().encode()
        path = [b"balances", address]
        if number % 5 == 4:
            path = [b"balances", above, address]
        else:
            above = address
        value = str(rng.randrange(10**9))
        if number % 3:
            value = '{"__fixed__":"%d.%08d"}' % (rng.randrange(10**6), rng.randrange(10**8))
        contract.write(path, value, str(block) if number % 50 else -1)
    contract.close()


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--records", type=int, required=True)
    options.add_argument("--files", type=int, required=True)
    options.add_argument("--grown", action="store_true")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--height", type=int, default=1000)
    given = options.parse_args()
    for name in ("contract_state", "run_state"):
        (given.folder / name).mkdir(parents=True)
    each = given.records // given.files
    for number in range(given.files):
        name = f"con_{number:03}" if number else "currency"
        contract = Contract(given.folder / "contract_state" / name, given.grown)
        fill(contract, each, random.Random(given.seed * 1000 + number))
    latest = {"hash": "61" * 64, "height": given.height}
    (given.folder / "__latest_block.json").write_text(json.dumps(latest))


main()
