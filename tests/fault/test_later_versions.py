"""Caches that a later version wrote: refused where they must be, read where they can be."""

import json
from typing import Any

from click.testing import CliRunner
from conftest import Workshop
from manifests import change_record

import softcache
from softcache.cli import main
from softcache.store.documents import dump_document, load_document

COMMIT = "commits/000/00000000000000000001.json"


def test_a_newer_format_is_incompatible_not_a_mismatch(workshop: Workshop) -> None:
    workshop.build()
    marker = workshop.cache / "softcache.json"
    marker.write_bytes(dump_document(load_document(marker.read_bytes(), "x") | {"version": 2}))
    for command in ("verify", "info", "status", "gc"):
        assert CliRunner().invoke(main, [command, str(workshop.cache)]).exit_code == 4


def test_unknown_members_are_ignored(workshop: Workshop) -> None:
    workshop.build()
    path = workshop.cache / COMMIT
    path.write_bytes(dump_document(load_document(path.read_bytes(), "x") | {"note": "from the future"}))
    change_record(workshop.cache, COMMIT, "cls@t", lambda record: record.update(note=1))
    assert len(workshop.open()["cls"].lookup([1])) == 1
    assert softcache.verify(workshop.cache).ok


def test_unknown_statistics_outlive_a_build(workshop: Workshop) -> None:
    workshop.build()

    def note(record: dict[str, Any]) -> None:
        figures = record["statistics"]
        figures["note"] = figures["errors"]["note"] = "from the future"

    change_record(workshop.cache, COMMIT, "cls@t", note)
    workshop.build("tasks.more={kind: features, teachers: [t], output: feat, shape: [3]}")
    found = workshop.open()
    assert "more@t" in found.targets
    kept = found["cls"].stats
    assert kept is not None
    assert {**kept}["note"] == {**kept["errors"]}["note"] == "from the future"


def test_unknown_codecs_do_not_hide_the_commit(workshop: Workshop) -> None:
    workshop.build()
    change_record(
        workshop.cache, COMMIT, "cls@t", lambda record: record["declaration"].update(codec={"name": "entropy"})
    )
    shown = CliRunner().invoke(main, ["info", str(workshop.cache), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["targets"]["cls@t"]["declaration"]["codec"] == {"name": "entropy"}
    (problem,) = (p for p in softcache.verify(workshop.cache).problems if p.path != "README.md")
    assert "'entropy'" in problem.what
    assert len(workshop.open()["feat"].lookup([1])) == 1
