"""Files of this Python installation, and what Magika's model reads of a file."""

import hashlib
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np

BLOCK, SIDE, PADDING = 4096, 1024, 256
LEAST = 16
SUFFIX_SHARE = 10


def samples(limit):
    """Up to `limit` files of the standard library and of installed packages, at most a tenth of them of one suffix.

    Columns: `path` below its folder, `suffix`, whether it is `held_out` (every fifth), the first bytes (`head`) and the
    last (`tail`).
    """
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    found = {
        path.relative_to(root).as_posix(): path
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and path.stat().st_size >= LEAST and "__pycache__" not in path.parts
    }
    taken, counts = [], Counter()
    for name in sorted(found, key=order):
        suffix = found[name].suffix
        if len(taken) < limit and counts[suffix] < max(limit // SUFFIX_SHARE, 1):
            counts[suffix] += 1
            taken.append(name)
    ends = [read_ends(found[name]) for name in taken]
    return {
        "path": taken,
        "suffix": [found[name].suffix for name in taken],
        "held_out": [int(order(name)[:8], 16) % 5 == 0 for name in taken],
        "head": [head for head, _ in ends],
        "tail": [tail for _, tail in ends],
    }


def order(name):
    """Return what puts paths into an order that has nothing to do with folders."""
    return hashlib.sha256(name.encode()).hexdigest()


def read_ends(path):
    """Return the first and the last bytes of a file."""
    with open(path, "rb") as file:
        head = file.read(BLOCK)
        file.seek(max(path.stat().st_size - BLOCK, 0))
        return head, file.read(BLOCK)


def preprocess(sample):
    """Return what the model reads, int32 [2048]: the bytes of both sides without white space around them, padded."""
    head, tail = sample["head"].lstrip()[:SIDE], sample["tail"].rstrip()[-SIDE:]
    tokens = np.full(2 * SIDE, PADDING, np.int32)
    tokens[: len(head)] = np.frombuffer(head, np.uint8)
    tokens[2 * SIDE - len(tail) :] = np.frombuffer(tail, np.uint8)
    return tokens
