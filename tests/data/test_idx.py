import gzip
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from idx_bytes import idx_bytes

from needle.data import MissingFileError, read_idx, write_idx
from needle.errors import DataError

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
DTYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]


@given(
    st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))),
    st.booleans(),
)
def test_idx_round_trip(tmp_path_factory, array, is_packed):
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if is_packed else "a")
    write_idx(path, array)
    back = read_idx(path)
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_idx_reads_bytes_written_by_hand(tmp_path, pack):
    path = tmp_path / "a"
    path.write_bytes(pack(b"\0\0\x0b\x02" + bytes([0, 0, 0, 1, 0, 0, 0, 2]) + b"\x01\x02\xff\xff"))
    array = read_idx(path)
    assert array.dtype == np.int16 and array.dtype.isnative
    assert array.tolist() == [[258, -1]]
    array[0, 0] = 7  # it is the caller's


def test_idx_reads_a_file_of_several_gzip_members(tmp_path):
    content = idx_bytes(IMAGES)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content[:20]) + gzip.compress(content[20:]))
    assert (read_idx(tmp_path / "a.gz") == IMAGES).all()


def test_idx_writes_big_endian_arrays_and_the_same_bytes_each_time(tmp_path):
    for name in "ab":
        write_idx(tmp_path / f"{name}.gz", np.array([1, 2], dtype=">i4"))
    assert read_idx(tmp_path / "a.gz").tolist() == [1, 2]
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_idx_refuses_to_write_other_types(tmp_path):
    with pytest.raises(DataError, match="IDX has no type for int64; it has uint8"):
        write_idx(tmp_path / "a", np.zeros(2, dtype=np.int64))
    assert list(tmp_path.iterdir()) == []


PACKED = gzip.compress(idx_bytes(IMAGES), mtime=0)


DAMAGED = {
    "empty": (b"", r"not an IDX file: expected the magic number 00 00 type axes, got nothing"),
    "picture": (b"\x89PNG\r\n", r"not an IDX file: .* got 89 50 4e 47"),
    "type": (b"\0\0\x07\x01\0\0\0\0", r"not an IDX file: .* got 00 00 07 01"),
    "header": (b"\0\0\x08\x03\0\0\0\2\0\0", r"cut off within the header: expected 16 bytes, got 10"),
    "short": (idx_bytes(IMAGES)[:-1], r"cut off: the header announces 2 x 3 x 4 numbers, 24 bytes, got 23"),
    "long": (idx_bytes(IMAGES) + b"!", r"longer than the 2 x 3 x 4 numbers, 24 bytes, that the header announces"),
    "packed short": (gzip.compress(idx_bytes(IMAGES)[:-1]), r"cut off: the header announces 2 x 3 x 4 numbers"),
    "packed long": (gzip.compress(idx_bytes(IMAGES) + b"!"), r"longer than the 2 x 3 x 4 numbers"),
    "gzip cut in the data": (PACKED[:-9], "the gzip data are damaged or cut off"),
    "gzip cut in the checksum": (PACKED[:-1], "the gzip data are damaged or cut off"),
    "gzip cut in the header": (PACKED[:5], "the gzip data are damaged or cut off"),
    "gzip checksum": (PACKED[:-6] + bytes([PACKED[-6] ^ 1]) + PACKED[-5:], "the gzip data are damaged or cut off: CRC"),
    "gzip noise": (b"\x1f\x8b\x08" + b"\xff" * 40, "the gzip data are damaged or cut off"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_idx_damage_is_one_clear_error(tmp_path, damage):
    content, message = DAMAGED[damage]
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: {message}"):
        read_idx(path)


def test_idx_any_flipped_bit_is_found(tmp_path):
    content = bytearray(PACKED)
    for position in range(10, len(content)):  # before that, gzip's header holds a time and the like
        content[position] ^= 4
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError):
            read_idx(tmp_path / "a")
        content[position] ^= 4


def bomb(header):
    """A gzip file of 4 GiB of zeros after `header`, in 4 MiB: one block of deflate's, over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + block * 256


def test_idx_never_inflates_more_than_the_header_says(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(bomb(struct.pack(">4I", 0x0803, 10, 28, 28)))
    with pytest.raises(DataError, match="longer than the 10 x 28 x 28 numbers, 7,840 bytes"):
        read_idx(path)


def test_idx_never_believes_a_header_beyond_the_limit(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(bomb(struct.pack(">4I", 0x0803, 1 << 22, 32, 32)))
    with pytest.raises(DataError, match="4194304 x 32 x 32 numbers, 4,294,967,296 bytes, more than the limit of 1,073"):
        read_idx(path)
    write_idx(path, IMAGES)
    with pytest.raises(DataError, match="24 bytes, more than the limit of 23: pass max_bytes=24"):
        read_idx(path, max_bytes=23)


def test_idx_other_number_of_axes(tmp_path):
    write_idx(tmp_path / "a", IMAGES)
    with pytest.raises(DataError, match=r"expected 1 axes .*, got 3"):
        read_idx(tmp_path / "a", ndim=1)


def test_idx_missing_file_is_also_pythons_error(tmp_path):
    with pytest.raises(MissingFileError, match=f"^there is no file {tmp_path}/a: fetch it$") as caught:
        read_idx(tmp_path / "a", hint="fetch it")
    assert isinstance(caught.value, FileNotFoundError) and isinstance(caught.value, DataError)


def test_idx_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        read_idx(tmp_path)
