"""Losses for students."""

from softcache.distill.losses import distillation_loss

__all__ = ["distillation_loss"]
