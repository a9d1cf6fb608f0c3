"""The bytes of an Arrow IPC stream, as far as pyarrow gives no say in them (Arrow's format: IPC, Message.fbs).

A stream is messages, each a prefix of 8 bytes (-1 and the length of the metadata, int32), metadata in a flatbuffer,
and a body with buffers, whose places the metadata of a record batch lists.
"""

from __future__ import annotations

import struct

import pyarrow as pa

ALIGNMENT = 64
_PREFIX, _END = struct.Struct("<ii"), struct.pack("<ii", -1, 0)
_HEADER, _BODY_LENGTH = 2, 3  # fields of a message
_BUFFERS, _COMPRESSION = 2, 3  # fields of a record batch


def aligned(written: pa.Buffer) -> memoryview:
    """Return a stream of a schema and one record batch, whose buffers start at multiples of 64 bytes in the file.

    Arrow recommends it, so that a mapped buffer suits any instruction; pyarrow writes multiples of 8.
    """
    stream = memoryview(written).cast("B")
    begin = _PREFIX.size + _PREFIX.unpack_from(stream)[1]
    size = _PREFIX.unpack_from(stream, begin)[1]
    body = begin + _PREFIX.size + size
    metadata = bytearray(stream[begin + _PREFIX.size : body])
    message = struct.unpack_from("<I", metadata)[0]
    vector = _followed(metadata, _field(metadata, _header(metadata), _BUFFERS))
    count = struct.unpack_from("<I", metadata, vector)[0]
    first = -(-body // ALIGNMENT) * ALIGNMENT
    parts, at = [], 0
    for place in range(vector + 4, vector + 4 + 16 * count, 16):
        offset, length = struct.unpack_from("<qq", metadata, place)
        struct.pack_into("<q", metadata, place, at)
        parts.append((at, stream[body + offset : body + offset + length]))
        at += -(-length // ALIGNMENT) * ALIGNMENT
    if at:
        struct.pack_into("<q", metadata, _field(metadata, message, _BODY_LENGTH), at)
    found = memoryview(bytearray(first + at + len(_END)))
    found[:begin] = stream[:begin]
    _PREFIX.pack_into(found, begin, -1, first - begin - _PREFIX.size)
    found[begin + _PREFIX.size : begin + _PREFIX.size + len(metadata)] = metadata
    for offset, part in parts:
        found[first + offset : first + offset + len(part)] = part
    found[first + at :] = _END
    return found.toreadonly()


def is_compressed_stream(stream: memoryview) -> bool:
    """Whether the record batch of a stream of a schema and one record batch is compressed. Reads its metadata alone.

    Raises struct.error or IndexError if the stream is not one.
    """
    begin = _PREFIX.size + _PREFIX.unpack_from(stream)[1]
    size = _PREFIX.unpack_from(stream, begin)[1]
    return is_compressed(bytes(stream[begin + _PREFIX.size : begin + _PREFIX.size + size]))


def is_compressed(metadata: bytes) -> bool:
    """Whether the metadata of a record batch says that its body is compressed. Raises struct.error if it is damaged."""
    return _field(metadata, _header(metadata), _COMPRESSION) != 0


def _header(metadata: bytes | bytearray) -> int:
    """Return the place of the table that is a message's header."""
    return _followed(metadata, _field(metadata, struct.unpack_from("<I", metadata)[0], _HEADER))


def _followed(metadata: bytes | bytearray, place: int) -> int:
    """Return the place that a reference at another place leads to."""
    return place + int(struct.unpack_from("<I", metadata, place)[0])


def _field(metadata: bytes | bytearray, table: int, number: int) -> int:
    """Return the place of a field of a table in a flatbuffer, 0 if it is not there."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if struct.unpack_from("<H", metadata, vtable)[0] < 6 + 2 * number:
        return 0
    at = int(struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0])
    return int(table + at) if at else 0
