"""Rows of several views, in fragments that share samples: the index has one entry per sample of a fragment."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import softcache
from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.targets import rows_fingerprint
from softcache.builder.prepare.units import Unit
from softcache.builder.publish.commit import Outcome, Publication, publish_build
from softcache.builder.publish.shards import write_rows
from softcache.errors import AlignmentError
from softcache.store.files import connect
from softcache.store.index import Segment
from softcache.store.keys import key_type
from softcache.store.layout import ROWS
from softcache.store.marker import ensure_marker, require_marker
from softcache.store.plan import Fragment, empty_plan, extend_plan
from softcache.store.receipts import unit_key
from softcache.store.state import read_reference
from softcache.store.writer import Writer
from softcache.transfer.content import hash_rows
from softcache.transfer.transfer_set import kept_digest

CONTENTS = np.arange(6 * 32, dtype=np.uint8).reshape(6, 32)


@pytest.fixture(params=["int64", "string"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[softcache.Cache, list]:
    """Six samples with views 0 to 2; then views 3 and 4 of the first four, as a later build would add them."""
    ids = pa.array([40, 10, 50, 20, 30, 0])
    ids = ids if request.param == "int64" else ids.cast(pa.string())
    files = connect(tmp_path / "cache")
    out = Writer(files)
    ensure_marker(files)
    fragments = [
        Fragment.of(0, "train", ids[:4], CONTENTS[:4], views=3),
        Fragment.of(1, "train", ids[4:], CONTENTS[4:], views=3),
        Fragment.of(2, "train", ids[:4], CONTENTS[:4], first_view=3, views=2),
    ]
    plan = extend_plan(out, empty_plan(["x"]), fragments)
    declaration = {"id": request.param, "keep": {}}
    keys = [
        unit_key(
            f.keys_sha256,
            rows_fingerprint(declaration),
            kept_digest(hash_rows(pa.table({}), len(f.sample_ids))),
            f.split,
        )
        for f in fragments
    ]
    units = [Unit(key, ROWS, f, None) for key, f in zip(keys, fragments, strict=True)]
    kept = [pa.table({"x": [0] * len(f.sample_ids)}).select([]) for f in fragments]
    receipts = {u.key: write_rows(out, u, k, declaration) for u, k in zip(units, kept, strict=True)}
    sizes = {path: size for path, size, _ in files.walk("data")}
    inventory = Inventory(state=None, receipts=receipts, sizes=sizes, condemned=frozenset())
    publication = Publication(
        marker=require_marker(files),
        plan=plan,
        units=units,
        targets=[],
        tables={},
        rows=declaration,
        transfer_set={"content": ["x"]},
    )
    assert publish_build(out, publication, inventory) is Outcome.PUBLISHED
    return softcache.open(tmp_path / "cache"), ids.to_pylist()


def test_each_view_has_its_row(cache: tuple[softcache.Cache, list]) -> None:
    opened, ids = cache
    keys = [(i, v) for i in ids[:4] for v in range(3)] + [(i, v) for i in ids[4:] for v in range(3)]
    keys += [(i, v) for i in ids[:4] for v in (3, 4)]
    order = np.random.default_rng(0).permutation(len(keys))
    found = opened.find([keys[i][0] for i in order], [keys[i][1] for i in order])
    assert found.tolist() == order.tolist()
    assert softcache.verify(opened.url).ok


@pytest.mark.parametrize("view", [3, 5, 2**31 - 1])
def test_a_view_that_is_not_there(cache: tuple[softcache.Cache, list], view: int) -> None:
    opened, ids = cache
    with pytest.raises(AlignmentError, match=f"lacks 1 of 2 keys.*{view}"):
        opened.find([ids[0], ids[5]], [0, view])
    with pytest.raises(AlignmentError, match="say which"):
        opened.find(ids)


def test_entries_do_not_grow_with_the_views(cache: tuple[softcache.Cache, list]) -> None:
    opened, _ = cache
    files, (reference,) = connect(opened.url), opened.commit.index
    segment = Segment(read_reference(files, reference), key_type(opened.commit.id_type), reference.blocks, "index")
    assert sorted(segment.rows.tolist()) == [0, 3, 6, 9, 12, 15, 18, 20, 22, 24]
    assert opened.commit.rows == 26
