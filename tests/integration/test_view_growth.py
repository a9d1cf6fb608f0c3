"""Augmented caches that grow: more views, samples and teachers, and partners that stay what they are."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from augmented import Augmented, Students, answers, expected

import softcache
from softcache.errors import (
    AlignmentError,
)
from softcache.store.checksums import sha256


def shards(cache: Path) -> dict[str, str]:
    return {str(p.relative_to(cache)): sha256(p.read_bytes()) for p in (cache / "data").rglob("*") if p.is_file()}


def test_views_are_added_without_touching_stored_ones(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented(views=2)
    workshop.build()
    before, first = shards(workshop.cache), workshop.open()
    values = first["cls"].lookup(range(40), 1).values
    workshop.calls()
    workshop.recipe["augmentation"]["views"] = 5
    workshop.build()
    assert before.items() <= shards(workshop.cache).items()
    assert workshop.calls() == 40 * 3 + 8 + 4, "and two rows of two fragments again for each target, and a batch"
    cache = workshop.open()
    assert torch.equal(cache["cls"].lookup(range(40), 1).values, values)
    assert first.commit.views == 2
    assert cache.commit.views == 5
    seen = np.stack([expected(x, i, 4) for i, x in enumerate(Students(workshop).x)])
    assert torch.allclose(cache["cls"].lookup(range(40), 4).values, answers(workshop, seen), atol=1e-5)
    assert softcache.verify(workshop.cache).ok
    for count in (None, 2, 4):
        data = softcache.views(Students(workshop), cache, augment.noisy, id="id", views=count, check="always")
        data.set_epoch(9)
        assert data.view == 9 % (count or 5)
        data[0]
    # Fewer than there are: nothing to do. New samples get as many as are asked for.
    workshop.recipe["augmentation"]["views"] = 2
    assert workshop.build().up_to_date
    workshop.recipe["augmentation"]["views"] = 5
    workshop.samples(50)
    workshop.build()
    assert workshop.open().commit.rows == 250
    assert softcache.verify(workshop.cache).ok


def test_a_changed_sample_is_redone_in_all_its_views(augmented: Augmented) -> None:
    workshop = augmented(views=2)
    workshop.build()
    workshop.recipe["augmentation"]["views"] = 3
    workshop.build()

    def change(x: np.ndarray) -> None:
        x[3] += 1

    workshop.samples(40, change=change)
    workshop.recipe["augmentation"]["views"] = 2
    workshop.build()
    changed = np.stack([expected(Students(workshop).x[3], 3, v) for v in range(3)])
    said = workshop.open()["cls"].lookup([3, 3, 3], [0, 1, 2]).values
    assert torch.allclose(said, answers(workshop, changed), atol=1e-5)
    assert softcache.verify(workshop.cache).ok


def test_a_later_teacher_sees_the_same_views(augmented: Augmented) -> None:
    workshop = augmented("from_a_file")
    workshop.write("shift", "0")
    del workshop.recipe["tasks"]["feat"]
    workshop.build()
    checks = workshop.open().checks(np.arange(120))
    workshop.recipe["teachers"]["later"] = workshop.recipe["teachers"]["t"] | {"arguments": {"scale": 2.0}}
    workshop.recipe["tasks"]["cls"]["teachers"] = ["t", "later"]
    workshop.write("shift", "1")
    with pytest.raises(AlignmentError, match=r"sample 0, view 0: differs from the view that is recorded"):
        workshop.build()
    workshop.write("shift", "0")
    workshop.build()
    cache = workshop.open()
    assert np.array_equal(cache.checks(np.arange(120)), checks)
    both = [cache[name].lookup(range(40), 2).values for name in ("cls@t", "cls@later")]
    assert torch.allclose(both[0] * 2, both[1], atol=1e-4)


def test_partners_are_stored_by_id(augmented: Augmented, augment: ModuleType) -> None:
    """Partners come from all samples, whatever the batch size; a student may reorder samples but needs all of them."""
    workshop = augmented("Mix", views=2)
    workshop.samples(40, ids=[f"sample {i}" for i in range(40)])
    workshop.build("build.batch_size=3")
    cache, students = workshop.open(), Students(workshop)
    drawn = cache.parameters(np.arange(80))
    assert len({p["partner"] for p in drawn}) > 20
    x = dict(zip(students.ids, students.x, strict=True))
    ids = cache.rows.table()["sample_id"].to_pylist()
    mixed = [
        (p["weight"] * x[i] + (1 - p["weight"]) * x[p["partner"]]).astype(np.float32)
        for i, p in zip(ids, drawn, strict=True)
    ]
    assert torch.allclose(cache["cls"].read(slice(None)).values, answers(workshop, np.stack(mixed)), atol=1e-5)
    some = softcache.views(Students(workshop, [0, 1]), cache, augment.Mix(), id="id")
    with pytest.raises(AlignmentError, match=r"is mixed into a view, but is not in the dataset"):
        some[0]


def test_partners_stay_what_they_are_when_samples_are_added(augmented: Augmented) -> None:
    workshop = augmented("Mix")
    workshop.build()
    drawn = workshop.open().parameters(np.arange(120))
    workshop.samples(60)
    workshop.recipe["tasks"]["again"] = workshop.recipe["tasks"]["cls"] | {"output": "cls"}
    workshop.build()
    cache = workshop.open()
    assert cache.parameters(np.arange(120)) == drawn
    ids, views = np.repeat(np.arange(60), 3), np.tile(np.arange(3), 60)
    assert torch.equal(cache["again"].lookup(ids, views).values, cache["cls"].lookup(ids, views).values)


def test_skipped_views_are_listed_once(augmented: Augmented) -> None:
    def change(x: np.ndarray) -> None:
        x[5] = 600

    workshop = augmented("picky", views=2)
    workshop.write("most", "500")
    workshop.samples(40, change=change)
    for views in (2, 4):
        workshop.recipe["augmentation"]["views"] = views
        workshop.build("build.on_bad_sample=skip")
    skipped = workshop.open().committed("cls@t").skipped
    assert sorted(key[:2] for key in skipped) == [[5, 0], [5, 1], [5, 2], [5, 3]]


def test_students_with_fewer_views(augmented: Augmented, augment: ModuleType) -> None:
    """Some samples were added with fewer views than the others have."""
    workshop = augmented(views=3)
    workshop.samples(10)
    workshop.build()
    workshop.samples(20)
    workshop.build("augmentation.views=2")
    cache, students = workshop.open(), Students(workshop)
    with pytest.raises(AlignmentError, match=r"lacks 10 of 20 keys: \(10, 2\)"):
        softcache.views(students, cache, augment.noisy, id="id")
    data = softcache.views(students, cache, augment.noisy, id="id", views=2, check="always")
    assert np.array_equal(data[15]["x"], expected(students.x[15], 15, 0))
