"""Labels of a transfer set, expressed as positions in a teacher's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softcache.arrays import Array
from softcache.tasks import TaskSpec
from softcache.transfer.hygiene import NO_LABEL


def names_of_values(task: TaskSpec) -> list[str] | None:
    """Return what each of a teacher's values stands for, by name; None if the classes have no names."""
    if task.labels is None:
        return None
    known = [task.labels[i] for i in task.known or range(task.label_space)]
    return [*known, "all others"] if task.dustbin else known


def right_values(task: TaskSpec, labels: Sequence[Any]) -> Array | None:
    """Return the position, among a teacher's values, of the right value for each label: int64 [n], -1 for none.

    Labels are numbers of classes, or all names if the first one is a string and the task has names. A class that the
    teacher does not know has the position of the dustbin, or -1 without one. A number or name that is not a class, such
    as -1, gives -1. Return None if the labels are neither numbers nor names.
    """
    truth = labels
    if task.labels is not None and len(truth) and isinstance(truth[0], str):
        numbers = {label: i for i, label in enumerate(task.labels)}
        truth = [numbers.get(label, NO_LABEL) for label in truth]
    if not all(isinstance(label, int) for label in truth):
        return None
    answers = np.full(task.label_space + 1, task.shape[0] - 1 if task.dustbin else NO_LABEL)
    answers[list(task.known or range(task.label_space))] = np.arange(task.shape[0] - task.dustbin)
    answers[-1] = NO_LABEL
    classes = range(task.label_space)
    found: Array = answers[np.array([int(label) if label in classes else -1 for label in truth], int)]
    return found
