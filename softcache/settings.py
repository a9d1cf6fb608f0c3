"""Settings that people write: models that refuse any key they do not know."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue


class Settings(BaseModel):
    """Base of every part of a recipe: frozen, no value is converted, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _finite(value: JsonValue) -> JsonValue:
    """Refuse NaN and infinities, which cannot be part of a fingerprint."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as e:
        raise ValueError("NaN and infinities are not allowed in arguments") from e
    return value


Arguments = dict[str, Annotated[JsonValue, AfterValidator(_finite)]]
