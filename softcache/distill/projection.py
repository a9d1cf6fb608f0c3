"""The regressor between a student's features and a teacher's of another shape."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import nn

from softcache.errors import TaskError


class Projection(nn.Module):
    """Maps a student's features to the teacher's channels; its weights are trained with the student's.

    It is the regressor r of FitNets (Romero et al. 2015, eq. 3): linear for vectors, a convolution with kernel 1 for
    maps. FitNets takes a larger kernel to make the student's maps smaller; here `regression_loss(..., resize=...)` fits
    their size.

    Args:
        student_shape: the shape of one sample's student features, (C',) or (C', H', W'). Maps of other sizes can be
            passed too.
        teacher_shape: that of the teacher's, `task.shape` of the target, with as many dimensions.

    Attributes:
        layer: the `torch.nn.Linear` or `torch.nn.Conv2d`.

    Raises:
        TaskError: shapes that are neither vectors nor maps, or one of each.

    Examples:
        >>> soft = softcache.open("runs/digits")["embedding@a"].lookup([0, 1])
        >>> student = torch.nn.Linear(64, 16)  # its features have 16 numbers, the teacher's 64
        >>> projection = softcache.Projection((16,), soft.task.shape)
        >>> optimizer = torch.optim.Adam([*student.parameters(), *projection.parameters()])
        >>> loss = softcache.regression_loss(projection(student(torch.randn(2, 64))), soft)
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> None:
        super().__init__()
        try:
            ours, theirs = list(map(operator.index, student_shape)), list(map(operator.index, teacher_shape))
        except TypeError:
            raise TaskError(
                f"the shapes are {student_shape!r} and {teacher_shape!r}; expected tuples of integers, as (64,)"
            ) from None
        if len(ours) not in (1, 3) or len(ours) != len(theirs) or min(*ours, *theirs) < 1:
            raise TaskError(
                f"the student's features are {ours}, the teacher's {theirs}; expected two vectors [C] or two maps "
                "[C, H, W]"
            )
        self.layer = nn.Linear(ours[0], theirs[0]) if len(ours) == 1 else nn.Conv2d(ours[0], theirs[0], 1)
        self._expected = ["B", ours[0], "H", "W"][: len(ours) + 1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features [B, C'] as [B, C], or maps [B, C', H', W'] as [B, C, H', W'].

        Raises TaskError for another shape.
        """
        given = list(features.shape)
        if len(given) != len(self._expected) or given[1] != self._expected[1]:
            raise TaskError(f"the features are {given}; expected [{', '.join(map(str, self._expected))}]")
        projected: torch.Tensor = self.layer(features)
        return projected
