"""Targets whose shards share tables: the shape of tails, a teacher's last layer, vocabularies."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from language import Language
from torch.utils.data import DataLoader

import softcache
from softcache.errors import CodecError, IntegrityError, RecipeError, TeacherError
from softcache.read import codec_table
from softcache.store.files import Files, connect
from softcache.store.gc import collect, find_garbage
from softcache.store.state import read_state
from softcache.store.target_tables import open_table, write_tables
from softcache.store.writer import Writer

STORES = {
    "even": {"codec": "topk", "k": 8},
    "shaped": {"codec": "topk", "k": 8, "basis": 32},
    "near": {"codec": "hidden", "width": 32},
    "nearer": {"codec": "hidden", "width": 32, "dtype": "int8"},
}


@pytest.fixture
def language(tmp_path: Path) -> Language:
    made = Language(tmp_path)
    task = {"kind": "causal_lm", "classes": 300, "value_kind": "logits", "teachers": ["t"]}
    made.recipe["tasks"] = {name: task | {"name": f"{name}@t", "store": store} for name, store in STORES.items()}
    return made


def lose_one_shard(language: Language, target: str) -> None:
    """Delete one of a target's receipts."""
    receipts = (path for path in (language.cache / "receipts").rglob("*.json") if f'"{target}"' in path.read_text())
    next(receipts).unlink()


def divergence(language: Language, soft: Any, temperature: float) -> float:
    """The mean KL from the live model to a target's distributions."""
    found = []
    for row, sample in enumerate(soft.ids.tolist()):
        log_p = (language.logits(sample).double() / temperature).log_softmax(1)
        log_q = soft.log_probs(temperature)[row, : len(log_p)].double()
        found.append((log_p.exp() * (log_p - log_q)).sum(1))
    return float(torch.cat(found).mean())


def test_shapes_and_layers(language: Language) -> None:
    cache = language.build()
    assert softcache.verify(language.cache).ok
    for temperature in (0.5, 1.0, 2.0, 8.0):
        kl = {name: divergence(language, cache[name].lookup(list(range(6))), temperature) for name in STORES}
        assert kl["shaped"] < kl["even"] / 10
        assert kl["near"] < 1e-4
        assert kl["near"] < kl["nearer"] < 1e-2
    for name in STORES:
        errors = cache[name].errors
        assert errors is not None
        assert errors.rows > 0
        soft = cache[name].lookup([0, 3])
        assert torch.allclose(soft.log_probs(2.0)[soft.mask].exp().sum(-1), torch.ones(int(soft.mask.sum())), atol=1e-4)
    shaped, even = cache["shaped"].lookup([0, 3]), cache["even"].lookup([0, 3])
    for one, other in zip(shaped.sparse_log_probs(2.0), even.sparse_log_probs(2.0), strict=True):
        assert torch.equal(one.nan_to_num(9), other.nan_to_num(9))


def test_losses(language: Language) -> None:
    """A shaped tail is compared class by class; lumped, it is what a target without a shape gives."""
    cache = language.build()
    logits = torch.randn(2, 42, 300, dtype=torch.float64, requires_grad=True)
    for name in ("shaped", "near"):
        soft = cache[name].lookup([0, 3])
        rows = softcache.distillation_loss(logits, soft, 2.0, reduction="none")
        log_p, log_q = soft.log_probs(2.0).double(), (logits / 2).log_softmax(-1)
        expected = 4 * (log_p.exp() * (log_p - log_q)).sum(-1)
        assert torch.allclose(rows[soft.mask], expected[soft.mask], atol=1e-5)
        (gradient,) = torch.autograd.grad(rows.sum(), logits)
        there = torch.where(soft.mask[..., None], 2 * (log_q.exp() - log_p.exp()), 0.0)
        assert torch.allclose(gradient, there.detach(), atol=1e-5)
    shaped, even = cache["shaped"].lookup([0, 3]), cache["even"].lookup([0, 3])
    lumped = softcache.distillation_loss(logits, shaped, 2.0, tail="lumped")
    assert torch.equal(lumped, softcache.distillation_loss(logits, even, 2.0))
    assert lumped < softcache.distillation_loss(logits, shaped, 2.0)


def test_tables_do_not_travel(language: Language) -> None:
    """Batches from workers bring no copy of a table, and find it again where they arrive."""
    cache = language.build()
    soft = cache["near"].lookup([0, 3])
    log_p = soft.log_probs(2.0)
    copied = pickle.dumps(soft)
    assert len(copied) < soft.columns["hidden"].nbytes + 20_000 < cache["near"].table_of("output").nbytes
    assert torch.equal(pickle.loads(copied).log_probs(2.0).nan_to_num(9), log_p.nan_to_num(9))
    data = softcache.attach([{"id": i} for i in range(6)], cache, id="id", targets=["near"])
    for batch in DataLoader(data, 3, collate_fn=softcache.collate, num_workers=2):  # type: ignore[arg-type]
        assert torch.isfinite(batch["soft"]["near"].log_probs(2.0)).any()


