"""Codecs from their names and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softcache.codecs.codec import CODECS, Codec
from softcache.codecs.maps import MapCodec
from softcache.errors import CodecError, FormatError, UnsupportedVersion
from softcache.tasks import TaskSpec


def make_codec(name: str, task: TaskSpec, settings: Mapping[str, Any]) -> Codec:
    """Return a codec, settings that are left out at their defaults.

    Raises CodecError if there is no such codec or setting, or a value is wrong.
    """
    codec = CODECS.get(name)
    if codec is None:
        raise CodecError(f"codec is {name!r}; expected one of {', '.join(CODECS)}")
    known = codec.settings()
    strange = [setting for setting in settings if setting not in known]
    if strange:
        raise CodecError(f"{', '.join(strange)}: not a setting of codec {name}, which has {', '.join(known) or 'none'}")
    return _of_task(codec, task, settings)


def codec_from_json(data: Mapping[str, Any], task: TaskSpec) -> Codec:
    """Return the codec that a declaration names.

    Raises UnsupportedVersion for a name that is not known, FormatError for anything else that is wrong.
    """
    codec = CODECS.get(str(data.get("name")))
    if codec is None:
        raise UnsupportedVersion(f"codec {data.get('name')!r} is not known here; a newer softcache may read it")
    if strange := sorted(set(data) - {"name", *codec.settings()}):
        raise UnsupportedVersion(
            f"codec {codec.name} with {', '.join(map(repr, strange))} is not known here; a newer softcache may read it"
        )
    try:
        return _of_task(codec, task, {setting: data[setting] for setting in codec.settings()})
    except (KeyError, CodecError) as e:
        raise FormatError(f"not a {codec.name} codec: {e}") from e


def _of_task(codec: type[Codec], task: TaskSpec, settings: Mapping[str, Any]) -> Codec:
    if not task.is_map or codec.on_maps == "whole":
        return codec(task, **settings)
    if codec.on_maps == "never":
        raise CodecError(f"codec {codec.name} does not store maps")
    return MapCodec(task, inner=codec(task.item, **settings))
