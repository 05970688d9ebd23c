"""A Xian node's storage through the chain's own code.

    node.py fill STORAGE      write a storage with every case
    node.py change STORAGE    overwrite, delete, add
    node.py show STORAGE      print what the chain reads, a JSON line for each group

PYTHONPATH leads to the source of xian-contracting-py311. Where each key goes is the
newest driver's rule: the part before the first dot is the file, ':' becomes '/'.
"""

import json
import os
import sys
from pathlib import Path

import h5py
from contracting.stdlib.bridge.decimal import ContractingDecimal
from contracting.stdlib.bridge.time import Datetime, Timedelta
from contracting.storage import hdf5
from contracting.storage.encoder import encode

FIRST = "1732800000000000000"
SECOND = "1732800005000000000"
SOURCE = "def seed():\n    balances['größer'] = 1\n" * 3000


class Storage:
    def __init__(self, path):
        self.path = Path(path)
        for name in ("contract_state", "run_state"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def place(self, key):
        file, _, rest = key.partition(".")
        folder = "run_state" if file.startswith("__") else "contract_state"
        return str(self.path / folder / file), rest.replace(":", "/")

    def set(self, key, value, block):
        hdf5.set_value_to_disk(*self.place(key), value, block)

    def delete(self, key):
        hdf5.delete_key_from_disk(*self.place(key))


def fill(node):
    for name in ("currency", "con_large", "con_straße"):
        node.set(f"{name}.__code__", SOURCE if name == "con_large" else "x = 1", None)
        node.set(f"{name}.__owner__", None, None)
        node.set(f"{name}.__submitted__", Datetime(2024, 11, 28, 12, 30, 15, 123456), None)
    node.set("currency.balances:alice", ContractingDecimal("1000.5"), None)
    node.set("currency.balances:bob", 500, FIRST)
    node.set("currency.balances:alice:con_dex", ContractingDecimal("0.00000001"), FIRST)
    node.set("currency.balances:bob", 450, SECOND)
    node.set("currency.patched", {"a": [1, {"b": 2**70}]}, 1732800010000000000)
    node.set("currency.tombstone", 1, FIRST)
    node.set("currency.tombstone", None, SECOND)
    node.set("currency.deleted", 1, FIRST)
    node.delete("currency.deleted")
    node.set("con_large.text", "größer ≥ \u2028 🚀 \"quoted\" \\ \n", FIRST)
    node.set("con_large.bytes", b"\x00\xff", FIRST)
    node.set("con_large.span", Timedelta(days=3, seconds=5), FIRST)
    node.set("con_large.big", 2**63, FIRST)
    node.set("con_large.flags:true", True, FIRST)
    node.set("con_large.flags:false", False, FIRST)
    node.set("con_large.ключ:значение", [1, "two", None], FIRST)
    node.set("con_large.slash/and:colon", 1, FIRST)
    node.set("con_large.dots.in:x.y", 2, FIRST)
    node.set("con_large.:", "on the root", FIRST)
    for number in range(40):
        node.set(f"con_large.many:{number}", number, FIRST)
    for sender, nonce in (("alice", 0), ("bob", 41)):
        node.set(f"__n.{sender}:", nonce, FIRST)
    node.set("__n.alice:", 1, SECOND)
    node.set("__pn.alice:", 2, FIRST)
    latest = {"hash": "3f" * 64, "height": 1234}
    (node.path / "__latest_block.json").write_text(json.dumps(latest))


def change(node):
    third = "1732800015000000000"
    node.set("currency.balances:alice", ContractingDecimal("999.5"), third)
    node.set("currency.balances:carol", 1, third)
    node.set("currency.balances:alice:con_dex:deeper", 2, third)
    node.set("currency.tombstone", "back", third)
    node.set("currency.balances:bob", None, third)
    node.delete("currency.patched")
    node.set("con_large.__code__", SOURCE * 2, -1)
    node.set("con_large.below:many:0:new", "x", 7)
    node.set("con_new.first", {"key": "value"}, third)
    node.set("__n.alice:", 2, third)
    for number in range(40, 400):
        node.set(f"con_large.many:{number}", number, third)


def show(node):
    for folder in ("contract_state", "run_state"):
        for name in sorted(os.listdir(node.path / folder)):
            if name == "__pn":
                continue
            path = str(node.path / folder / name)
            groups = ["/"]
            with h5py.File(path, "r") as file:
                file.visit(groups.append)
            for group in sorted(groups):
                value = hdf5.get_value_from_disk(path, group)
                text = hdf5.get_value(path, group)
                block = hdf5.get_block(path, group)
                if text is None and block is None:
                    continue
                # What the chain decodes is what it would write again.
                same = text is None or encode(value) == text
                block = block if isinstance(block, (str, type(None))) else int(block)
                print(json.dumps([f"{folder}/{name}", group, text, block, same]))


{"fill": fill, "change": change, "show": show}[sys.argv[1]](Storage(sys.argv[2]))
