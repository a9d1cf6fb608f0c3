"""Augmented builds, and students that are given the same views."""

import hashlib
import itertools
import json
import multiprocessing
import random
import struct
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Workshop

import softcache
from softcache.assess.forecast import plan
from softcache.cli import main
from softcache.errors import (
    AlignmentError,
    AugmentationError,
    IncompatibleTarget,
    RecipeError,
    SoftcacheError,
    TaskError,
    TransferSetError,
)
from softcache.store.checksums import sha256
from softcache.transfer import libraries
from softcache.transfer.augmentation import view_seed
from softcache.transfer.view_checks import NO_VIEW, check_of

AUGMENT = '''
import pathlib, random
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


def noisy(x, scale=1.0):
    """Draws from all three global generators."""
    drawn = np.array([random.random(), np.random.rand(), torch.rand(()).item(), np.random.rand()])
    return (np.asarray(x) + scale * drawn).astype(np.float32)


def one_more_draw(x):
    random.random()
    return noisy(x)


def given_rng(x, rng):
    return (np.asarray(x) + rng.random(4)).astype(np.float32)


def whole(sample):
    return {"x": noisy(sample["x"])}


class Scale:
    """Draws parameters: by how much, and which way round."""

    def __init__(self, most=2.0):
        self.most = most

    def draw(self, x, rng):
        return {"by": rng.uniform(1, self.most), "mirrored": bool(rng.random() < 0.5)}

    def apply(self, x, by, mirrored):
        x = np.asarray(x, np.float32) * np.float32(by)
        return x[::-1].copy() if mirrored else x


class Mix:
    def draw(self, x, rng):
        return {"weight": np.float64(rng.beta(1, 1))}

    def apply(self, x, weight, partner):
        return (weight * np.asarray(x) + (1 - weight) * np.asarray(partner)).astype(np.float32)


class OwnGenerator:
    """As albumentations has it."""

    def set_random_seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def __call__(self, *, image):
        return {"image": (np.asarray(image) + self.generator.random(4)).astype(np.float32)}


STRAY = np.random.default_rng(0)


def beside_rng(x, rng):
    return noisy(x + rng.random())


def stray(x):
    return (np.asarray(x) + STRAY.random(4)).astype(np.float32)


def from_a_file(x):
    return noisy(x) + np.float32((HERE / "shift").read_text())


def number(sample):
    return 1.0


def picky(x):
    if x[0] > float((HERE / "most").read_text()):
        raise ValueError("too large to augment")
    return noisy(x)


class Odd:
    def draw(self, x, rng):
        return {"what": object()}

    def apply(self, x, what):
        return x
'''
Augmented = Callable[..., Workshop]


@pytest.fixture
def augmented(workshop: Workshop) -> Augmented:
    def make(transform: str = "noisy", views: int = 3, **further: Any) -> Workshop:
        workshop.write("augment.py", AUGMENT)
        workshop.recipe["augmentation"] = {"transform": f"augment:{transform}", "column": "x", "views": views} | further
        return workshop

    return make


@pytest.fixture
def augment(workshop: Workshop) -> Iterator[ModuleType]:
    """The recipe's transforms, as a student imports them."""
    workshop.write("augment.py", AUGMENT)
    sys.path.insert(0, str(workshop.folder))
    yield import_module("augment")
    sys.path.remove(str(workshop.folder))
    del sys.modules["augment"]


class Students:
    """The dataset of a student: the workshop's samples, perhaps in another order."""

    def __init__(self, workshop: Workshop, order: list[int] | None = None, *, as_tuples: bool = False) -> None:
        made = json.loads((workshop.folder / "samples.json").read_text())
        self.ids, self.x = made["id"], np.array(made["x"], np.float32).reshape(-1, 4)
        self.order = list(range(len(self.ids))) if order is None else order
        self.as_tuples = as_tuples

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Any:
        i = self.order[place]
        return (self.x[i], self.ids[i]) if self.as_tuples else {"x": self.x[i], "id": self.ids[i]}


def answers(workshop: Workshop, x: Any) -> torch.Tensor:
    """What the live teacher says to views, float32."""
    return workshop.answers("cls", x).float()


