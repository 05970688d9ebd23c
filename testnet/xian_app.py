"""An application of CometBFT that keeps its state as a Xian node does: in HDF5 files,
written by the chain's own functions. For tests and test networks.

    xian_app.py --listen tcp://127.0.0.1:26658 --storage DIR [--genesis FILE]
                [--state-patches FILE] [--marks FILE]

PYTHONPATH leads to the source of xian-contracting-py311; h5py has to be installed.

A transaction is JSON: {"sender": "alice", "nonce": 0, "writes": [{"key": "currency.balances:bob",
"value": 5}, …]}. Nonces count up from 0 for each sender. A value of null leaves a key that
holds nothing; an entry without a value deletes its key.

As with a Xian node (generation 1):
  - a key before its first dot is a file, in run_state where it begins with __, else in
    contract_state; behind the dot ':' becomes '/', and that is a group of the file;
  - `block` is the time of the block, as text; a number where the genesis (-1) or a state
    patch wrote it;
  - __latest_block.json is written at Commit, before the state, and Info is answered from it;
  - the application hash is a chain of SHA3-256 over the results of blocks, as hex digits: it
    does not commit to the state.

The protocol is ABCI of CometBFT 0.38 over a socket, of which each message is taken apart and
put together by hand. Query /get/KEY gives the JSON of a key.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import threading
from pathlib import Path

from contracting.storage import hdf5

VERSION = 1
# Numbers of the calls: in a request, and in its answer.
ECHO, FLUSH, INFO, INIT_CHAIN, QUERY, CHECK_TX, COMMIT = 1, 2, 3, 5, 6, 8, 11
LIST, OFFER, LOAD, APPLY, PREPARE, PROCESS, EXTEND, VERIFY, FINALIZE = 12, 13, 14, 15, 16, 17, 18, 19, 20
REJECT, REJECT_SNAPSHOT, ACCEPT = 3, 5, 1


# Protobuf, as little as is needed.


def varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """A field; one that is zero or empty is left out, as proto3 has it."""
    if isinstance(value, str):
        value = value.encode()
    if not value:
        return b""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return message(number, value)


def message(number, body):
    """A field that stands there even if it is empty."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def read_varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


