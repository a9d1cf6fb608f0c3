"""Losses for students, and schedules for their settings."""

from softcache.distill import schedules
from softcache.distill.detection import detection_loss, match_detections
from softcache.distill.distillation import distillation_loss
from softcache.distill.regression import regression_loss

__all__ = ["detection_loss", "distillation_loss", "match_detections", "regression_loss", "schedules"]