def expected(x: np.ndarray, sample_id: int, view: int, seed: int = 0) -> np.ndarray:
    """The view of `noisy`, from the format page alone."""
    digest = hashlib.sha256(struct.pack("<q", seed) + b"i" + struct.pack("<q", sample_id) + struct.pack("<i", view))
    number = int.from_bytes(digest.digest()[:8], "little")
    python, numpy = random.Random(number), np.random.RandomState([number % 2**32, number // 2**32])
    pytorch = torch.Generator().manual_seed(number)
    first, second, third = python.random(), numpy.rand(), torch.rand((), generator=pytorch).item()
    drawn = np.array([first, second, third, numpy.rand()])
    return (x + drawn).astype(np.float32)


def test_teachers_see_the_views_that_the_format_says(augmented: Augmented) -> None:
    workshop = augmented(views=3, seed=7)
    workshop.build()
    shown = CliRunner().invoke(main, ["info", str(workshop.cache)]).output
    assert "up to 3 views of each: augment:noisy() of column x, seed 7" in shown
    cache, students = workshop.open(), Students(workshop)
    ids = np.repeat(students.ids, 3)
    views = np.tile(np.arange(3), len(students.ids))
    seen = np.stack([expected(students.x[i], int(i), int(v), 7) for i, v in zip(ids, views, strict=True)])
    soft = cache["cls"].lookup(ids, views)
    assert torch.allclose(soft.values, answers(workshop, seen), atol=1e-5)
    assert torch.allclose(
        cache["feat"].lookup(ids, views).values.float(), workshop.answers("feat", seen).float(), atol=1e-2
    )
    checks = cache.checks(cache.find(ids, views))
    assert [c.tobytes() for c in checks] == [check_of(x) for x in seen]
    assert cache.commit.views == 3
    assert cache.commit.rows == 120
    assert softcache.verify(workshop.cache).ok


def test_rows_are_stored_once_a_sample(augmented: Augmented) -> None:
    workshop = augmented("Scale", views=3)
    workshop.build()
    cache = workshop.open()
    stored = datasets.load_dataset(str(workshop.cache), "rows", split="train")
    assert stored.num_rows == 40
    assert {len(row["check"]) for row in stored} == {3}
    of_target = datasets.load_dataset(str(workshop.cache), "cls@t", split="train")
    assert of_target.num_rows == 120
    assert of_target["view"][:4] == [0, 1, 2, 0]
    table = cache.rows.table()
    assert table.num_rows == 120
    assert table["sample_id"].to_pylist() == of_target["sample_id"][:]
    assert table["view"].to_pylist() == of_target["view"][:]
    assert np.array_equal(np.stack(table["check"].to_numpy()), cache.checks(np.arange(120)))
    assert [set(p) for p in cache.parameters([0, 119])] == [{"by", "mirrored"}] * 2
    assert cache.rows.to_hf().num_rows == 40


@pytest.mark.parametrize("transform", ["noisy", "given_rng", "Scale", "Mix", "OwnGenerator"])
def test_students_are_given_the_same_views(augmented: Augmented, augment: ModuleType, transform: str) -> None:
    """In any order and batch size, by epoch, with what comes after the view left to the student."""
    workshop = augmented(transform, views=3)
    workshop.build()
    cache = workshop.open()
    order = np.random.default_rng(1).permutation(40).tolist()
    made = getattr(augment, transform)
    made = made() if isinstance(made, type) else made
    data = softcache.views(Students(workshop, order), cache, made, id="id", check="always", then=lambda x: x * 2)
    for epoch, size in [(0, 7), (1, 40), (2, 1), (3, 16)]:
        data.set_epoch(epoch)
        assert data.view == epoch % 3
        loader = torch.utils.data.DataLoader(data, batch_size=size, shuffle=True, collate_fn=softcache.collate)
        for batch in loader:
            soft = batch["soft"]["cls@t"]
            assert soft.ids.tolist() == batch["id"].tolist()
            assert set(soft.views.tolist()) == {epoch % 3}
            said = answers(workshop, (batch["x"] / 2).numpy())
            assert torch.allclose(soft.values, said, atol=1e-4)


def test_resuming_in_the_middle_of_an_epoch(augmented: Augmented, augment: ModuleType) -> None:
    """A new process that sets the epoch, and takes up its sampler, goes on with the same views."""
    workshop = augmented(views=3)
    workshop.build()

    def batches(epoch: int, skipped: int) -> list[Any]:
        data = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id", check="always")
        data.set_epoch(epoch)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(epoch)).split(8)
        return [softcache.collate(data.__getitems__(part.tolist())) for part in order[skipped:]]

    for whole, resumed in zip(batches(5, 0)[3:], batches(5, 3), strict=True):
        assert torch.equal(whole["x"], resumed["x"])
        assert torch.equal(whole["soft"]["cls@t"].values, resumed["soft"]["cls@t"].values)


@pytest.mark.parametrize("transform", ["noisy", "Mix"])
def test_tuples_and_whole_samples(augmented: Augmented, augment: ModuleType, transform: str) -> None:
    workshop = augmented(transform)
    workshop.build()
    made = getattr(augment, transform)
    made = made() if isinstance(made, type) else made
    data = softcache.views(Students(workshop, as_tuples=True), workshop.open(), made, id=1, column=0, check="always")
    sample, soft = data[3]
    assert isinstance(sample, tuple)
    assert torch.allclose(soft["cls@t"].values, answers(workshop, sample[0][None]), atol=1e-4)


def test_a_transform_of_whole_samples(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented("whole", column=None)
    workshop.build()
    data = softcache.views(Students(workshop), workshop.open(), augment.whole, id="id", check="always")
    sample = data[5]
    assert np.array_equal(sample["x"], expected(Students(workshop).x[5], 5, 0))
    then = softcache.views(Students(workshop), workshop.open(), augment.whole, id="id", then=lambda s: s | {"y": 1})
    assert then[5]["y"] == 1


@pytest.mark.parametrize("wrong", ["one_more_draw", "given_rng", "unseeded"])
def test_every_other_view_is_refused(augmented: Augmented, augment: ModuleType, wrong: str) -> None:
    """A random stream that is one draw off; another transform; the same one without its seed."""
    workshop = augmented(views=4)
    workshop.build()
    transform = augment.noisy if wrong == "unseeded" else getattr(augment, wrong)
    data = softcache.views(Students(workshop), workshop.open(), transform, id="id", check="always")
    if wrong == "unseeded":
        data._augmentation._seed = 1
    for epoch, place in itertools.product(range(4), range(40)):
        data.set_epoch(epoch)
        with pytest.raises(
            AlignmentError, match=f"sample {place}, view {epoch}: not the view that.*float32.*torch.*here.*numpy"
        ):
            data[place]


def test_what_is_compared(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented(views=2)
    workshop.build()
    softcache.views(Students(workshop), workshop.open(), augment.one_more_draw, id="id", check="off")[0]
    sampled = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id")
    for place in itertools.chain(range(40), range(24)):
        sampled[place]
    sampled._augmentation = softcache.views(
        Students(workshop), workshop.open(), augment.one_more_draw, id="id"
    )._augmentation
    refused = 0
    for epoch, place in itertools.product(range(2), range(40)):
        sampled.set_epoch(epoch)
        try:
            sampled[place]
        except AlignmentError:
            refused += 1
    assert 0 < refused < 20, "after the first 64 about one in 16 is compared"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (4, "fork"), (2, "spawn"), (4, "spawn")])
def test_ten_thousand_views(augmented: Augmented, augment: ModuleType, workers: int, start: str | None) -> None:
    """All of them, compared, in loaders with workers that live through the epochs."""
    workshop = augmented(views=5)
    workshop.samples(2_000)
    workshop.recipe["build"] = {"batch_size": 64, "fragment_rows": 2_500}
    workshop.build()
    data = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id", check="always")
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=37,
        shuffle=True,
        collate_fn=softcache.collate,
        num_workers=workers,
        multiprocessing_context=start and multiprocessing.get_context(start),
        persistent_workers=workers > 0,
    )
    seen = set()
    for epoch in range(5):
        data.set_epoch(epoch)
        for batch in loader:
            soft = batch["soft"]["cls@t"]
            seen |= set(zip(soft.ids.tolist(), soft.views.tolist(), strict=True))
            assert soft.ids.tolist() == batch["id"].tolist()
    assert seen == set(itertools.product(range(2_000), range(5)))


