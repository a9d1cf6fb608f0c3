"""Files that were lost: a build makes them again, or says which one is gone."""

from pathlib import Path

import pytest
import torch
from conftest import Workshop
from language import TEXTS, Language

import softcache
from softcache.errors import (
    IntegrityError,
)


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


def test_lost_shards_are_rebuilt(workshop: Workshop) -> None:
    workshop.build()
    for target in ("cls@t", "feat@t", "rows"):
        lost = next(p for p in (workshop.cache / f"data/{target}").rglob("*") if p.is_file())
        data = lost.read_bytes()
        lost.unlink()
        assert not softcache.verify(workshop.cache).ok
        workshop.calls()
        assert workshop.build().answered == (0 if target == "rows" else 10)
        assert lost.read_bytes() == data
        assert softcache.verify(workshop.cache).ok


def test_a_lost_shard_of_an_unfinished_build(workshop: Workshop) -> None:
    workshop.build()
    next((workshop.cache / "commits").rglob("*.json")).unlink()
    lost = next((workshop.cache / "data/cls@t").rglob("*.arrow"))
    lost.unlink()
    workshop.build()
    assert lost.exists()
    assert softcache.verify(workshop.cache).ok


def test_tables_that_only_the_commit_names(language: Language) -> None:
    """A build reuses the commit's tables: fitting them again would change what the stored rows mean."""
    language.recipe["tasks"] = {"lm": language.recipe["tasks"]["lm"] | {"store": {"codec": "topk", "k": 4, "basis": 8}}}
    before = language.build()["lm"].lookup([0]).log_probs(2.0)
    for document in (language.cache / "tables").rglob("*.json"):
        document.unlink()
    language.build()
    assert softcache.verify(language.cache).ok
    for document in (language.cache / "tables").rglob("*.json"):
        document.unlink()
    language.rows([{"id": 100 + i, "text": f"{text} Again."} for i, text in enumerate(TEXTS)])
    after = language.build()["lm"].lookup([0]).log_probs(2.0)
    assert torch.equal(before.nan_to_num(9), after.nan_to_num(9))
    assert softcache.verify(language.cache).ok


def test_a_lost_table(language: Language) -> None:
    """The error names the lost file, with a commit and receipts and without them."""
    language.recipe["tasks"] = {"lm": language.recipe["tasks"]["lm"] | {"store": {"codec": "topk", "k": 4, "basis": 8}}}
    language.build()
    for table in (language.cache / "tables").rglob("*.arrow"):
        table.unlink()
    language.rows([{"id": 100 + i, "text": text} for i, text in enumerate(TEXTS)])
    with pytest.raises(IntegrityError, match=r"tables/\w\w/\w+\.arrow: lost, and lm@t was made with it"):
        language.build()
    for folder in ("commits", "receipts"):
        for file in (language.cache / folder).rglob("*.json"):
            file.unlink()
    with pytest.raises(IntegrityError, match=r"tables/\w\w/\w+\.arrow: lost, and lm@t was made with it"):
        language.build()
