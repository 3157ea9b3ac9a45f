"""What the container formats say of their own length: a file that ends before it should is found without decoding it.

Sources: ISO/IEC 14496-12, 4.2 (boxes); RFC 8794, 4 and 6 (EBML).
"""

from .samples import BadSample

SEGMENT = bytes.fromhex("18538067")
EBML = bytes.fromhex("1a45dfa3")


def check_whole(data: bytes) -> None:
    """Raise BadSample where `data`, an mp4, Matroska or avi file, ends before the length that it declares."""
    declared = None
    if data[4:8] == b"ftyp":
        declared = _boxes_end(data)
    elif data[:4] == EBML:
        declared = _segment_end(data)
    elif data[:4] == b"RIFF":
        declared = 8 + int.from_bytes(data[4:8], "little")
    if declared is not None and declared > len(data):
        raise BadSample("truncated video", f"the file has {len(data):,} bytes of {declared:,}")


def _boxes_end(data: bytes) -> int:
    """Return where the last top-level box of an mp4 ends. Trailing bytes that are no box do not count."""
    place = 0
    while place + 8 <= len(data):
        size, name, header = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if size < header or not name.isalnum():  # 0: to the end of the file
            return place
        place += size
    return place


def _segment_end(data: bytes) -> int | None:
    """Return where a Matroska file's segment ends, None where it does not say (it was written to a stream)."""
    header = _number(data, 4)
    if header is None or data[header[0] + header[1] : header[0] + header[1] + 4] != SEGMENT:
        return None
    segment = _number(data, header[0] + header[1] + 4)
    return None if segment is None else segment[0] + segment[1]


def _number(data: bytes, place: int) -> tuple[int, int] | None:
    """Return (where it ends, value) of the EBML length at `place`, None for the value that means unknown."""
    first = data[place] if place < len(data) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
    return None if length > 8 or value == (1 << 7 * length) - 1 else (place + length, value)
