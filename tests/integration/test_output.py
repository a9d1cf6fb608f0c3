"""Where a build may write: nothing of the user's is touched, and an error says what is in the way."""

import os
from pathlib import Path

import pytest
from conftest import Workshop

import softcache
from softcache.errors import RecipeError, StorageError


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["README.md", "data/train.csv", ".git/config", "softcache.json/x", "commits/1.json"])
def test_a_folder_of_something_else_is_refused(workshop: Workshop, name: str) -> None:
    path = workshop.cache / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for act in (softcache.build, softcache.plan):
        with pytest.raises((RecipeError, StorageError), match=r"not empty|not a regular file") as caught:
            act(workshop.save(), workshop.cache)
        assert str(workshop.cache) in str(caught.value)
    assert contents(workshop.cache) == {name: b"mine"}


def test_an_empty_folder_and_what_a_killed_builder_leaves_are_right(workshop: Workshop) -> None:
    workshop.cache.mkdir()
    (workshop.cache / ".tmp-0123456789abcdef0123456789abcdef").write_bytes(b"half")
    workshop.build()
    assert softcache.verify(workshop.cache).ok


def test_what_is_in_the_way_is_named(workshop: Workshop) -> None:
    file = workshop.folder / "model.py"
    for output in (file, file / "cache", file / "a" / "b"):
        with pytest.raises(StorageError, match=rf"^{output}: {file} is not a folder$"):
            softcache.build(workshop.save(), output)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")
def test_a_folder_that_cannot_be_made(workshop: Workshop) -> None:
    with pytest.raises(StorageError, match=r"^/proc/cache: this folder cannot be made: No such file or directory$"):
        softcache.build(workshop.save(), "/proc/cache")


def test_a_url_with_one_slash_is_a_typo(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop.folder)
    for act in (lambda url: softcache.build(workshop.save(), url), softcache.open):
        with pytest.raises(StorageError, match=r"s3:/bucket/x: not a URL, which begins with s3://"):
            act("s3:/bucket/x")
    assert not (workshop.folder / "s3:").exists()
