"""Settings that people write: models that refuse whatever they do not know."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue


class Settings(BaseModel):
    """Base of all parts of a recipe: frozen, nothing converted, no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _finite(value: JsonValue) -> JsonValue:
    """Refuse NaN and infinities, which have no place in a fingerprint."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as e:
        raise ValueError("NaN and infinities are not allowed in arguments") from e
    return value


Arguments = dict[str, Annotated[JsonValue, AfterValidator(_finite)]]