def shards(cache: Path) -> dict[str, str]:
    return {str(p.relative_to(cache)): sha256(p.read_bytes()) for p in (cache / "data").rglob("*") if p.is_file()}


def test_views_are_added_without_touching_what_is_there(augmented: Augmented, augment: ModuleType) -> None:
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
    """Drawn from all samples, whatever the batches; a student may have them in another order, but must have them."""
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
    with pytest.raises(AlignmentError, match=r"is mixed into a view, and is not in the dataset"):
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


@pytest.mark.parametrize("transform", ["stray", "in_place", "beside_rng"])
def test_what_cannot_be_replayed_is_refused_before_a_teacher_runs(augmented: Augmented, transform: str) -> None:
    workshop = augmented(transform)
    workshop.write(
        "augment.py", AUGMENT + "\n\ndef in_place(x):\n    STATE.append(0)\n    return x + len(STATE)\n\n\nSTATE = []\n"
    )
    with pytest.raises(AugmentationError, match=r"views of samples \(0, 0\).*differ when they are made again"):
        workshop.build()
    assert workshop.calls() == 0
    with pytest.raises(AugmentationError):
        plan(workshop.save(), workshop.cache)


def test_odd_transforms(augmented: Augmented) -> None:
    with pytest.raises(AugmentationError, match=r"draw returned .* cannot be stored as JSON"):
        augmented("Odd").build()
    with pytest.raises(RecipeError, match=r"augmentation: 'augment:missing' cannot be imported"):
        augmented("missing").build()
    with pytest.raises(RecipeError, match=r"augmentation.transform: augment:HERE: a PosixPath is no transform"):
        augmented("HERE").build()
    with pytest.raises(RecipeError, match=r"augmentation.transform: augment:Scale: .*unexpected keyword"):
        augmented("Scale", arguments={"least": 1}).build()
    with pytest.raises(AugmentationError, match=r"the transform returned float; of whole samples it returns a dict"):
        augmented("number", column=None).build()


