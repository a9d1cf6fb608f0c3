"""Views and later builds: what is recorded stays what the teachers saw."""

import shutil

import numpy as np
import pytest
from conftest import Workshop
from two_views import AUGMENT, students, transform, with_two_views

import softcache
from softcache.errors import (
    AlignmentError,
    IntegrityError,
    TransferSetError,
)
from softcache.transfer import libraries


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return with_two_views(workshop)


def test_the_views_of_a_second_teacher_are_compared(shop: Workshop) -> None:
    """The transform's results change once the first teacher has seen all views."""
    shop.samples(20)
    shop.recipe["augmentation"]["transform"] = "augment:drifting"
    shop.recipe["teachers"]["u"] = shop.recipe["teachers"]["t"] | {"arguments": {"scale": 2.0}}
    shop.recipe["tasks"]["cls"]["teachers"] = ["t", "u"]
    with pytest.raises(AlignmentError, match=r"sample \d+, view \d: differs from the view that is recorded"):
        shop.build()


def test_a_changed_partner_is_refused(shop: Workshop) -> None:
    shop.recipe["augmentation"]["transform"] = "augment:Mix"
    shop.build()
    mixed = [p["partner"] for p in shop.open().parameters(np.arange(80))]
    partner = next(p for i, p in enumerate(mixed) if p // 10 != i // 20)

    def change(x: np.ndarray) -> None:
        x[partner] += 1

    shop.samples(40, change=change)
    with pytest.raises(
        AlignmentError, match=rf"samples {partner} have changed, and they are mixed into views of other samples"
    ):
        shop.build()


def test_versions_of_all_views(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that another version rounded differently remains valid when views by a newer version are added."""
    with monkeypatch.context() as patch:
        patch.setattr(libraries.np, "__version__", "0.0")
        shop.write("augment.py", AUGMENT.replace("random.random())", "random.random() * (1 + 1e-7))"))
        shop.build("augmentation.views=1", "augmentation.code=[model.py]")
    shop.write("augment.py", AUGMENT)
    shop.build("augmentation.code=[model.py]")
    augmentation = shop.open().commit.augmentation
    assert [versions["numpy"] for versions in augmentation["versions"]] == ["0.0", np.__version__]
    data = softcache.views(students(shop), shop.open(), transform("noisy"), id="id", check="always")
    for epoch in range(2):
        data.set_epoch(epoch)
        for place in range(40):
            data[place]


def test_resumed_with_fewer_views(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.recipe["augmentation"]["views"] = 1
    shop.build()
    shop.samples(60)
    (shop.folder / "kill_after").write_text("1000000")
    ready = shop.cache.with_name("ready")
    shutil.copytree(shop.cache, ready)
    shop.build("augmentation.views=4")
    plans = {p.name for p in (shop.cache / "plan").rglob("*.*")}
    shutil.copytree(shop.cache / "plan", ready / "plan", dirs_exist_ok=True)
    shop.cache = ready  # as a build that was killed right after it had planned
    shop.build("augmentation.views=3")
    cache = shop.open()
    assert plans < {p.name for p in (ready / "plan").rglob("*.*")}
    assert cache.commit.views == 3
    assert cache.commit.rows == 180
    data = softcache.views(students(shop), cache, transform("noisy"), id="id", check="always")
    data.set_epoch(2)
    data[59]


@pytest.mark.parametrize("name", ["shifted", "Mix"])
def test_views_of_relabelled_samples(shop: Workshop, name: str) -> None:
    """Teachers have already answered: `rows` is rewritten and still records the views that they saw."""
    shop.recipe["augmentation"]["transform"] = f"augment:{name}"
    shop.write("shift", "0")
    shop.build()
    before = shop.open()
    shop.calls()
    shop.write("shift", "1")
    shop.relabel([4 - i % 5 for i in range(40)])
    shop.build()
    after = shop.open()
    assert shop.calls() == 0
    assert after.rows.table().column("label").to_pylist()[::2] == [4 - i % 5 for i in range(40)]
    assert np.array_equal(after.checks(np.arange(80)), before.checks(np.arange(80)))
    assert after.parameters(np.arange(80)) == before.parameters(np.arange(80))
    assert after.commit.augmentation == before.commit.augmentation
    assert softcache.verify(shop.cache).ok


def test_relabelled_samples_in_an_unfinished_build(shop: Workshop) -> None:
    def change(x: np.ndarray) -> None:
        x[35, 0] = 1000

    shop.recipe["augmentation"]["transform"] = "augment:shifted"
    shop.write("shift", "0")
    shop.samples(40, change=change)
    with pytest.raises(TransferSetError, match="this sample is broken"):
        shop.build()
    shop.calls()
    shop.samples(40)
    shop.relabel([4 - i % 5 for i in range(40)])
    shop.write("shift", "1")
    with pytest.raises(AlignmentError, match="sample 0, view 0: differs from the view that is recorded"):
        shop.build()
    shop.write("shift", "0")
    shop.build()
    data = softcache.views(students(shop), shop.open(), transform("noisy"), id="id", check="always")
    for place in range(40):
        data[place]
    assert softcache.verify(shop.cache).ok


def test_a_lost_record_of_views_is_not_invented(shop: Workshop) -> None:
    """Only a shard with the same labels can prove that new views equal the recorded ones."""
    shop.recipe["augmentation"]["transform"] = "augment:shifted"
    shop.write("shift", "0")
    shop.build()
    before = shop.open().checks(np.arange(80))
    next((shop.cache / "data/rows").rglob("*.arrow")).unlink()
    shop.relabel([4 - i % 5 for i in range(40)])
    for shift in "10":
        shop.write("shift", shift)
        with pytest.raises(IntegrityError, match=r"data/rows/.*: missing, and it records which views the teachers saw"):
            shop.build()
    shop.relabel([i % 5 for i in range(40)])
    shop.write("shift", "1")
    with pytest.raises(IntegrityError, match=r"data/rows/.*: lost, and this build's shard has other bytes"):
        shop.build()
    shop.write("shift", "0")
    shop.build()
    shop.relabel([4 - i % 5 for i in range(40)])
    shop.build()
    assert np.array_equal(shop.open().checks(np.arange(80)), before)
    assert softcache.verify(shop.cache).ok
