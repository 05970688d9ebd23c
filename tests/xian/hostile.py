"""Files that a Xian node did not write: hostile.py FOLDER makes a storage of each.

FOLDER/<case>/contract_state/con_x holds, beside what is wrong, records that are right.
"""

import sys
from pathlib import Path

import h5py
import numpy
from h5py import h5a, h5g, h5o, h5s, h5t

TEXT = h5py.string_dtype()


def good(file):
    for number in range(50):
        group = file.require_group(f"balances/{number:03}")
        group.attrs["value"] = str(number)
        group.attrs["block"] = "1732800000000000000"


def soft_link(file):
    file["balances/link"] = h5py.SoftLink("/balances/001")


def dangling_link(file):
    file["balances/link"] = h5py.SoftLink("/nowhere")


def external_link(file):
    file["balances/link"] = h5py.ExternalLink("other", "/")


def cycle_to_root(file):
    file["balances/link"] = file["/"]


def cycle(file):
    file["balances/001/deeper/link"] = file["balances"]


def cycle_to_itself(file):
    file["balances/link"] = file["balances"]


def twice(file):
    file["balances/link"] = file["balances/001"]


def deep(file):
    at = h5g.open(file.id, b"/balances")
    for _ in range(10_000):
        at = h5g.create(at, b"g")


def dataset(file):
    file["balances"].create_dataset("link", data=[1, 2, 3])


def committed_type(file):
    file["balances/link"] = numpy.dtype("<i8")


def name_not_utf8(file):
    h5g.create(file["balances"].id, b"\xff\xfe")


def _attribute(name, value, **kind):
    def make(file):
        file.create_group("balances/link").attrs.create(name, value, **kind)

    return make


def named_type(file):
    file["kind"] = numpy.dtype("<i8")
    file.create_group("balances/link").attrs.create("block", 1, dtype=file["kind"])


def attribute_by_reference(file):
    group = file.create_group("balances/link")
    group.attrs.create("value", group.ref, dtype=h5py.ref_dtype)


def no_value_at_all(file):
    group = file.create_group("balances/link")
    h5a.create(group.id, b"value", h5t.C_S1, h5s.create(h5s.NULL))


def _doubled(file):
    """Thirty groups, each with two links to the next: a billion ways to the last."""
    at = file["balances"]
    for _ in range(30):
        below = at.create_group("one")
        at["two"] = below
        at = below


def _hide_links(path):
    """Says of every group that one link leads to it."""
    places = []
    with h5py.File(path, "r") as file:
        at = file["balances"]
        while at is not None:
            places.append(h5o.get_info(at.id).addr)
            at = at.get("one")
    with open(path, "r+b") as file:
        for place in places:
            # A header of version 1: version, reserved, messages (2), references (4).
            file.seek(place + 4)
            file.write((1).to_bytes(4, "little"))


CASES = {
    "soft link": soft_link,
    "dangling link": dangling_link,
    "external link": external_link,
    "cycle to root": cycle_to_root,
    "cycle": cycle,
    "cycle to itself": cycle_to_itself,
    "twice": twice,
    "deep": deep,
    "dataset": dataset,
    "committed type": committed_type,
    "name not UTF-8": name_not_utf8,
    "value of fixed length": _attribute("value", numpy.bytes_(b"text")),
    "value a number": _attribute("value", 7),
    "value a list": _attribute("value", ["a", "b"], dtype=TEXT),
    "value in a list": _attribute("value", ["a"], dtype=TEXT),
    "value too long": _attribute("value", "x" * (16 << 20), dtype=TEXT),
    "value nothing": no_value_at_all,
    "value a reference": attribute_by_reference,
    "block a list": _attribute("block", [1, 2]),
    "block of 32 bits": _attribute("block", numpy.int32(1)),
    "block unsigned": _attribute("block", numpy.uint64(1)),
    "block big-endian": _attribute("block", 1, dtype=">i8"),
    "block a fraction": _attribute("block", 1.5),
    "block a structure": _attribute("block", numpy.array((1, 2), dtype="<i8,<i8")),
    "block too long": _attribute("block", "1" * 256, dtype=TEXT),
    "block of a named type": named_type,
    "another attribute": _attribute("else", 1),
    "hidden cycle": cycle_to_itself,
    "hidden doubles": _doubled,
}


def main():
    folder = Path(sys.argv[1])
    for name, spoil in CASES.items():
        storage = folder / name
        (storage / "contract_state").mkdir(parents=True)
        (storage / "__latest_block.json").write_text('{"hash": "61", "height": 1}')
        with h5py.File(storage / "contract_state" / "con_x", "w") as file:
            good(file)
            spoil(file)
        if name.startswith("hidden"):
            _hide_links(storage / "contract_state" / "con_x")


main()
