"""Settings that people write: models that refuse any key they do not know."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue


class Settings(BaseModel):
    """Base of every part of a recipe: frozen, no value is converted, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _storable(value: JsonValue) -> JsonValue:
    """Refuse what JSON in UTF-8 cannot hold, since it cannot be part of a fingerprint."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as e:
        raise ValueError("half a surrogate pair is not allowed in arguments: it is not text") from e
    except ValueError as e:
        raise ValueError("NaN and infinities are not allowed in arguments") from e
    return value


Arguments = dict[str, Annotated[JsonValue, AfterValidator(_storable)]]
