"""Losses for students, schedules for their settings, and weights for several tasks."""

from softcache.distill import multitask, schedules
from softcache.distill.detection import detection_loss, match_detections
from softcache.distill.distillation import distillation_loss
from softcache.distill.features import attention_loss, similarity_loss
from softcache.distill.projection import Projection
from softcache.distill.regression import regression_loss

__all__ = [
    "Projection",
    "attention_loss",
    "detection_loss",
    "distillation_loss",
    "match_detections",
    "multitask",
    "regression_loss",
    "schedules",
    "similarity_loss",
]
