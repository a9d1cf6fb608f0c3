"""What the recipes that reproduce papers share: models that are trained once, epochs that resume, rows of tables.

A *job* says what determines a model, as plain values: its data, its settings, its seed. `trained` runs each job once
and keeps what it returns in `results.json`; `epochs` keeps the state of a model in training. So a script may be killed
at any instant, and be run again. If you change its code, delete the folder with its results.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from statistics import mean, stdev
from threading import Thread
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch.nn.functional import kl_div, log_softmax
from torch.optim.lr_scheduler import OneCycleLR

import softcache

Job = dict[str, Any]
Train = Callable[[Job, Path], dict[str, Any]]


def trained(jobs: list[Job], train: Train, folder: Path) -> list[dict[str, Any]]:
    """Return what `train(job, checkpoint)` returns for each job, in their order, with the job and the seconds it took.

    Jobs that `folder/results.json` has are done. `train` is a function of a module; it goes through `epochs` and
    returns plain values. On a CPU each core trains a model of its own, with one thread; on a GPU one model is trained
    at a time. Raises RuntimeError if another process trains in the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            return _trained(jobs, train, folder)
    except Timeout:
        raise RuntimeError(f"{folder}: another process trains there; wait for it, or give another folder") from None


def _trained(jobs: list[Job], train: Train, folder: Path) -> list[dict[str, Any]]:
    kept = folder / "results.json"
    done = {_key(each["job"]): each for each in (json.loads(kept.read_text()) if kept.exists() else [])}
    left = {_key(job): job for job in jobs if _key(job) not in done}
    workers = 1 if device() == "cuda" else os.cpu_count()
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_work) as pool:
        running = {pool.submit(train, job, _checkpoint(folder, key)): key for key, job in left.items()}
        try:
            for number, future in enumerate(as_completed(running), 1):
                key, found = running[future], future.result()
                checkpoint = _checkpoint(folder, key)
                seconds = torch.load(checkpoint, weights_only=True)["seconds"]
                done[key] = {"job": left[key], **found, "seconds": round(seconds, 1)}
                write_whole(kept, lambda path: path.write_text(json.dumps(list(done.values()), indent=1)))
                checkpoint.unlink()
                print(f"{number} of {len(left)} trained, in {seconds:.0f} s", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[_key(job)] for job in jobs]


def device() -> str:
    """Return where models are trained."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def epochs(checkpoint: Path, count: int, **parts: Any) -> Iterator[int]:
    """Yield the numbers of the epochs that are left, from 0, and keep the state of the parts after each.

    A part has `state_dict` and `load_state_dict`, or is a torch.Generator. torch's own generators are kept as well.
    """
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first, seconds = state["epochs"], state["seconds"]
        torch.set_rng_state(state["torch"])
        torch.cuda.set_rng_state_all(state["cuda"])
        for name, part in parts.items():
            (part.set_state if isinstance(part, torch.Generator) else part.load_state_dict)(state["parts"][name])
    for epoch in range(first, count):
        began = _now()
        yield epoch
        seconds += _now() - began
        states = {n: p.get_state() if isinstance(p, torch.Generator) else p.state_dict() for n, p in parts.items()}
        generators = {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        state = {"epochs": epoch + 1, "seconds": seconds, "parts": states, **generators}
        write_whole(checkpoint, lambda path, state=state: torch.save(state, path))


def _now() -> float:
    """Return the time when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def one_cycle(optimizer: torch.optim.Optimizer, rate: float, steps: int) -> OneCycleLR:
    """Return a schedule whose rate rises for a tenth of the steps, or for two if they are few, and then falls to 0."""
    steps = max(steps, 3)
    return OneCycleLR(optimizer, rate, total_steps=steps, pct_start=max(0.1, 2 / steps), cycle_momentum=False)


def of_cache(path: Path) -> Job:
    """Return what a job says of a cache: where it is, when it was begun, and its rows.

    Another cache makes other jobs; further targets in the same cache do not.
    """
    begun = softcache.open(path, commit=1).commit
    return {"cache": str(path), "begun": begun.transaction, "rows": softcache.open(path).commit.rows}


def softened(soft: softcache.SoftTargets, temperature: float) -> torch.Tensor:
    """Return the probabilities of soft targets, float16 [N, C], computed in parts.

    For students whose temperature does not change: a mean of ten teachers, or the minimum that combines specialists, is
    then computed once and not again in each step.
    """
    return torch.cat([soft[rows].probs(temperature).half() for rows in torch.arange(len(soft.mask)).split(4096)])


def soft_loss(logits: torch.Tensor, probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the mean of T² KL(teacher || student) over rows: a student's logits [B, C], and `softened` ones [B, C]."""
    divergence = kl_div(log_softmax(logits / temperature, 1), probs.float(), reduction="batchmean")
    return temperature**2 * divergence


def learn(
    job: Job,
    checkpoint: Path,
    model: torch.nn.Module,
    generator: torch.Generator,
    count: int,
    loss: Callable[[torch.Tensor], torch.Tensor],
    score: Callable[[], float] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    rows: Callable[[torch.Generator], torch.Tensor] | None = None,
) -> list[float]:
    """Train a model, by default with Adam, at a rate that rises and falls once. Return its score after each epoch.

    The job has `epochs`, `batch` and `rate`. An epoch has `count` samples: those with the numbers 0, 1, ... or those
    whose numbers `rows` returns for the epoch, in any order. `loss` is the loss of a batch of them.
    """
    steps = job["epochs"] * -(-count // job["batch"])
    optimizer = optimizer or torch.optim.Adam(model.parameters(), job["rate"])
    schedule = one_cycle(optimizer, job["rate"], steps)
    curve = Curve()
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "generator": generator, "curve": curve}
    for _ in epochs(checkpoint, job["epochs"], **parts):
        model.train()
        shown = torch.arange(count) if rows is None else rows(generator)
        for chosen in shown[torch.randperm(count, generator=generator)].split(job["batch"]):
            optimizer.zero_grad()
            loss(chosen).backward()
            optimizer.step()
            schedule.step()
        if score is not None:
            model.eval()
            with torch.no_grad():
                curve.points.append(score())
    model.eval()
    return curve.points


class Curve:
    """What was measured after each epoch, as a part of a checkpoint."""

    def __init__(self) -> None:
        self.points: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points = list(state["points"])


def row(title: str, numbers: list[float], digits: int) -> str:
    """Return a row of a Markdown table: the mean of some seeds, their standard deviation, least, most, and number."""
    spread = stdev(numbers) if len(numbers) > 1 else 0.0
    cells = [f"{number:.{digits}f}" for number in (mean(numbers), spread, min(numbers), max(numbers))]
    return f"| {title} | {' | '.join(cells)} | {len(numbers)} |"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file as a whole or not at all, also beside a process that a killed run has left behind."""
    partial = path.with_suffix(f".{os.getpid()}")
    write(partial)
    partial.replace(path)


def _begin_work() -> None:
    """Prepare a worker: one thread, and an end as soon as the process that waits for its models is killed."""
    torch.set_num_threads(1)
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _key(job: Job) -> str:
    return json.dumps(job, sort_keys=True)


def _checkpoint(folder: Path, key: str) -> Path:
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
