"""Samples whose views cannot be made: skipped, and given to students without an answer."""

import numpy as np
import pytest
from conftest import MODEL, Workshop
from two_views import students, transform, with_two_views

import softcache


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return with_two_views(workshop)


def test_sequences_without_views(shop: Workshop) -> None:
    def change(x: np.ndarray) -> None:
        x[10:15, 1] = 600

    shop.write(
        "model.py", MODEL.replace('return {"cls"', 'return {"frames": self.head(x)[:, None].repeat(1, 3, 1), "cls"')
    )
    task = {"kind": "sequence", "classes": 5, "value_kind": "logits", "teachers": ["t"]}
    shop.recipe["tasks"] = {"frames": task | {"store": {"dtype": "float32"}}}
    shop.samples(40, change=change)
    shop.build("augmentation.transform=augment:picky", "build.on_bad_sample=skip")
    data = softcache.views(students(shop), shop.open(), transform("picky"), id="id", check="always")
    for place in range(40):
        assert bool(data[place]["soft"]["frames"].mask.any()) == (not 10 <= place < 15)
    batch = data.__getitems__(list(range(8, 20)))
    assert batch.soft["frames"].mask.all(1).tolist() == [not 10 <= place < 15 for place in range(8, 20)]


@pytest.mark.parametrize("name", ["picky", "Picky"])
def test_a_fragment_without_any_view(shop: Workshop, name: str) -> None:
    """The student gets such samples unaugmented and without an answer."""

    def change(x: np.ndarray) -> None:
        x[10:20, 1] = 600

    shop.samples(40, change=change)
    shop.recipe["augmentation"]["transform"] = f"augment:{name}"
    shop.build("build.on_bad_sample=skip")
    cache, made = shop.open(), transform(name)
    assert cache["cls"].stats["skipped_rows"] == 20
    data = softcache.views(students(shop), cache, made() if isinstance(made, type) else made, id="id", check="always")
    for place in range(40):
        sample = data[place]
        assert bool(sample["soft"]["cls@t"].mask[0]) == (place // 10 != 1)
        assert place // 10 != 1 or np.array_equal(sample["x"], students(shop)[place]["x"])
    assert softcache.verify(shop.cache).ok


def test_an_image_folder_fragment_that_cannot_be_decoded(workshop: Workshop) -> None:
    from PIL import Image

    folder = workshop.folder / "photos/kind"
    folder.mkdir(parents=True)
    for i in range(6):
        Image.new("L", (2, 2), i).save(folder / f"{i}.png")
    for i in (2, 3):
        (folder / f"{i}.png").write_bytes(b"no image")
    workshop.write("seen.py", "import numpy as np\ndef see(s):\n    return np.float32(s['image']).ravel()\n")
    workshop.write(
        "augment.py", "import numpy as np\ndef plus(image, rng):\n    return np.array(image) + rng.integers(9)\n"
    )
    workshop.recipe["transfer_set"] = {"source": {"type": "images", "folder": "photos"}, "id": "path"}
    workshop.recipe["teachers"]["t"] |= {"preprocess": "seen:see", "reads": ["image"]}
    workshop.recipe["tasks"]["cls"]["label"] = None
    workshop.recipe["augmentation"] = {"transform": "augment:plus", "column": "image", "views": 2}
    workshop.build("build.on_bad_sample=skip", "build.fragment_rows=4")
    assert workshop.open()["cls"].stats["skipped_rows"] == 4
    assert "pillow" in workshop.open().commit.augmentation["versions"][0]


def test_an_empty_view(shop: Workshop) -> None:
    shop.recipe["augmentation"] |= {"transform": "augment:sometimes", "column": None}
    shop.build()
    shop.recipe["tasks"]["again"] = shop.recipe["tasks"]["cls"] | {"output": "cls"}
    shop.build()
    assert shop.open()["again"].stats["skipped_rows"] == 0
