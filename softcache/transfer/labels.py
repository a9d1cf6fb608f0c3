"""Labels of a transfer set, as a teacher of its classes would answer them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softcache.arrays import Array
from softcache.tasks import TaskSpec
from softcache.transfer.hygiene import NO_LABEL


def names_of_values(task: TaskSpec) -> list[str] | None:
    """Return the names of what a teacher's values are for, None where classes have none."""
    if task.labels is None:
        return None
    known = [task.labels[i] for i in task.known or range(task.label_space)]
    return [*known, "all others"] if task.dustbin else known


def right_values(task: TaskSpec, labels: Sequence[Any]) -> Array | None:
    """Return which of a teacher's values is right for each label, int64 [n], -1 where none is.

    A label is the number of a class, or where the first is one, its name. A class that the teacher does not know is
    none of its values, or its dustbin; a number that is no class, such as -1, is no label. None if labels are neither.
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