def fields(data):
    """Each field's number and value, in order."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = read_varint(data, at)
        elif kind == 2:
            size, at = read_varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def first(data, number, default=b""):
    return next((value for found, value in fields(data) if found == number), default)


# The state.


class Storage:
    """The files of a node, and what a block has not committed yet."""

    def __init__(self, path):
        self.path = Path(path)
        for name in ("contract_state", "run_state"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.latest = self.path / "__latest_block.json"
        self.pending = {}

    def place(self, key):
        file, _, rest = key.partition(".")
        folder = "run_state" if file.startswith("__") else "contract_state"
        return str(self.path / folder / file), rest.replace(":", "/")

    def block(self):
        """Height and application hash."""
        if not self.latest.exists():
            return 0, b""
        found = json.loads(self.latest.read_text())
        return found["height"], bytes.fromhex(found["hash"])

    def get(self, key):
        if key in self.pending:
            return self.pending[key].get("value")
        file, group = self.place(key)
        # The chain's own function makes a file that is missing.
        return hdf5.get_value_from_disk(file, group) if os.path.exists(file) else None

    def put(self, entry, block):
        self.pending[entry["key"]] = dict(entry, block=block)

    def commit(self, height, app_hash):
        fresh = self.latest.with_suffix(".new")
        fresh.write_text(json.dumps({"hash": app_hash.hex(), "height": height}))
        fresh.replace(self.latest)
        self.apply()

    def apply(self):
        for key, entry in self.pending.items():
            if "value" in entry:
                hdf5.set_value_to_disk(*self.place(key), entry["value"], entry["block"])
            else:
                hdf5.delete_key_from_disk(*self.place(key))
        self.pending = {}


class App:
    def __init__(self, options):
        self.options = options
        self.storage = Storage(options.storage)
        self.lock = threading.Lock()
        self.next = None
        self.awaited = {}
        self.calls = {
            ECHO: (2, lambda body: bytes(body)),
            INFO: (4, self.info),
            INIT_CHAIN: (6, self.init_chain),
            QUERY: (7, self.query),
            CHECK_TX: (9, self.check_tx),
            COMMIT: (12, self.commit),
            LIST: (13, lambda _: b""),
            # As any application without snapshots of its own.
            OFFER: (14, lambda _: field(1, REJECT)),
            LOAD: (15, lambda _: b""),
            APPLY: (16, lambda _: field(1, REJECT_SNAPSHOT)),
            PREPARE: (17, self.prepare),
            PROCESS: (18, lambda _: field(1, ACCEPT)),
            EXTEND: (19, lambda _: b""),
            VERIFY: (20, lambda _: field(1, ACCEPT)),
            FINALIZE: (21, self.finalize),
        }

    def answer(self, request):
        for call, body in fields(request):
            if call not in self.calls:
                return message(1, field(1, f"call {call} is not known"))
            number, work = self.calls[call]
            # One at a time over all connections.
            with self.lock:
                return message(number, work(body))
        return message(1, field(1, "an empty request"))

    def info(self, _):
        height, app_hash = self.storage.block()
        return (
            field(1, "xian-like")
            + field(2, "1")
            + field(3, VERSION)
            + field(4, height)
            + field(5, app_hash)
        )

    def init_chain(self, _):
        self.mark("InitChain")
        if self.options.genesis:
            genesis = json.loads(Path(self.options.genesis).read_text())
            genesis = genesis.get("abci_genesis", genesis)
            for entry in genesis.get("genesis", []):
                self.storage.put(entry, -1)
            for entry in genesis.get("nonces", []):
                self.storage.put(dict(entry, key=f"__n.{entry['key']}:"), -1)
            self.storage.apply()
        return b""

    def query(self, body):
        path = bytes(first(body, 2)).decode()
        if not path.startswith("/get/"):
            return field(1, 1) + field(3, f"{path} is not known")
        with_value = self.storage.get(path.removeprefix("/get/"))
        height, _ = self.storage.block()
        return field(7, json.dumps(with_value, default=str)) + field(9, height)

    def check_tx(self, body):
        try:
            tx = json.loads(bytes(first(body, 1)))
            sender, nonce = tx["sender"], tx["nonce"]
            awaited = max(self.awaited.get(sender, 0), self.nonce(sender))
        except (ValueError, KeyError, TypeError) as problem:
            return field(1, 1) + field(3, f"no transaction: {problem}")
        is_again = first(body, 2, 0) != 0
        if not is_again and nonce != awaited:
            return field(1, 2) + field(3, f"nonce {nonce} where {awaited} is awaited")
        if not is_again:
            self.awaited[sender] = nonce + 1
            # Pending nonces are the node's own, and no part of the state.
            file, group = self.storage.place(f"__pn.{sender}:")
            hdf5.set_value_to_disk(file, group, nonce)
        return b""

    def nonce(self, sender):
        """The nonce that comes next."""
        last = self.storage.get(f"__n.{sender}:")
        return 0 if last is None else last + 1

    def prepare(self, body):
        limit, txs = first(body, 1, 0), [tx for number, tx in fields(body) if number == 2]
        size, out = 0, b""
        for tx in txs:
            size += len(tx) + 10
            if size > limit:
                break
            out += message(1, bytes(tx))
        return out

    def finalize(self, body):
        height, time = first(body, 5, 0), first(body, 6)
        nanos = first(time, 1, 0) * 1_000_000_000 + first(time, 2, 0)
        results = [self.run(bytes(tx), str(nanos)) for number, tx in fields(body) if number == 1]
        patches = self.patch(height, nanos)
        before = self.storage.block()[1].decode()
        said = json.dumps([before, height, results, patches], sort_keys=True)
        app_hash = hashlib.sha3_256(said.encode()).hexdigest().encode()
        self.next = height, app_hash
        out = b"".join(message(2, field(1, code) + field(3, log)) for code, log, _ in results)
        return out + field(5, app_hash)

    def run(self, tx, block):
        """Executes a transaction; its code, what is said of it, and its hash."""
        name = hashlib.sha3_256(tx).hexdigest()
        try:
            tx = json.loads(tx)
            sender, nonce, writes = tx["sender"], tx["nonce"], tx["writes"]
            keys = [entry["key"] for entry in writes]
            if nonce != self.nonce(sender) or any("." not in key for key in keys):
                return 2, "wrong nonce or key", name
        except (ValueError, KeyError, TypeError) as problem:
            return 1, f"no transaction: {problem}", name
        for entry in writes:
            self.storage.put(entry, block)
        self.storage.put({"key": f"__n.{sender}:", "value": nonce}, block)
        return 0, "", name

    def patch(self, height, nanos):
        """What the chain's operators agreed to change at this height."""
        if not self.options.state_patches:
            return []
        file = Path(self.options.state_patches)
        patches = json.loads(file.read_text()) if file.exists() else {}
        entries = sorted(patches.get(str(height), []), key=lambda entry: entry["key"])
        for entry in entries:
            self.storage.put({"key": entry["key"], "value": entry["value"]}, nanos)
        return [[entry["key"], entry["value"]] for entry in entries]

    def commit(self, _):
        height, app_hash = self.next
        self.storage.commit(height, app_hash)
        self.mark(f"Commit {height}")
        return b""

    def mark(self, text):
        """Tells a test what happened, a line each."""
        if self.options.marks:
            with open(self.options.marks, "a") as marks:
                marks.write(text + "\n")


def serve(app, stream):
    """One connection: answers leave at Flush, as those of CometBFT's own server do."""
    reader, waiting = stream.makefile("rb"), b""
    while True:
        size = shift = 0
        while True:
            byte = reader.read(1)
            if not byte:
                return
            size |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        request = reader.read(size)
        if len(request) < size:
            return
        is_flush = next((call for call, _ in fields(request)), None) == FLUSH
        answer = message(3, b"") if is_flush else app.answer(memoryview(request))
        waiting += varint(len(answer)) + answer
        if is_flush:
            stream.sendall(waiting)
            waiting = b""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--genesis")
    parser.add_argument("--state-patches")
    parser.add_argument("--marks")
    options = parser.parse_args()
    app = App(options)

    # Awaited below: a handler would run in the middle of something.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    host, _, port = options.listen.removeprefix("tcp://").rpartition(":")
    server = socket.create_server((host, int(port)))
    threading.Thread(target=listen, args=(app, server), daemon=True).start()
    app.mark("start")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    # Not in the middle of a commit.
    with app.lock:
        os._exit(0)


def listen(app, server):
    while True:
        stream, _ = server.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=one, args=(app, stream), daemon=True).start()


def one(app, stream):
    with stream:
        try:
            serve(app, stream)
        except OSError:
            pass  # The other side has gone.


main()
