"""Train students of one task and of four, on labels and on what teachers said, and print the tables.

python recipes/multitask/train.py runs/multitask --data FOLDER

The teachers' weights are not needed. Run it again after a kill: students that are done are not trained again, and the
others go on from their last epoch.
"""

import argparse
import sys
from functools import cache
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from losses import FIXED, hard_losses, soft_losses
from measures import MEASURES, answers, average_precision, gain, measures
from network import TASKS, Network
from safetensors.torch import save_file
from scenes import COUNT, HUB, TESTS, augment, scenes, tensor

import softcache
from softcache import multitask

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import Curve, device, epochs, of_cache, one_cycle, trained, write_whole
from mnist import whole

FIRST_SEED = 1000  # the teachers have 0
# A student, unless its row says otherwise.
STUDENT = {"tasks": list(TASKS), "width": 6, "epochs": 16, "batch": 64, "rate": 3e-3, "alpha": 0.8, "hint": 0.0}
STUDENT |= {"teacher": "together", "weights": "fixed", "fresh": False}
HARD, HINT = {"alpha": 0.0}, {"hint": 0.1}
ALONE = {f"{task} alone, hard labels": HARD | {"tasks": [task]} for task in TASKS}
PAIRS = [(a, b) for a in TASKS for b in TASKS if a < b]
TABLES = {
    "main": {
        "hard labels": HARD,
        "soft labels": {},
        "soft labels and features": HINT,
    },
    "alone": {f"{task} alone, soft labels": {"tasks": [task], "teacher": "alone"} for task in TASKS},
    "views": {"hard labels, fresh views in each epoch": HARD | {"fresh": True}},
    "teachers": {"soft labels of four teachers": {"teacher": "alone"}},
    "weights": {f"soft labels, {name}": {"weights": name} for name in ("uncertainty", "DWA", "GradNorm", "UPGrad")},
    "pairs": {f"{a} and {b}, hard labels": HARD | {"tasks": [a, b]} for a, b in PAIRS},
}


