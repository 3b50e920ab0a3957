"""Pictures from files, brought to what a model was trained on."""

import sys
import zipfile

import numpy as np
import pytest

from needle.cli.images import Picture, prepare, read_grey, resize
from needle.errors import DataError, MissingExtraError


def write_png(path, pixels, mode=None):
    image = pytest.importorskip("PIL.Image").fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def test_resize_means_the_area_that_each_pixel_covers():
    pixels = np.random.default_rng(0).random((6, 9))
    np.testing.assert_allclose(resize(pixels, (2, 3)), pixels.reshape(2, 3, 3, 3).mean(axis=(1, 3)))
    np.testing.assert_allclose(resize(pixels, (12, 18)), pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_resize_keeps_the_mean_for_sizes_that_do_not_divide():
    pixels = np.random.default_rng(0).random((13, 7))
    assert resize(pixels, (8, 5)).mean() == pytest.approx(pixels.mean())
    np.testing.assert_allclose(resize(pixels, (13, 7)), pixels)


def test_read_grey_weighs_colours_by_how_bright_they_look(tmp_path):
    path = tmp_path / "colours.npy"
    np.save(path, np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]))
    picture = read_grey(path)
    np.testing.assert_allclose(picture.pixels, [[0.299, 0.587, 0.114]])
    assert picture.steps == ("made grey from 3 channels",)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 51, 255]], dtype=np.uint8), [0, 0.2, 1]),
        (np.array([[0.0, 0.5, 1.0]]), [0, 0.5, 1]),
        (np.array([[0.0, 51.0, 255.0]]), [0, 0.2, 1]),
        (np.array([[0, 8, 16]]), [0, 0.5, 1]),
        (np.array([[False, True]]), [0, 1]),
    ],
)
def test_read_grey_knows_what_white_is(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_allclose(read_grey(tmp_path / "a.npy").pixels[0], expected)


def test_read_grey_puts_transparent_parts_on_white(tmp_path):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0, 3] = 255
    picture = read_grey(write_png(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(picture.pixels, [[0, 1], [1, 1]])
    assert picture.steps == ("made grey from RGBA",)


def test_read_grey_reads_jpeg_palette_and_16_bit_files(tmp_path):
    ramp = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (16, 1))
    np.testing.assert_allclose(read_grey(write_png(tmp_path / "a.jpg", ramp)).pixels, ramp / 255, atol=0.02)
    np.testing.assert_allclose(read_grey(write_png(tmp_path / "p.png", ramp, "P")).pixels, ramp / 255, atol=0.01)
    deep = ramp.astype(np.uint16) * 257
    np.testing.assert_allclose(read_grey(write_png(tmp_path / "d.png", deep)).pixels, ramp / 255)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"holds float64 \(5,\): a picture is"),
        (np.zeros((2, 2, 2, 2)), r"holds float64 \(2, 2, 2, 2\): a picture is"),
        (np.zeros((0, 3)), r"holds float64 \(0, 3\)"),
        (np.zeros((2, 2), dtype="<U3"), "holds <U3"),
        (np.full((2, 2), np.nan), "holds NaN or infinity"),
        (np.full((2, 2), -1.0), "pixels must be 0 or more, got -1"),
        (np.zeros((2, 2, 2)), "has 2 channels: a picture has 1, 3 or 4"),
        (np.array([[object()]]), "is not a NumPy file that can be read"),
    ],
)
def test_read_grey_reports_arrays_that_are_no_pictures(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_grey(tmp_path / "a.npy")


def test_read_grey_never_unpickles(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x80\x04cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="is not a NumPy file that can be read"):
        read_grey(path)


def test_read_grey_reports_files_cut_short_and_files_that_claim_too_much(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((20, 20)))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(DataError, match="is not a NumPy file that can be read"):
        read_grey(path)
    path.write_bytes(whole.replace(b"(20, 20)", b"(200000, 200000)"))
    with pytest.raises(DataError, match="is not a NumPy file that can be read"):
        read_grey(path)


def test_read_grey_reports_an_archive_with_a_wrong_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npy", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DataError, match=r"a\.npy"):
        read_grey(tmp_path / "a.npy")


def test_read_grey_reports_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*none\.png"):
        read_grey(tmp_path / "none.png")
    with pytest.raises(DataError, match="there is no file"):
        read_grey(tmp_path)
    pytest.importorskip("PIL")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png is not a picture"):
        read_grey(tmp_path / "text.png")
    path = write_png(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"cut\.png is damaged"):
        read_grey(path)


def test_read_grey_without_pillow_says_how_to_get_it_and_still_reads_npy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"reading a\.png needs the package 'pillow'.*needle-dl\[image\]"):
        read_grey(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.eye(3))
    read_grey(tmp_path / "a.npy")


