"""How good answers to the four tasks are, and what students gain over students of one task."""

import math
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import TESTS, scenes, tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device

OVERLAPS = torch.arange(50, 100, 5) / 100  # COCO's
MEASURES = ("accuracy", "worst recall", "F1", "IoU", "box AR", "box AP", "angle error")
RISE, FALL = ("accuracy", "IoU", "box AR"), ("angle error",)  # one measure of each task


def measures(said, labels):
    """Return the measures of each task that is answered: `angle error` in degrees, the others as shares.

    A scene has one box and students give one, without a score. `box AR` is COCO's average recall: the share that
    overlaps enough, averaged over what is enough, 0.5, 0.55, ... 0.95. `worst recall` is the lowest of a class.
    """
    found = {}
    if "digit" in said:
        digits, right = said["digit"].argmax(1), labels["digit"]
        counts = torch.zeros(10, 10).index_put_((right, digits), torch.ones(()), accumulate=True)
        hits, there, answered = counts.diagonal(), counts.sum(1), counts.sum(0)
        found |= {"accuracy": (digits == right).float().mean(), "worst recall": (hits / there).min()}
        found["F1"] = (2 * hits / (answered + there)).mean()
    if "mask" in said:
        ours, theirs = said["mask"] > 0, labels["mask"] > 0
        found["IoU"] = ((ours & theirs).sum((1, 2, 3)) / (ours | theirs).sum((1, 2, 3))).mean()
    if "box" in said:
        found["box AR"] = (overlap(said["box"], labels["box"])[:, None] >= OVERLAPS).float().mean()
    if "angle" in said:
        ours, theirs = (torch.atan2(given[:, 1], given[:, 0]) for given in (said["angle"], labels["angle"]))
        apart = (ours - theirs + torch.pi) % (2 * torch.pi) - torch.pi
        found["angle error"] = torch.rad2deg(apart.abs()).mean()
    return {name: float(value) for name, value in found.items()}


def average_precision(said, labels):
    """Return COCO's average precision of boxes, `box AP`, if digits are answered too: they give class and score."""
    if not {"digit", "box"} <= said.keys():
        return {}
    score, digits = said["digit"].softmax(1).max(1)
    truth = {"images": [{"id": number} for number in range(len(digits))], "categories": [{"id": c} for c in range(10)]}
    truth["annotations"] = [
        {"id": number + 1, "image_id": number, "category_id": int(digit), "iscrowd": 0, "bbox": box, "area": 1.0}
        for number, (digit, box) in enumerate(zip(labels["digit"], sized(labels["box"]), strict=True))
    ]
    found = [
        {"image_id": number, "category_id": int(digit), "bbox": box, "score": float(sure)}
        for number, (digit, box, sure) in enumerate(zip(digits, sized(said["box"]), score, strict=True))
    ]
    with redirect_stdout(StringIO()):  # which is all about progress
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"box AP": float(evaluation.stats[0])}


def sized(boxes):
    """Return boxes x1, y1, x2, y2 as COCO has them: x, y, width, height."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


@torch.no_grad()
def answers(model, data):
    """Return a model's answers to the test scenes, by task, on the CPU."""
    parts = [model.eval()(part) for part in test_inputs(data).split(500)]
    return {task: torch.cat([part[task] for part in parts]).cpu() for task in parts[0]}


@cache
def test_inputs(data):
    """Return a model's inputs for the test scenes, float32 [n, 1, 48, 48]."""
    return torch.stack([tensor(image.numpy()) for image in scenes(data, "test", TESTS, 1)["image"]]).to(device())


def overlap(ours, theirs):
    """Return the intersection of boxes [n, 4] over their union [n]."""
    corner, other = torch.maximum(ours[:, :2], theirs[:, :2]), torch.minimum(ours[:, 2:], theirs[:, 2:])
    shared = (other - corner).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (ours, theirs)]
    return shared / (sum(areas) - shared)


def gain(found, alone):
    """Return the mean relative gain over students of one task, delta-m in % (Maninis et al. 2019, section 4)."""
    gains = [found[name] / (alone[name] or math.nan) - 1 for name in RISE if name in found]
    gains += [1 - found[name] / (alone[name] or math.nan) for name in FALL if name in found]
    return 100 * sum(gains) / len(gains)
