"""Losses for students."""

from softcache.distill.detection import detection_loss, match_detections
from softcache.distill.distillation import distillation_loss
from softcache.distill.regression import regression_loss

__all__ = ["detection_loss", "distillation_loss", "match_detections", "regression_loss"]
