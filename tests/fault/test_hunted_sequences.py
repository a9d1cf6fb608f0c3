"""What a hunt for inputs that break sequences, tables and language models has found."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Workshop
from language import TEXTS, Language, make_tokenizer

import softcache
from softcache.codecs import TopkCodec
from softcache.codecs.basis import fit_basis
from softcache.codecs.fidelity import measure
from softcache.codecs.tables import GivenTable
from softcache.errors import (
    AlignmentError,
    FormatError,
    IncompatibleTarget,
    IntegrityError,
    RecipeError,
    TaskError,
    TransferSetError,
)
from softcache.tasks import TaskSpec

TWO_LAYERS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 5).double(), nn.Linear(4, 5).double()

    def forward(self, x):
        return {"hidden": x.float()}

def preprocess(sample):
    return torch.tensor(sample["x"])
"""


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


def test_samples_without_positions(language: Language) -> None:
    """A batch, a shard or a lookup of nothing but single tokens."""
    language.rows([{"id": i, "text": text} for i, text in enumerate(["x", "y", "z", *TEXTS])])
    task = language.recipe["tasks"]["lm"]
    language.recipe["tasks"] = {
        name: task | {"store": store}
        for name, store in {
            "top": {"codec": "topk", "k": 4},
            "quant": {"codec": "quantized"},
            "near": {"codec": "hidden", "width": 32},
        }.items()
    }
    cache = language.build("build.batch_size=1", "build.fragment_rows=2")
    assert softcache.verify(language.cache).ok
    for name in language.recipe["tasks"]:
        for wanted in ([0, 1], []):
            soft = cache[name].lookup(wanted)
            assert soft.log_probs(torch.full((len(wanted),), 2.0)).shape == (len(wanted), 0, 300)
            assert soft.values.shape[:2] == (len(wanted), 0)
        assert softcache.distillation_loss(torch.zeros(2, 4, 300), cache[name].lookup([0, 1])) == 0
        assert len(cache[name].read(slice(5, 2))) == len(cache[name].read(slice(0, 0))) == 0
        assert len(cache[name].lookup_spans([], [], [])) == 0


def test_another_tokenizer_in_the_same_place(language: Language) -> None:
    language.build()
    other = make_tokenizer(TEXTS[:3])
    other.save_pretrained(language.folder / "model")
    with pytest.raises(IncompatibleTarget):
        language.build()
    language.cache = language.folder / "another"
    target = language.build()["lm"]
    target.check_tokenizer(other)
    assert target.lookup([0]).tokens[0].tolist() == other(TEXTS[0])["input_ids"]