def names_of_tables(files: Files) -> set[str]:
    return {path for path, _, _ in files.walk("tables")}


def test_tables_are_kept(language: Language) -> None:
    """What an unfinished build's shards were made with is used again, and belongs to it."""
    files, tasks = connect(language.cache), language.recipe["tasks"]
    language.recipe["tasks"] = {"even": tasks["even"]}
    language.build()
    before = names_of_tables(files)
    language.recipe["tasks"] = tasks
    language.build()
    tables = {name for name in names_of_tables(files) if name.endswith(".arrow")}
    assert len(tables) == 3, "one vocabulary and one last layer for all, and a basis"
    assert not [g for g in find_garbage(files, min_age=0) if g.path.startswith("tables/")]
    newest = language.cache / "commits/000/00000000000000000002.json"
    newest.unlink()
    lose_one_shard(language, "near@t")
    assert not [g for g in find_garbage(files, min_age=0) if g.path.startswith("tables/")]
    again = language.build()
    assert {name for name in names_of_tables(files) if name.endswith(".arrow")} == tables
    assert divergence(language, again["near"].lookup([0, 1, 2]), 1.0) < 1e-4
    assert softcache.verify(language.cache).ok
    newest.unlink()
    collect(files, min_age=0, abandon=True)
    assert names_of_tables(files) == before
    assert divergence(language, language.build()["near"].lookup([0, 1, 2]), 1.0) < 1e-4
    assert softcache.verify(language.cache).ok


def test_tables_of_a_later_epoch(language: Language) -> None:
    """Shards belong to the tables that they were encoded with: those of an earlier epoch are made again."""
    tasks = language.recipe["tasks"]
    language.recipe["tasks"] = {"even": tasks["even"]}
    language.build()
    language.recipe["tasks"] = tasks
    shaped = language.build().committed("shaped@t")
    (language.cache / "commits/000/00000000000000000002.json").unlink()
    files = connect(language.cache)
    collect(files, min_age=0)  # condemns a manifest, but no tables
    basis = open_table(files, shaped.tables["basis"])
    mixed = pa.RecordBatch.from_arrays([basis["basis"].take(pa.array(range(len(basis))[::-1]))], schema=basis.schema)
    vocabulary = open_table(files, shaped.tables["vocabulary"])
    write_tables(Writer(files, 2), "shaped@t", shaped.fingerprint, {"basis": mixed, "vocabulary": vocabulary})
    again = language.build()
    made = again.committed("shaped@t")
    assert all(table.path.endswith("-e2.arrow") for table in made.tables.values())
    named = [s.shard for s in read_state(files).live() if s.shard.target == "shaped@t"]
    assert all("-e2." in file.path for shard in named for file in shard.files)
    assert softcache.verify(language.cache).ok


def test_lost_and_damaged(language: Language) -> None:
    language.build()
    (table,) = (
        f for f in (language.cache / "tables").rglob("*.*") if f.stat().st_size > 30_000 and f.suffix == ".arrow"
    )
    whole = table.read_bytes()
    table.write_bytes(whole[:-8000] + bytes([whole[-8000] ^ 1]) + whole[-7999:])
    assert [p.path for p in softcache.verify(language.cache).problems] == [table.relative_to(language.cache).as_posix()]
    codec_table._loaded.clear()
    with pytest.raises(IntegrityError, match="sha256 is not the one that was recorded"):
        softcache.open(language.cache)["near"].lookup([0]).log_probs()
    table.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        softcache.open(language.cache)["near"].lookup([1]).log_probs()
    assert {p.path for p in softcache.verify(language.cache).problems} == {table.relative_to(language.cache).as_posix()}
    for commit in (language.cache / "commits").rglob("*.json"):
        commit.unlink()
    for document in (language.cache / "tables").rglob("*.json"):
        document.unlink()
    lose_one_shard(language, "near@t")
    with pytest.raises(IntegrityError, match="the tables of near@t are lost"):
        language.build()


def test_what_does_not_fit(language: Language) -> None:
    with pytest.raises(CodecError, match=r"last layer is \[300, 32\]; expected \[300, 31\]"):
        language.build("tasks.near.store.width=31")
    with pytest.raises(RecipeError, match="width is 0"):
        language.build("~tasks.near.store.width")
    with pytest.raises(RecipeError, match="a basis would give probability"):
        language.build("tasks.shaped.allow_masked=true")
    with pytest.raises(TeacherError, match="has no output 'states'; it has logits, hidden"):
        language.build("tasks.near.output=states")
