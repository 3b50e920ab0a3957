"""The IDX format, from its description."""

import struct


def idx_bytes(array, code=8):
    """The bytes of an IDX file, written out by the format's description."""
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()