def test_another_last_layer(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.write("two.py", TWO_LAYERS)
    shop.recipe["teachers"]["t"] = {
        "model": "two:Two",
        "preprocess": "two:preprocess",
        "reads": ["x"],
        "output_layer": "a",
    }
    cls = shop.recipe["tasks"]["cls"] | {"output": "hidden", "store": {"codec": "hidden", "width": 4}}
    shop.recipe["tasks"] = {"cls": cls}
    shop.build(limit=10)
    with pytest.raises(IncompatibleTarget, match="output_layer: a -> b"):
        shop.build("teachers.t.output_layer=b")
    shop.build()
    assert softcache.verify(shop.cache).ok


def test_tables_that_only_the_commit_names(language: Language) -> None:
    """They are those of the commit, whatever is built next; a second fit would give stored rows another meaning."""
    language.recipe["tasks"] = {"lm": language.recipe["tasks"]["lm"] | {"store": {"codec": "topk", "k": 4, "basis": 8}}}
    before = language.build()["lm"].lookup([0]).log_probs(2.0)
    for document in (language.cache / "tables").glob("*.json"):
        document.unlink()
    language.build()
    assert softcache.verify(language.cache).ok
    for document in (language.cache / "tables").glob("*.json"):
        document.unlink()
    language.rows([{"id": 100 + i, "text": f"{text} Again."} for i, text in enumerate(TEXTS)])
    after = language.build()["lm"].lookup([0]).log_probs(2.0)
    assert torch.equal(before.nan_to_num(9), after.nan_to_num(9))
    assert softcache.verify(language.cache).ok


def test_a_table_that_is_lost(language: Language) -> None:
    """Whatever a build finds of it, it says which file is gone."""
    language.recipe["tasks"] = {"lm": language.recipe["tasks"]["lm"] | {"store": {"codec": "topk", "k": 4, "basis": 8}}}
    language.build()
    for table in (language.cache / "tables").glob("*.arrow"):
        table.unlink()
    language.rows([{"id": 100 + i, "text": text} for i, text in enumerate(TEXTS)])
    with pytest.raises(IntegrityError, match=r"tables/\w+\.arrow: lost, and lm@t was made with it"):
        language.build()
    for folder in ("commits", "receipts"):
        for file in (language.cache / folder).iterdir():
            file.unlink()
    with pytest.raises(IntegrityError, match=r"tables/\w+\.arrow: lost, and lm@t was made with it"):
        language.build()


def test_positions_of_a_forged_manifest(language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of positions that is shorter than the values is refused before anything is read."""
    masks = [[t % 2 for t in range(len(ids))] for ids in language.ids]
    language.rows([{"id": i, "tokens": ids, "mask": masks[i]} for i, ids in enumerate(language.ids)])
    del language.recipe["teachers"]["t"]["text"]
    language.recipe["teachers"]["t"] |= {"input_ids": "tokens", "loss_mask": "mask"}
    target = language.build()["full"]
    assert target.lookup([0, 1]).mask.any()
    reader: Any = target._columns[0]  # type: ignore[index]
    reader._position_bounds._items = reader._position_bounds._items * 0
    with pytest.raises(FormatError, match="positions has offsets outside its data"):
        target.lookup([0, 1])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"mask": [-100, -100, 7, 8]}, "expected a 0 or a 1"),
        ({"mask": [0, 1]}, "expected a 0 or a 1 for each of 4 tokens"),
        ({"mask": [0.0, 1.0, 0.0, 1.0]}, "list of at least one integer"),
        ({"tokens": [5.7, 6.2, 7.0, 8.0]}, "list of at least one integer"),
        ({"tokens": ["5", "6", "7", "8"]}, "list of at least one integer"),
        ({"tokens": [5, 6, 7, 300]}, "expected them from 0 to 299"),
    ],
)
def test_tokens_and_masks_that_are_none(language: Language, row: dict[str, Any], said: str) -> None:
    language.rows([{"id": 0, "tokens": [5, 6, 7, 8], "mask": [0, 1, 1, 1]} | row])
    del language.recipe["teachers"]["t"]["text"]
    language.recipe["teachers"]["t"] |= {"input_ids": "tokens", "loss_mask": "mask"}
    with pytest.raises(TransferSetError, match=said):
        language.build()


def test_a_tail_that_is_ruled_out_has_no_shape() -> None:
    """Probabilities of exactly 0: nothing is NaN, and an error without bound stops where one is asked for."""
    task = TaskSpec("classification", (50,), "probs")
    probs = torch.eye(50)[:20]
    codec = TopkCodec(task, k=4, basis=3)
    codec = codec.with_table(GivenTable({"basis": fit_basis(codec.logits(probs), 3)}))
    found = codec.decoder.log_probs(codec.encode(probs), 1.0)
    assert not found.isnan().any()
    assert torch.allclose(found.exp(), probs)
    assert measure(codec, probs, codec.encode(probs)).worst == 0


@pytest.mark.parametrize("rank", [9, 12, 40])
def test_a_basis_larger_than_what_there_is(rank: int) -> None:
    """Components beyond those of the pilot are left out: rounding is no shape."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(400, 8, generator=generator) * 2
    pilot, rows = (torch.randn(n, 8, generator=generator) @ matrix.T for n in (256, 32))
    codec = TopkCodec(TaskSpec("classification", (400,), "logits"), k=4, basis=rank)
    codec = codec.with_table(GivenTable({"basis": fit_basis(pilot, rank)}))
    log_p = (rows.double() / 2).log_softmax(1)
    log_q = codec.decoder.log_probs(codec.encode(rows), 2.0).double()
    assert (log_p.exp() * (log_p - log_q)).sum(1).mean() < 1e-3


def test_arguments_as_loaders_have_them(language: Language) -> None:
    target = language.build()["lm"]
    ids = [language.ids[0], language.ids[1]]
    soft = target.lookup([0, 1], input_ids=ids)
    width = max(map(len, ids))
    padded = np.array([row + [0] * (width - len(row)) for row in ids])
    for dtype in (np.uint16, np.uint32, np.int32):
        target.lookup([0, 1], input_ids=padded.astype(dtype))
    for wrong in ([["a"], ["b"]], padded.astype(float), "text", padded > 3, [ids[0][:3], ids[1]], [1, 2]):
        with pytest.raises(AlignmentError, match=r"input_ids|not the token ids"):
            target.lookup([0, 1], input_ids=wrong)
    for starts, lengths in (
        (np.array([2**64 - 1], np.uint64), 2),
        ([2**63 - 1], [2]),
        ([[1], [1, 2]], 3),
        ([0], [10**13]),
        ([0.5], [1]),
    ):
        with pytest.raises(AlignmentError, match="must be integers from 0"):
            target.lookup_spans([1], starts, lengths)
    mask = torch.ones(2, width + 1, dtype=torch.bool)[:, 1:]
    logits = torch.zeros(2, width, 300)
    assert softcache.distillation_loss(logits, soft, mask=mask) == softcache.distillation_loss(logits, soft)
    with pytest.raises(TaskError, match="width is 3"):
        soft.next_tokens(3)
    with pytest.raises(TaskError, match=r"labels are torch\.bool"):
        softcache.distillation_loss(logits, soft, labels=mask, alpha=0.5)
    assert soft[[]].mask.shape == (0, 0)
    assert soft[::-1].ids.tolist() == [1, 0]
    assert isinstance(pickle.dumps(soft), bytes)


def test_recipes(language: Language) -> None:
    for override, said in (
        ("teachers.t=hello", "teachers.t"),
        ("teachers.t.model=package:nope.sub", "no package of that name"),
        ("teachers.t.model=package:.x", "no package of that name"),
        ("tasks.lm.value_kind=probs", "teacher t answers .logits."),
    ):
        with pytest.raises(RecipeError, match=said):
            language.build(override)


def test_a_zarr_shard_with_companions(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.recipe["tasks"]["cls"]["store"] = {"codec": "topk", "k": 2, "format": "zarr"}
    shop.build()
    assert softcache.verify(shop.cache).ok
