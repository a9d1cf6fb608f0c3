"""Garbage collection beside builders, storage operation by storage operation: no commit names what is deleted."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import Workshop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tools.turns import Actor, take_turns

import softcache
from softcache.audit import verifier, verify
from softcache.builder.prepare import prepared
from softcache.errors import SoftcacheError
from softcache.store.files import connect
from softcache.store.files.local import LocalFiles
from softcache.store.gc import collect
from softcache.store.layout import CARD


@pytest.fixture(scope="module")
def half_built(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A cache of eight samples, of which four are committed; a build of the others was killed before its commit."""
    workshop = Workshop(tmp_path_factory.mktemp("half_built"))
    workshop.samples(8)
    del workshop.recipe["tasks"]["feat"]
    workshop.recipe["build"] = {"batch_size": 4, "fragment_rows": 2}
    workshop.build(limit=4)
    workshop.build()
    (workshop.cache / "commits/000/00000000000000000002.json").unlink()
    last = sorted((workshop.cache / "receipts").rglob("*.json"), key=lambda p: p.stat().st_mtime_ns)[-1]
    last.unlink()  # so that its shard is garbage, which a build makes again
    return workshop


@pytest.fixture
def given_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `build` take the files of an actor in place of a path."""
    monkeypatch.setattr(prepared, "connect", lambda output: output if hasattr(output, "root") else connect(output))


def builder(workshop: Workshop, scales: list[float]) -> Callable[[object], object]:
    """Return what builds one target after the other: the recipe's, or one whose teacher's logits are scaled."""

    def work(files: object) -> object:
        for scale in scales:
            other = [f"teachers.t.arguments.scale={scale}", f"tasks.cls.name={name_of(scale)}"] if scale != 1 else []
            softcache.build(workshop.folder / "recipe.yaml", files, other)  # type: ignore[arg-type]
        return None

    return work


def name_of(scale: float) -> str:
    return "cls@t" if scale == 1 else f"cls@s{scale}"


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    turns=st.lists(st.integers(0, 5), max_size=400),
    scales=st.sampled_from([[1.0], [2.0], [1.0, 2.0], [2.0, 1.0]]),
    abandons=st.lists(st.booleans(), min_size=1, max_size=2),
)
def test_no_commit_names_what_is_deleted(
    half_built: Workshop,
    given_files: None,
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[int],
    scales: list[float],
    abandons: list[bool],
) -> None:
    cache = tmp_path_factory.mktemp("turns") / "cache"
    shutil.copytree(half_built.cache, cache)
    half_built.save()
    actors = [Actor("build", cache, builder(half_built, scales))]
    actors += [Actor(f"gc, abandon {each}", cache, partial(collect, min_age=0, abandon=each)) for each in abandons]
    moved = take_turns(actors, turns)
    outcomes = {actor.name: actor.outcome for actor in actors}
    assert not (problems := softcache.verify(cache).problems), (problems, moved, outcomes)
    allowed = SoftcacheError if any(abandons) else ()
    assert not [o for o in outcomes.values() if isinstance(o, Exception) and not isinstance(o, allowed)], outcomes
    builder(half_built, scales)(str(cache))
    for scale in scales:
        found = softcache.open(cache)[name_of(scale)].lookup(range(8)).values.double()
        assert torch.allclose(found, half_built.answers() * scale, atol=1e-4)
    assert not (problems := softcache.verify(cache).problems), problems
    collect(connect(cache), min_age=0, abandon=True)
    assert not softcache.verify(cache).problems
    shutil.rmtree(cache)


def test_a_builder_sleeps_through_a_collection(half_built: Workshop, given_files: None, tmp_path: Path) -> None:
    """It has written everything but its commit, sleeps for as long as anyone likes, and wakes after the collection."""
    cache = tmp_path / "cache"
    shutil.copytree(half_built.cache, cache)
    half_built.save()
    sleeper = Actor("build", cache, builder(half_built, [1.0]))
    sleeper.settle()
    while sleeper.next != ("create", "commits/000/00000000000000000002.json"):
        sleeper.step()
    deleted = [g.path for g in collect(connect(cache), min_age=0)]
    assert {path.partition("/")[0] for path in deleted} == {"manifests", "index"}
    while not sleeper.finished:
        sleeper.step()
    assert not isinstance(sleeper.outcome, Exception), sleeper.outcome
    assert not softcache.verify(cache).problems
    commit = softcache.open(cache).commit
    assert (commit.number, commit.epoch, commit.rows) == (3, 2, 8)
    assert commit.manifests["rows"].path.endswith("-e2.arrow")


def verified(files: LocalFiles) -> None:
    """Verify again and again while others work."""
    for _ in range(3):
        for level in ("quick", "full"):
            found = verify.verify(files, level)  # type: ignore[arg-type]
            # A builder that sleeps between its commit and the card is as one that was killed there.
            problems = [p for p in found.problems if p.path != CARD]
            assert not problems, problems


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(turns=st.lists(st.integers(0, 5), max_size=600))
def test_verifying_beside_writers(
    half_built: Workshop,
    given_files: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[int],
) -> None:
    """What is whole is never called damaged, whoever writes and deletes meanwhile."""
    monkeypatch.setattr(verifier, "CARD_WAITS", (0,))
    monkeypatch.setattr(verify, "connect", lambda url: url if hasattr(url, "root") else connect(url))
    cache = tmp_path_factory.mktemp("turns") / "cache"
    shutil.copytree(half_built.cache, cache)
    half_built.save()
    actors = [
        Actor("verify", cache, verified),
        Actor("build", cache, builder(half_built, [2.0, 1.0, 3.0])),
        Actor("gc", cache, partial(collect, min_age=0)),
    ]
    moved = take_turns(actors, turns)
    assert [actor.outcome for actor in actors if isinstance(actor.outcome, BaseException)] == [], moved
    shutil.rmtree(cache)
