"""recipes/specialists on scikit-learn's digits, twice: twenty classes of which ten pairs cannot be told apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from paper_recipes import copied, modules_of, rows, run

import softcache

SETTINGS = ("--data", "digits", "digits")


recipe_modules = modules_of("specialists")


@pytest.mark.slow
def test_generalists_specialists_and_students(tmp_path: Path) -> None:
    """Specialists are added to the generalist's cache; tables come without the teachers' weights."""
    recipe, cache = copied(tmp_path, "specialists"), tmp_path / "cache"
    said = run(recipe, "build.py", cache, *SETTINGS, "--generalists", 1)
    assert "1 models have answered 3,594 images" in said
    opened = softcache.open(cache)
    knows = {name: opened[name].task.known for name in opened.targets}
    assert knows.pop("class@g0") is None
    assert len(knows) > 3
    assert all(len(known) > 1 and opened[name].task.dustbin for name, known in knows.items())
    again = run(recipe, "build.py", cache, *SETTINGS, "--generalists", 1)
    assert "trained" not in again, "a second build trains nothing"
    assert softcache.open(cache).commit.number == opened.commit.number

    alone = copied(tmp_path / "alone", "specialists", without=("build.py", "recipe.yaml"))
    (tmp_path / "cache-teachers").rename(tmp_path / "elsewhere")
    found = {
        row.split(" | ")[0].strip("| "): row for row in rows(run(alone, "train.py", cache, *SETTINGS, "--epochs", 2))
    }
    for title in ("generalists", "with their specialists", "hard labels", "the generalist and its specialists"):
        assert title in found
    images = [int(row.split("|")[2].replace(",", "")) for title, row in found.items() if title.isdigit()]
    assert sum(images) == 2 * 599, "each test image is in one row of the table by coverage"


def test_confused_classes_are_found() -> None:
    """Classes that get their probability together are in one set."""
    from build import confused

    logits = 0.1 * torch.randn(600, 12, generator=torch.Generator().manual_seed(0))
    group = torch.arange(600) % 4
    for number, classes in enumerate([(0, 7), (2, 5, 9), (4, 11), (1, 3)]):
        logits[(group == number)[:, None] & torch.isin(torch.arange(12), torch.tensor(classes))] += 4
    found = confused(logits.softmax(1))
    assert {(0, 7), (2, 5, 9), (4, 11), (1, 3)} <= set(found)
    assert all(2 <= len(classes) <= 6 for classes in found)


def test_a_specialist_begins_as_its_generalist(tmp_path: Path) -> None:
    from build import specialist
    from network import network
    from safetensors.torch import save_file

    torch.manual_seed(0)
    generalist, images = network(6, 8), torch.randn(5, 28, 28)
    save_file(generalist.state_dict(), tmp_path / "g.safetensors")
    job = {"known": [4, 1], "classes": 6, "width": 8, "generalist": str(tmp_path / "g.safetensors")}
    model, labels = specialist(job, torch.tensor([0, 1, 4, 5]))
    assert labels.tolist() == [2, 1, 0, 2]
    with torch.no_grad():
        theirs, ours = generalist(images), model(images)
    assert torch.allclose(ours[:, :2], theirs[:, [4, 1]], atol=1e-6)
    assert torch.allclose(ours[:, 2], theirs[:, [0, 2, 3, 5]].mean(1), atol=1e-6)


def test_training_images_come_first() -> None:
    from data import samples, tensors

    found = samples(["digits", "digits"])
    images, labels = tensors(["digits", "digits"], "train")
    assert not found["test"][: len(labels)].any()
    assert found["test"][len(labels) :].all()
    assert np.array_equal(found["label"][: len(labels)], labels.numpy())
    assert set(labels.tolist()) == set(range(20))
    assert torch.equal(images[: len(images) // 2], images[len(images) // 2 :])
