"""Files of this Python installation, and the preprocessing of Magika's model."""

import hashlib
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np

BLOCK, SIDE, PADDING = 4096, 1024, 256
LEAST = 16
SUFFIX_SHARE = 10


def samples(limit):
    """Return up to `limit` files of the standard library and installed packages, at most a tenth with any one suffix.

    Columns: `path` relative to its root, `suffix`, whether it is `held_out` (one in five), its first bytes (`head`) and
    its last (`tail`).
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
    """Return a sort key that is unrelated to a path's folder: the SHA-256 of its name."""
    return hashlib.sha256(name.encode()).hexdigest()


def read_ends(path):
    """Return the first and the last 4,096 bytes of a file, or all of it if it is shorter."""
    with open(path, "rb") as file:
        head = file.read(BLOCK)
        file.seek(max(path.stat().st_size - BLOCK, 0))
        return head, file.read(BLOCK)


def preprocess(sample):
    """Return the model's input, int32 [2048]: the bytes at both ends, stripped of outer white space and padded."""
    head, tail = sample["head"].lstrip()[:SIDE], sample["tail"].rstrip()[-SIDE:]
    tokens = np.full(2 * SIDE, PADDING, np.int32)
    tokens[: len(head)] = np.frombuffer(head, np.uint8)
    tokens[2 * SIDE - len(tail) :] = np.frombuffer(tail, np.uint8)
    return tokens
