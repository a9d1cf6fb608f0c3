"""Mistakes in recipes: each is a RecipeError that says what is wrong."""

from pathlib import Path

import pytest
from conftest import Workshop
from language import Language

import softcache
from softcache.errors import (
    RecipeError,
    SoftcacheError,
)


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


def test_content_must_cover_what_is_read(workshop: Workshop) -> None:
    with pytest.raises(RecipeError, match=r"teacher t reads x, which is not in it"):
        workshop.build("transfer_set.content=[label]")


@pytest.mark.parametrize(
    "override",
    [
        "x=2024-13-45",
        "x=0x_",
        "x=!!map foo",
        "x=!!int foo",
        "x=" + "1" * 5000,
        "x=" + "[" * 20000,
        "teachers.t.arguments.a=!!binary aGk=",
        "teachers.t.arguments.a={1: 2}",
        'teachers.t.weights="a\\0b"',
        "teachers.t.reads=[x, x]",
        "transfer_set.keep=[label, label]",
        "transfer_set.split=all",
        "transfer_set.source.arguments={a: .inf}",
    ],
)
def test_malformed_overrides(workshop: Workshop, override: str) -> None:
    with pytest.raises(RecipeError):
        workshop.build(override)


def test_merge_keys_are_valid_yaml(workshop: Workshop) -> None:
    path = workshop.save()
    text = path.read_text().replace("build:", "defaults: &d {batch_size: 3}\nbuild:\n  <<: *d", 1)
    path.write_text(text.replace("  batch_size: 4\n", ""))
    with pytest.raises(RecipeError, match="defaults") as caught:
        softcache.build(path, workshop.cache)
    assert len(caught.value.problems) == 1


def test_malformed_output_paths(workshop: Workshop) -> None:
    for output in ("", "a\0b", "simplecache::memory://x"):
        with pytest.raises(SoftcacheError):
            softcache.build(workshop.save(), output)


def test_language_models(language: Language) -> None:
    for override, said in (
        ("teachers.t=hello", "teachers.t"),
        ("teachers.t.model=package:nope.sub", "no package of that name"),
        ("teachers.t.model=package:.x", "no package of that name"),
        ("tasks.lm.value_kind=probs", "teacher t answers .logits."),
    ):
        with pytest.raises(RecipeError, match=said):
            language.build(override)