# -------------------------------------------------------------------------------------------------- preparing


def stroke(height, width):
    """A digit one in the middle, bright on black."""
    pixels = np.zeros((height, width))
    pixels[height // 4 : 3 * height // 4, width // 2 - width // 20 : width // 2 + width // 20] = 1
    return pixels


def test_prepare_inverts_dark_ink_on_a_light_ground_and_says_so():
    bright = prepare(Picture(stroke(280, 280), ()), (28, 28), 20)
    dark = prepare(Picture(1 - stroke(280, 280), ()), (28, 28), 20)
    np.testing.assert_allclose(dark.pixels, bright.pixels)
    assert not any("inverted" in step for step in bright.steps)
    assert "inverted" in dark.steps[0]


def test_prepare_leaves_a_picture_of_the_training_size_alone():
    pixels = stroke(28, 28)
    picture = prepare(Picture(pixels, ()), (28, 28), 20)
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.steps == ()


@pytest.mark.parametrize("corner", [(0, 0), (150, 20), (180, 190)])
def test_prepare_centres_strokes_wherever_they_were_drawn(corner):
    page = np.full((400, 300), 0.9)
    page[corner[0] + 10 : corner[0] + 210, corner[1] + 10 : corner[1] + 50] = 0.1
    picture = prepare(Picture(page, ()), (28, 28), 20)
    rows, columns = np.nonzero(picture.pixels > 0.5)
    assert (rows.min(), rows.max()) == (4, 23)
    assert (columns.min(), columns.max()) == (12, 15)
    assert picture.pixels.max() == pytest.approx(1)


def test_prepare_of_an_empty_page_is_black_and_says_so():
    picture = prepare(Picture(np.full((50, 60), 0.8), ()), (8, 8), 8)
    assert not picture.pixels.any()
    assert picture.steps[-1] == "found nothing drawn in it"


def test_prepare_without_an_ink_box_pads_to_a_square_and_resizes():
    picture = prepare(Picture(stroke(56, 28), ()), (28, 28), None)
    np.testing.assert_allclose(picture.pixels, resize(np.pad(stroke(56, 28), ((0, 0), (14, 14))), (28, 28)))
    assert picture.steps == ("padded from 28 x 56 to a square", "resized from 56 x 56 to 28 x 28")


def test_prepare_as_is_only_resizes():
    page = 1 - stroke(56, 56)
    picture = prepare(Picture(page, ("made grey from RGB",)), (28, 28), 20, as_is=True)
    np.testing.assert_allclose(picture.pixels, resize(page, (28, 28)))
    assert picture.steps == ("made grey from RGB", "resized from 56 x 56 to 28 x 28")


def test_prepare_takes_pictures_of_any_shape():
    generator = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 90), (90, 1), (3, 5), (28, 27), (7, 200)]:
        for _ in range(5):
            pixels = (generator.random((height, width)) > 0.5).astype(float)
            picture = prepare(Picture(pixels, ()), (28, 28), 20)
            assert picture.pixels.shape == (28, 28)
            assert np.isfinite(picture.pixels).all()
            assert 0 <= picture.pixels.min() <= picture.pixels.max() <= 1 + 1e-12
