"""softcache: run teachers once, keep what they said, train students at any temperature.

Heavy modules are imported when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from softcache.errors import SoftcacheError

if TYPE_CHECKING:
    from softcache.builder.executor import build
    from softcache.distill.detection import detection_loss, match_detections
    from softcache.distill.losses import distillation_loss
    from softcache.distill.regression import regression_loss
    from softcache.read.attach import attach, collate
    from softcache.read.cache import Cache
    from softcache.read.cache import open_cache as open
    from softcache.read.ensemble import ensemble
    from softcache.read.join import join
    from softcache.read.soft_sequences import SoftSequences
    from softcache.read.soft_targets import SoftBatch, SoftTargets
    from softcache.read.target import Target
    from softcache.read.verify import verify
    from softcache.read.views import ViewDataset, views

__version__ = "0.1.0"

__all__ = [
    "Cache",
    "SoftBatch",
    "SoftSequences",
    "SoftTargets",
    "SoftcacheError",
    "Target",
    "ViewDataset",
    "__version__",
    "attach",
    "build",
    "collate",
    "detection_loss",
    "distillation_loss",
    "ensemble",
    "join",
    "match_detections",
    "open",
    "regression_loss",
    "verify",
    "views",
]

_HOMES = {
    "Cache": ("softcache.read.cache", "Cache"),
    "SoftBatch": ("softcache.read.soft_targets", "SoftBatch"),
    "SoftSequences": ("softcache.read.soft_sequences", "SoftSequences"),
    "SoftTargets": ("softcache.read.soft_targets", "SoftTargets"),
    "Target": ("softcache.read.target", "Target"),
    "ViewDataset": ("softcache.read.views", "ViewDataset"),
    "attach": ("softcache.read.attach", "attach"),
    "build": ("softcache.builder.executor", "build"),
    "collate": ("softcache.read.attach", "collate"),
    "detection_loss": ("softcache.distill.detection", "detection_loss"),
    "distillation_loss": ("softcache.distill.losses", "distillation_loss"),
    "ensemble": ("softcache.read.ensemble", "ensemble"),
    "join": ("softcache.read.join", "join"),
    "match_detections": ("softcache.distill.detection", "match_detections"),
    "open": ("softcache.read.cache", "open_cache"),
    "regression_loss": ("softcache.distill.regression", "regression_loss"),
    "verify": ("softcache.read.verify", "verify"),
    "views": ("softcache.read.views", "views"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'softcache' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
