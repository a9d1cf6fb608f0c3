"""Values to columns and back, and tempering. Pure arrays: no files."""

from softcache.codecs.base import CODECS, Codec, Column, codec_from_json
from softcache.codecs.dense import DenseCodec
from softcache.codecs.temperature import Temperature, check_temperature

__all__ = ["CODECS", "Codec", "Column", "DenseCodec", "Temperature", "check_temperature", "codec_from_json"]
