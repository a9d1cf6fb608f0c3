"""The losses of the four tasks: against labels, and against what a teacher said."""

from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

import softcache

FIXED = {"digit": 1.0, "mask": 1.0, "box": 20.0, "angle": 2.0}  # first guesses, not tuned
TEMPERATURES = {"digit": 4.0, "mask": 2.0}


def hard_losses(answers, labels):
    """Return the loss of each task against its labels."""
    of = {"digit": cross_entropy, "mask": binary_cross_entropy_with_logits, "box": mse_loss, "angle": mse_loss}
    return {task: of[task](answer, labels[task]) for task, answer in answers.items()}


def soft_losses(answers, soft):
    """Return the loss of each task against soft targets by task."""
    return {
        task: softcache.distillation_loss(answer, soft[task], TEMPERATURES[task])
        if task in TEMPERATURES
        else softcache.regression_loss(answer, soft[task])
        for task, answer in answers.items()
    }
