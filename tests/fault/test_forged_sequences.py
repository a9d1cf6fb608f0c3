"""Caches whose hashes are right and whose lists, tokens or tables are not."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language import Language

import softcache
from softcache.builder.answer.sequence_answers import SequenceAnswers
from softcache.builder.prepare import targets
from softcache.errors import FormatError
from softcache.store.buffers import ListColumn
from softcache.store.documents import dump_document, load_document

Columns = dict[str, ListColumn]


@pytest.fixture
def language(tmp_path: Path) -> Language:
    made = Language(tmp_path)
    del made.recipe["tasks"]["lm"]
    return made


def forge(monkeypatch: pytest.MonkeyPatch, change: Callable[[Columns], None]) -> None:
    """Have builds store other columns than those that were answered."""
    honest = SequenceAnswers.columns

    def columns(answers: SequenceAnswers) -> Mapping[str, ListColumn]:
        found = dict(honest(answers))
        change(found)
        return found

    monkeypatch.setattr(SequenceAnswers, "columns", columns)


def longer_positions(columns: Columns) -> None:
    offsets = columns["positions"].offsets.copy()
    offsets[1] -= 1
    columns["positions"] = ListColumn(columns["positions"].values, offsets)


def positions_of_others(columns: Columns) -> None:
    columns["positions"] = ListColumn(columns["positions"].values + 1, columns["positions"].offsets)


def disordered_positions(columns: Columns) -> None:
    values = columns["positions"].values.copy()
    values[:2] = 1, 0
    columns["positions"] = ListColumn(values, columns["positions"].offsets)


def longer_values(columns: Columns) -> None:
    offsets = columns["values"].offsets.copy()
    offsets[1] += 1
    columns["values"] = ListColumn(columns["values"].values, offsets)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (longer_positions, "the lists of positions are not as long as those of values"),
        (longer_values, "column positions has other lists than its rows' values"),
        (positions_of_others, "positions are not those of its tokens"),
        (disordered_positions, "positions do not ascend"),
    ],
)
def test_lists(
    language: Language, monkeypatch: pytest.MonkeyPatch, change: Callable[[Columns], None], said: str
) -> None:
    forge(monkeypatch, change)
    language.build()
    problems = softcache.verify(language.cache).problems
    assert any(said in problem.what for problem in problems), problems


@pytest.mark.parametrize("offset", [-3, 2**30])
@pytest.mark.parametrize("column", ["values", "input_ids"])
def test_lists_beyond_their_items(
    language: Language, monkeypatch: pytest.MonkeyPatch, column: str, offset: int
) -> None:
    """Offsets that pyarrow would refuse, were the shard read with it, are refused by the gather too."""
    language.build()
    target = softcache.open(language.cache)["full"]
    soft = target.lookup([0, 1])
    reader = target._rows._open_columns()[0]  # type: ignore[index]
    bounds = reader._bounds  # type: ignore[union-attr]
    window = bounds._window

    class Forged:
        step = window.step

        def at(self, begin: np.ndarray, shard: np.ndarray) -> np.ndarray:
            found = window.at(begin, shard).copy()
            found[["values", "input_ids"].index(column), -2 if offset < 0 else -1] = offset
            return found

    monkeypatch.setattr(bounds, "_window", Forged())
    with pytest.raises(FormatError, match=f"{column} has offsets outside its data"):
        target.lookup([0, 1])
    assert soft.mask.any()


def test_vocabulary(language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "vocabulary_hash", lambda table: "0" * 64)
    language.build()
    problems = softcache.verify(language.cache).problems
    assert [p.what for p in problems] == ["the vocabulary of full@t is not that of its tokenizer"]


def test_tables_of_another_target(language: Language) -> None:
    """What names a target's tables must be of its name."""
    language.build()
    (document,) = (language.cache / "tables").rglob("*.json")
    body = load_document(document.read_bytes(), "here")
    body["fingerprint"] = "0" * 64
    document.write_bytes(dump_document(body))
    assert any("holds the tables of another target" in p.what for p in softcache.verify(language.cache).problems)


def test_fewer_positions_than_values(language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of positions that is shorter than the values is refused before anything is read."""
    masks = [[t % 2 for t in range(len(ids))] for ids in language.ids]
    language.rows([{"id": i, "tokens": ids, "mask": masks[i]} for i, ids in enumerate(language.ids)])
    del language.recipe["teachers"]["t"]["text"]
    language.recipe["teachers"]["t"] |= {"input_ids": "tokens", "loss_mask": "mask"}
    target = language.build()["full"]
    assert target.lookup([0, 1]).mask.any()
    reader: Any = target._rows._open_columns()[0]  # type: ignore[index]
    reader._position_bounds._items = reader._position_bounds._items * 0
    with pytest.raises(FormatError, match="positions has offsets outside its data"):
        target.lookup([0, 1])
