"""Opening what answers: what is left for each teacher, its samples, and the teacher itself."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from softcache.builder.answer.jobs import Job
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.samples import AugmentedSamples, Samples
from softcache.builder.prepare.prepared import PreparedBuild
from softcache.builder.prepare.targets import BuildTarget
from softcache.builder.prepare.transfer_set import teacher_reads
from softcache.builder.prepare.view_records import ViewRecords
from softcache.errors import SoftcacheError, TeacherError
from softcache.recipe import Recipe
from softcache.teachers import Adapter, Teacher

log = logging.getLogger("softcache")


def teacher_jobs(prepared: PreparedBuild) -> dict[str, list[Job]]:
    """Return what is left for each teacher: its fragments, and which targets they lack."""
    lacking: dict[str, dict[int, list[BuildTarget]]] = {}
    for unit in prepared.todo:
        if unit.target is not None:
            lacking.setdefault(unit.target.teacher, {}).setdefault(unit.fragment.number, []).append(unit.target)
    fragments, positions = prepared.work.plan.fragments, prepared.work.positions
    return {
        teacher: [Job(fragments[number], positions[number], targets) for number, targets in of_teacher.items()]
        for teacher, of_teacher in lacking.items()
    }


def make_samples(prepared: PreparedBuild) -> Samples:
    """Return what gives teachers samples, or views of them. Raises AugmentationError if views cannot be replayed."""
    declared = prepared.rows_declaration.get("augmentation")
    if prepared.augmentation is None or declared is None:
        return Samples(prepared.transfer_set, prepared.scan)
    records = ViewRecords(prepared.files, prepared.inventory, prepared.units, declared)
    samples = AugmentedSamples(prepared.transfer_set, prepared.augmentation, prepared.scan, records)
    for number, positions in itertools.islice(prepared.work.positions.items(), 1):
        samples.check_replays(Job(prepared.work.plan.fragments[number], positions, []))
    return samples


@contextmanager
def opened_predictor(prepared: PreparedBuild, name: str, samples: Samples) -> Iterator[Predictor]:
    """Load a teacher, give what predicts with it, and close it. Raises as `loaded_teacher`."""
    recipe = prepared.recipe
    with loaded_teacher(recipe, name) as teacher:
        yield Predictor(
            name=name,
            teacher=teacher,
            samples=samples,
            reads=teacher_reads(recipe, name, prepared.transfer_set),
            batch_size=recipe.build.batch_size,
            skip_bad=recipe.build.on_bad_sample == "skip",
        )


@contextmanager
def loaded_teacher(recipe: Recipe, name: str) -> Iterator[Teacher]:
    """Load a teacher on the recipe's device, and call its `close`, if it has one, in the end.

    Raises SoftcacheError, whatever a user's own adapter raises.
    """
    teacher = _load_teacher(recipe, name)
    try:
        yield teacher
    finally:
        try:
            if callable(close := getattr(teacher, "close", None)):
                close()
        except Exception as e:  # noqa: BLE001 - its answers are as good as before
            log.warning("teacher %s: close raised %s: %s", name, type(e).__name__, e)


def _load_teacher(recipe: Recipe, name: str) -> Teacher:
    adapter: Adapter = recipe.teachers[name]
    try:
        return adapter.load(recipe.folder, recipe.build.device)
    except SoftcacheError:
        raise
    except Exception as e:
        raise TeacherError(f"teacher {name}: load of {adapter.adapter} raised {type(e).__name__}: {e}") from e
