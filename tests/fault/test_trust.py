"""What a forged cache, whose every hash fits, can make a reader do: refuse it, or give other numbers; nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Workshop
from forgery import sign_commits
from mutants import write
from test_forged_verify import Forger

import softcache
from softcache.cli import main
from softcache.errors import FormatError
from softcache.store import arrow


def compressed(shard: bytes) -> bytes:
    """The same rows in a compressed stream, as long as before."""
    batch = arrow.load(shard, "x")
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    made = write(columns, batch.schema.metadata, "zstd")
    assert len(made) < len(shard)
    return made.ljust(len(shard), b"\0")


def test_a_compressed_shard_gives_no_values(workshop: Workshop) -> None:
    """Its columns are not where the manifest says, though every checksum fits."""
    workshop.samples(40, change=lambda x: x.__setitem__(slice(None), 1))
    workshop.build()
    forger = Forger(workshop.cache)
    forger.file("cls@t", ".arrow", compressed, number=1)
    assert any("compressed" in what for what in forger.said("full"))
    for _ in range(2):
        with pytest.raises(FormatError, match="compressed; the shards of a softcache cache never are"):
            workshop.open()["cls"].lookup([12])
    assert len(workshop.open()["cls"].lookup([2])) == 1


@pytest.mark.parametrize("name", ["../../x", "/x", "a b", "all", "x\x1b[2J", ""])
def test_names_that_are_none(workshop: Workshop, tmp_path: Path, name: str) -> None:
    """Export would make paths of them, and terminals would obey them."""
    workshop.build()
    forger = Forger(workshop.cache)
    forger.shards(lambda live: replace(live, split=name), number=1)
    sign_commits(forger.files, lambda body: body.update(splits={name: 40}))
    forger.said("quick")
    for act in (softcache.open, lambda cache: softcache.export(cache, tmp_path / "out")):
        with pytest.raises(FormatError, match="is not the name of a split"):
            act(workshop.cache)
    assert not (tmp_path / "out").exists()


def test_metadata_of_another_program(workshop: Workshop) -> None:
    """`datasets` would open the files and URLs that a column of strings names, were it declared to be of images."""
    workshop.recipe["transfer_set"]["keep"] = ["id", "label"]
    workshop.build()
    forger = Forger(workshop.cache)
    features = {"info": {"features": {"label": {"_type": "Image"}}}}
    forger.file("rows", ".arrow", lambda data: with_metadata(data, {"huggingface": json.dumps(features)}), number=1)
    forger.said("quick")
    for act in (lambda rows: rows.to_hf(), lambda rows: rows.table()):
        with pytest.raises(FormatError, match="schema metadata that softcache does not write: b'huggingface'"):
            act(workshop.open().rows)


def with_metadata(data: bytes, more: dict[str, str]) -> bytes:
    batch = arrow.load(data, "x")
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    return write(columns, {**batch.schema.metadata, **{key.encode(): value.encode() for key, value in more.items()}})


def test_a_terminal_is_not_told_what_to_do(workshop: Workshop) -> None:
    workshop.build()
    forger = Forger(workshop.cache)

    sign_commits(forger.files, lambda body: body.update(created="\x1b[2J\x9b31m\u202e"))
    forger.record("cls@t", lambda record: record.update(versions={"torch\x1b]0;x\x07": "\r\x1b[1A2.0"}))
    forger.said("quick")
    shown = CliRunner().invoke(main, ["info", str(workshop.cache)])
    assert shown.exit_code == 0, shown.output
    assert all(c.isprintable() or c == "\n" for c in shown.output)
