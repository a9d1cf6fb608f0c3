"""Codecs: values to columns and back, at any temperature. Pure arrays, no files."""

from softcache.codecs.codec import CODECS, Codec
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Decoder
from softcache.codecs.dense import DenseCodec
from softcache.codecs.hidden import HiddenCodec
from softcache.codecs.making import codec_from_json, make_codec
from softcache.codecs.maps import MapCodec
from softcache.codecs.quantized import QuantizedCodec
from softcache.codecs.sampled import SampledCodec
from softcache.codecs.served import ServedCodec
from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.temperature import Temperature, check_temperature
from softcache.codecs.topk import TopkCodec

__all__ = [
    "CODECS",
    "Codec",
    "Column",
    "Decoder",
    "DenseCodec",
    "HiddenCodec",
    "MapCodec",
    "QuantizedCodec",
    "SampledCodec",
    "ServedCodec",
    "SparseLogProbs",
    "Temperature",
    "TopkCodec",
    "check_temperature",
    "codec_from_json",
    "make_codec",
]