@pytest.mark.parametrize("change", ["seed", "code", "arguments"])
def test_another_augmentation_is_another_cache(augmented: Augmented, change: str) -> None:
    workshop = augmented()
    workshop.build()
    if change == "code":
        workshop.write("augment.py", AUGMENT + "# changed\n")
    else:
        workshop.recipe["augmentation"] |= {"seed": 1} if change == "seed" else {"arguments": {"scale": 0.5}}
    with pytest.raises(IncompatibleTarget, match=r"the recipe makes views differently from the cache"):
        workshop.build()
    del workshop.recipe["augmentation"]
    with pytest.raises(IncompatibleTarget):
        workshop.build()


def test_samples_that_cannot_be_augmented(augmented: Augmented, augment: ModuleType) -> None:
    def change(x: np.ndarray) -> None:
        x[5], x[17] = 600, 600

    workshop = augmented("picky")
    workshop.write("most", "500")
    workshop.samples(40, change=change)
    with pytest.raises(TransferSetError, match=r"\(\(5, 0\), \(5, 1\)\): .*too large to augment"):
        workshop.build()
    workshop.build("build.on_bad_sample=skip")
    cache = workshop.open()
    checks = cache.checks(cache.find([5, 6], [1, 1]))
    assert checks[0].tobytes() == NO_VIEW != checks[1].tobytes()
    assert cache["cls"].stats["skipped_rows"] == 6
    assert not cache["cls"].lookup([5], 1).mask.any()
    workshop.recipe["tasks"]["again"] = workshop.recipe["tasks"]["cls"] | {"output": "cls"}
    workshop.write("most", "700")
    workshop.build("build.on_bad_sample=skip")
    assert workshop.open()["again"].stats["skipped_rows"] == 6, "a view that is not recorded is none"
    assert softcache.verify(workshop.cache).ok


def test_skipped_views_are_listed_once(augmented: Augmented) -> None:
    def change(x: np.ndarray) -> None:
        x[5] = 600

    workshop = augmented("picky", views=2)
    workshop.write("most", "500")
    workshop.samples(40, change=change)
    for views in (2, 4):
        workshop.recipe["augmentation"]["views"] = views
        workshop.build("build.on_bad_sample=skip")
    skipped = workshop.open().commit.targets["cls@t"].skipped
    assert sorted(key[:2] for key in skipped) == [[5, 0], [5, 1], [5, 2], [5, 3]]


def test_students_with_fewer_views(augmented: Augmented, augment: ModuleType) -> None:
    """Samples that were added with fewer views than others have."""
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


def test_samples_that_have_changed_since(augmented: Augmented, augment: ModuleType) -> None:
    """Of a `datasets.Dataset` contents are compared at once, with no view made."""
    workshop = augmented(views=2)
    workshop.build()
    students = Students(workshop)
    made = {"id": students.ids, "x": students.x}
    features = datasets.Features({"id": datasets.Value("int64"), "x": datasets.List(datasets.Value("float32"), 4)})
    data = softcache.views(
        datasets.Dataset.from_dict(made, features).with_format("numpy"), workshop.open(), augment.noisy, id="id"
    )
    assert np.array_equal(data[3]["x"], expected(students.x[3], 3, 0))
    made["x"][7, 1] += 1
    with pytest.raises(AlignmentError, match=r"not what the teachers saw.*1 sample, 7"):
        softcache.views(datasets.Dataset.from_dict(made, features), workshop.open(), augment.noisy, id="id")