def train(job, checkpoint):
    """Train a student and return its measures on the test scenes."""
    tasks, alpha = job["tasks"], job["alpha"]
    tests = scenes(job["data"], "test", TESTS, 1)
    images, inputs, labels, soft = transfer_set(job["cache"], job["data"], job["count"], job["teacher"])
    torch.manual_seed(job["seed"])
    student, generator = Network(job["width"], tasks).to(device()), torch.Generator().manual_seed(job["seed"])
    hint = (
        softcache.Projection((4 * job["width"],), soft[0]["trunk"].task.shape) if job["hint"] else torch.nn.Identity()
    ).to(device())
    rule = rule_of(job["weights"], tasks, student)
    curve = Curve()
    parts = {"student": student, "hint": hint, "generator": generator, "curve": curve}
    parts |= {"rule": rule} if hasattr(rule, "state_dict") else {}
    modules = [part for part in (student, hint, rule) if isinstance(part, torch.nn.Module)]
    optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], job["rate"])
    steps = job["epochs"] * -(-len(inputs[0]) // job["batch"])
    schedule = one_cycle(optimizer, job["rate"], steps)
    for epoch in epochs(checkpoint, job["epochs"], optimizer=optimizer, schedule=schedule, **parts):
        view = epoch % len(inputs)
        shown = fresh_views(images, generator) if job["fresh"] else inputs[view]
        student.train()
        for rows in torch.randperm(len(inputs[0]), generator=generator).split(job["batch"]):
            answered, trunk = student.with_trunk(shown[rows])
            hard = hard_losses(answered, {task: labels[task][rows] for task in tasks})
            told = soft_losses(answered, {task: soft[view][task][rows] for task in tasks}) if alpha else hard
            losses = {task: alpha * told[task] + (1 - alpha) * hard[task] for task in tasks}
            optimizer.zero_grad()
            if job["hint"]:
                hint_loss = softcache.regression_loss(hint(trunk.mean((2, 3))), soft[view]["trunk"][rows])
                (job["hint"] * hint_loss).backward(retain_graph=True)
            rule.backward({task: FIXED[task] * loss for task, loss in losses.items()})
            optimizer.step()
            schedule.step()
        if hasattr(rule, "end_epoch"):
            rule.end_epoch()
        curve.points.append(measures(answers(student, job["data"]), tests))
    write_whole(checkpoint.with_suffix(".safetensors"), lambda path: save_file(student.state_dict(), path))
    found = curve.points[-1] | average_precision(answers(student, job["data"]), tests)
    return found | {"curve": curve.points, "weights": checkpoint.with_suffix(".safetensors").name}


@cache
def transfer_set(path, data, count, teacher):
    """Return the scenes that the cache covers: their images, inputs by view, labels by task, soft targets by view."""
    opened = softcache.open(path)
    table = opened.rows.table()
    ids = np.unique(np.array(table["sample_id"]))
    found = scenes(data, "train", count, 0)
    kept = [{"index": int(number), "image": found["image"][number].numpy()} for number in ids]
    seen = softcache.views(kept, opened, augment, id="index", targets=["digit@together"], then=tensor)
    views = range(len(np.unique(np.array(table["view"]))))
    inputs = []
    for view in views:
        seen.set_epoch(view)
        inputs.append(torch.stack([seen[number]["image"] for number in range(len(ids))]).to(device()))
    names = {task: f"{task}@{task if teacher == 'alone' else 'together'}" for task in TASKS} | {
        "trunk": "trunk@together"
    }
    soft = [
        {task: opened[name].lookup(ids, np.full(len(ids), view)).to(device()) for task, name in names.items()}
        for view in views
    ]
    return found["image"][ids], inputs, {task: found[task][ids].to(device()) for task in TASKS}, soft


def fresh_views(images, generator):
    """Return inputs for views that no teacher saw."""
    chance = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return torch.stack([tensor(augment(image.numpy(), chance)) for image in images]).to(device())


def rule_of(name, tasks, student):
    """Return a rule that combines the losses of tasks."""
    shared = [p for part in (student.near, student.middle, student.trunk) for p in part.parameters()]
    rules = {
        "fixed": lambda: multitask.Fixed(dict.fromkeys(tasks, 1.0)),
        "uncertainty": lambda: multitask.Uncertainty(tasks, regression=[t for t in tasks if t in ("box", "angle")]),
        "DWA": lambda: multitask.DWA(tasks),
        "GradNorm": lambda: multitask.GradNorm(tasks, student.trunk.parameters()),
        "UPGrad": lambda: multitask.GradientSurgery(tasks, shared, aggregator="UPGrad"),
    }
    return rules[name]()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--data", default=HUB, help="the same as for build.py")
    parser.add_argument("--out", type=Path, help="where results are kept, by default beside the cache")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["main"], help="by default main")
    parser.add_argument("--seeds", type=int, help="by default 10 for main and students of one task, otherwise 3")
    parser.add_argument("--epochs", type=int, default=STUDENT["epochs"])
    parser.add_argument("--count", type=int, default=COUNT, help="the same as for build.py")
    options = parser.parse_args()
    folder = options.out or options.cache.with_name(f"{options.cache.name}-students")
    common = of_cache(options.cache) | {"data": whole(options.data), "count": options.count}
    asked = ALONE | {title: row for name in options.tables for title, row in TABLES[name].items()}
    seeds = {title: options.seeds or (10 if title in ALONE | TABLES["main"] else 3) for title in asked}
    jobs = [
        STUDENT | chosen | common | {"epochs": options.epochs, "seed": FIRST_SEED + seed}
        for title, chosen in asked.items()
        for seed in range(seeds[title])
    ]
    found = iter(trained(jobs, train, folder))
    students = {title: [next(found) for _ in range(seeds[title])] for title in asked}
    alone = {
        name: mean(each[name] for each in students[title])
        for title in ALONE
        for name in MEASURES
        if name in students[title][0]
    }
    print(f"\n| student | {' | '.join(MEASURES)} | delta-m | std | seeds |\n|---|{'--:|' * (len(MEASURES) + 3)}")
    for title, each in students.items():
        print_row(title, each, alone)
    if {"hard labels", "soft labels"} <= students.keys():
        pairs = zip(students["hard labels"], students["soft labels"], strict=True)
        better = sum(gain(soft, alone) > gain(hard, alone) for hard, soft in pairs)
        print(f"\nSoft labels are better than hard ones with {better} of {seeds['soft labels']} seeds.")


def print_row(title, students, alone):
    """Print the means of some students that differ in their seed, and what they gain over students of one task."""
    cells = [
        f"{mean(each[name] for each in students):.{1 if name == 'angle error' else 4}f}" if name in students[0] else ""
        for name in MEASURES
    ]
    gains = [gain(each, alone) for each in students]
    spread = stdev(gains) if len(gains) > 1 else 0.0
    print(f"| {title} | {' | '.join(cells)} | {round(mean(gains), 1) + 0:+.1f} % | {spread:.1f} | {len(students)} |")


if __name__ == "__main__":
    main()
