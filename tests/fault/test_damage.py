"""Damage of every kind to every file: verify names it, and reading with checks never gives a changed value."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Workshop

import softcache
from softcache.errors import FormatError, IntegrityError, SoftcacheError
from softcache.store.card_parts import BEGIN, END
from softcache.store.checksums import block_checksums
from softcache.store.index import Segment, dump_segment
from softcache.store.layout import CARD

PAGE = 4096
IDS = range(40)
Damage = Callable[[random.Random, bytes], bytes]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four fragments in two commits, a row without an answer, Arrow and Zarr."""
    workshop = Workshop(tmp_path_factory.mktemp("damage"))
    workshop.samples(40, change=lambda x: x.__setitem__(3, np.nan))
    for limit in (20, None):
        workshop.build("build.on_bad_sample=skip", limit=limit)
    return workshop.cache


@pytest.fixture(scope="module")
def pristine(cache: Path) -> dict[str, bytes]:
    """Every file's bytes, by path."""
    return {p.relative_to(cache).as_posix(): p.read_bytes() for p in sorted(cache.rglob("*")) if p.is_file()}


def kind(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "data" else parts[0]


def inside(path: str) -> str:
    """A file's path inside its Zarr shard."""
    return path.partition(".zarr/")[2]


def in_turn(paths: list[str], generator: random.Random) -> Iterator[str]:
    """All paths again and again, one of each kind at a time, so that few trials hit all kinds and many all files."""
    kinds: dict[str, list[str]] = {}
    for path in generator.sample(paths, len(paths)):
        kinds.setdefault(kind(path), []).append(path)
    yield from itertools.chain.from_iterable(zip(*map(itertools.cycle, kinds.values()), strict=True))


def give(path: Path, data: bytes | None) -> None:
    """Make a file's bytes `data`, None to delete it: as a new file, since the old one may still be mapped."""
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)


def read_everything(path: Path, commit: int | None = None) -> dict[str, Any]:
    """What each way to read gives, bit by bit; ways that raise a SoftcacheError are left out."""
    found: dict[str, Any] = {}

    def attempt(way: str, read: Callable[[], Any]) -> None:
        try:
            found[way] = read()
        except SoftcacheError:
            found.pop(way, None)

    def bits(soft: softcache.SoftTargets) -> tuple[Any, ...]:
        return soft.values.numpy().tobytes(), soft.mask.tolist(), soft.ids.tolist(), soft.views.tolist()

    def use_target(cache: softcache.Cache, name: str) -> None:
        attempt(f"lookup {name}", lambda: bits(cache[name].lookup(IDS[: cache.commit.rows])))
        attempt(f"read {name}", lambda: bits(cache[name].read(slice(None))))
        if name.startswith("cls"):
            attempt(f"table {name}", lambda: repr(cache[name].table().to_pydict()))

    def use(cache: softcache.Cache) -> None:
        for name in cache.targets:
            use_target(cache, name)
        attempt("rows", lambda: repr(cache.rows.table().to_pydict()))

    attempt("open", lambda: use(softcache.open(path, commit=commit)))
    return found


def own(card: bytes | None) -> list[bytes] | None:
    """What softcache has written into a card: the front matter, and the section between the marks."""
    if card is None:
        return None
    body = card.partition(b"\n---\n")[2]
    return [card.removesuffix(body), body.partition(BEGIN.encode())[2].partition(END.encode())[0]]


def unreported(cache: Path, damaged: list[str]) -> list[str]:
    """The damaged files that a full verification neither names in a problem nor in the error that it raises."""
    try:
        result = softcache.verify(cache, "full")
    except SoftcacheError as e:
        return [name for name in damaged if name not in str(e)]
    said = [f"{p.path}: {p.what}" for p in result.problems]
    # A commit that is gone cannot be named: of an old one the gap in the numbers is seen, of the newest the card.
    signs = {n: ("commits:", "README.md:") for n in damaged if n.startswith("commits/") and not (cache / n).exists()}
    # A receipt is only needed until a commit names its shard.
    damaged = [n for n in damaged if (cache / n).exists() or not n.startswith("receipts/")]
    return [n for n in damaged if not any(n in line or line.startswith(signs.get(n, ())) for line in said)]