def test_generators_are_left_as_they_were(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented()
    workshop.build()
    data = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id")
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    data[0]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == drawn


def test_other_libraries_may_round(augmented: Augmented, augment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = augmented(views=2)
    workshop.build()

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.asarray(augment.noisy(x) * np.float32(1 + 1e-6))

    def given(transform: Callable[..., Any]) -> softcache.ViewDataset:
        return softcache.views(Students(workshop), workshop.open(), transform, id="id", check="always")

    with pytest.raises(AlignmentError):
        given(rounded)[0]
    monkeypatch.setattr(libraries.np, "__version__", "0.0")
    for place in range(40):
        given(rounded)[place]
    with pytest.raises(AlignmentError, match=r"'numpy': '0.0'"):
        given(augment.one_more_draw)[0]


def test_wrong_use(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented(views=2)
    workshop.build()
    cache, students = workshop.open(), Students(workshop)
    for wrong, why in [({"check": "often"}, "check is 'often'"), ({"views": 3}, "views is 3; the cache has 2")]:
        with pytest.raises(SoftcacheError, match=why):
            softcache.views(students, cache, augment.noisy, id="id", **wrong)
    with pytest.raises(AlignmentError, match="say which sample is which"):
        softcache.views(students, cache, augment.noisy)
    with pytest.raises(AugmentationError, match="a int is no transform"):
        softcache.views(students, cache, 3, id="id")
    with pytest.raises(TaskError, match="expected an integer from 0"):
        softcache.views(students, cache, augment.noisy, id="id").set_epoch(-1)
    with pytest.raises(AlignmentError, match="say which"):
        cache["cls"].lookup([0])

    def failing(x: np.ndarray) -> np.ndarray:
        raise ValueError("out of order")

    with pytest.raises(AlignmentError, match=r"sample 2, view 0: the transform raised ValueError: out of order"):
        softcache.views(students, cache, failing, id="id")[2]
    del workshop.recipe["augmentation"]
    workshop.cache = workshop.cache.with_name("plain")
    workshop.build()
    with pytest.raises(TaskError, match="is not augmented"):
        softcache.views(students, workshop.open(), augment.noisy, id="id")
    with pytest.raises(TaskError, match="is not augmented"):
        workshop.open().checks([0])


def test_seeds_differ() -> None:
    seeds = {view_seed(s, i, v) for s in range(4) for i in (*range(50), *map(str, range(50))) for v in range(10)}
    assert len(seeds) == 4 * 100 * 10


PIPELINE = """
import albumentations as A
import numpy as np
import torch

pipeline = A.Compose(
    [
        A.RandomResizedCrop(size=(24, 24), scale=(0.4, 1)),
        A.HorizontalFlip(p=0.5),
        A.RandomBrightnessContrast(p=0.7),
        A.GaussNoise(p=0.5),
    ]
)


def wrapped(image):
    return pipeline(image=image)["image"]


def photos():
    return {"id": list(range(20)), "image": np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)}


class Mean(torch.nn.Module):
    def forward(self, images):
        return images.mean((1, 2))


def preprocess(sample):
    return torch.tensor(sample["image"], dtype=torch.float32)
"""


@pytest.mark.filterwarnings("ignore")
def test_albumentations(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transforms keep a generator of their own: named themselves they are replayed, in a function refused."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations")
    workshop.write("mine.py", PIPELINE)
    workshop.recipe |= {
        "transfer_set": {"source": {"type": "python", "callable": "mine:photos"}, "id": "id"},
        "teachers": {"t": {"model": "mine:Mean", "preprocess": "mine:preprocess", "reads": ["image"]}},
        "tasks": {"mean": {"kind": "features", "shape": [3], "teachers": ["t"], "store": {"dtype": "float32"}}},
        "augmentation": {"transform": "mine:pipeline", "column": "image", "views": 4},
    }
    workshop.build()
    monkeypatch.syspath_prepend(str(workshop.folder))
    mine = import_module("mine")
    samples = [{"id": i, "image": image} for i, image in enumerate(mine.photos()["image"])]
    data = softcache.views(samples, workshop.open(), mine.pipeline, id="id", check="always")
    for epoch in (2, 0, 3, 1):
        data.set_epoch(epoch)
        for batch in torch.utils.data.DataLoader(data, 7, shuffle=True, collate_fn=softcache.collate):
            means = batch["image"].float().mean((1, 2))
            assert torch.allclose(batch["soft"]["mean@t"].values, means, atol=1e-3)
    assert "albumentations" in workshop.open().commit.augmentation["versions"][0]
    workshop.cache = workshop.cache.with_name("wrapped")
    with pytest.raises(AugmentationError, match="draws from a generator of its own"):
        workshop.build("augmentation.transform=mine:wrapped")