def try_all(
    what: str, cache: Path, pristine: dict[str, bytes], damages: Iterator[dict[str, bytes | None]], count: int
) -> None:
    """Do each damage (bytes by path) to the cache, look, and undo it; fail with all that was not noticed."""
    expected = read_everything(cache)
    assert len(expected) == 7, expected.keys()
    newest = max(p for p in pristine if p.startswith("commits/"))
    before = read_everything(cache, commit=1)
    missed, silent, reported = [], [], 0
    for damage in itertools.islice(damages, count):
        for path, data in damage.items():
            give(cache / path, data)
        try:
            unnamed = unreported(cache, [p for p in damage if p != CARD or own(damage[p]) != own(pristine[p])])
            allowed = before if damage.get(newest, b"") is None else expected  # as if it had never been published
            changed = [way for way, value in read_everything(cache).items() if value != allowed[way]]
        except Exception as e:  # noqa: BLE001 - no damage may lead to one that is not a SoftcacheError
            unnamed, changed = [], [f"{type(e).__name__}: {e}"]
        for path in damage:
            give(cache / path, pristine[path])
        reported += not unnamed
        missed += [f"{name}, now {summary(damage[name], pristine[name])}" for name in unnamed]
        silent += [f"{', '.join(changed)}, after damage to {', '.join(damage)}"] if changed else []
    print(f"\n{what}: {count:,} tried, {reported:,} reported by verify, {len(silent):,} silent")
    assert not missed, "not reported by verify:\n" + "\n".join(missed)
    assert not silent, "changed values, or errors that are no SoftcacheError:\n" + "\n".join(silent)
    assert read_everything(cache) == expected
    assert softcache.verify(cache).ok


def summary(data: bytes | None, good: bytes) -> str:
    if data is None:
        return "deleted"
    first = next((i for i, (a, b) in enumerate(zip(data, good, strict=False)) if a != b), min(len(data), len(good)))
    return f"{len(data)} of {len(good)} bytes, different from byte {first}"


def flip(generator: random.Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return bytes(flipped)


def truncate(generator: random.Random, data: bytes) -> bytes:
    return data[: generator.randrange(len(data))]


def zero_a_page(generator: random.Random, data: bytes) -> bytes:
    """A page of the disk's, or some of a file that is not longer than one."""
    begin = generator.randrange(len(data))
    if len(data) > PAGE:
        begin = begin // PAGE * PAGE
    end = min(begin + (PAGE if len(data) > PAGE else generator.randint(1, len(data))), len(data))
    return data[:begin] + bytes(end - begin) + data[end:]


DAMAGES: dict[str, tuple[Damage, int, int]] = {
    "flips": (flip, 60, 1000),
    "truncations": (truncate, 32, 256),
    "emptied files": (lambda _, __: b"", 32, 256),
    "zeroed pages": (zero_a_page, 32, 256),
    "appended bytes": (lambda g, data: data + g.randbytes(1), 32, 256),
    "deletions": (lambda _, __: None, 32, 256),
}


def test_every_bit_of_a_segment() -> None:
    """It is opened before its checksums are compared: the part that says what lies where is read as it is."""
    keys, rows = np.arange(5, 25), np.arange(20)
    data = bytes(dump_segment(keys, rows))
    checks = block_checksums(data)
    refused = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            Segment(bytes(flipped), pa.int64(), checks, "x").take(np.arange(20))
        except (FormatError, IntegrityError):
            refused += 1
    assert refused == 8 * len(data)


@pytest.mark.parametrize("what", DAMAGES)
def test_damage(what: str, cache: Path, pristine: dict[str, bytes], many: Callable[[int, int], int]) -> None:
    damage, short, long = DAMAGES[what]
    generator = random.Random(what)
    made = ({path: damage(generator, pristine[path])} for path in in_turn(list(pristine), generator))
    changing = (one for one in made if all(data != pristine[path] for path, data in one.items()))
    try_all(what, cache, pristine, changing, many(short, long))


def test_swapped_files(cache: Path, pristine: dict[str, bytes], many: Callable[[int, int], int]) -> None:
    """Two files of a kind, each whole, in each other's place."""
    generator = random.Random(0)
    others = {
        path: [o for o in pristine if kind(o) == kind(path) and inside(o) == inside(path) and pristine[o] != data]
        for path, data in pristine.items()
    }

    def swaps() -> Iterator[dict[str, bytes | None]]:
        for path in in_turn([p for p in pristine if others[p]], generator):
            other = generator.choice(others[path])
            yield {path: pristine[other], other: pristine[path]}

    try_all("swaps", cache, pristine, swaps(), many(32, 256))
