import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import needle as ndl
from needle.data import (
    Apply,
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomFlipHorizontal,
    RandomRotation,
    RandomScale,
    RandomTranslation,
    Transform,
)
from needle.data.affine import resample
from needle.errors import DataError, DTypeError, ShapeError

IMAGE = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)
ALL = [
    (RandomFlipHorizontal(0.4), np.random.rand),
    (RandomFlipHorizontal(0.0), np.random.rand),
    (RandomCrop(3), lambda: np.random.randint(low=-3, high=4, size=2)),
    (RandomCrop(0), lambda: np.random.randint(low=0, high=1, size=2)),
    (RandomRotation(20), np.random.rand),
    (RandomScale(0.5, 2), np.random.rand),
    (RandomTranslation(1.5), lambda: np.random.rand(2)),
    (Cutout(2), lambda: np.random.rand(2)),
    (Normalize(0.5, 2), lambda: None),
    (Apply(np.flipud), lambda: None),
    (
        Compose([RandomCrop(1), Apply(np.flipud), RandomScale()]),
        lambda: (np.random.randint(-1, 2, 2), np.random.rand()),
    ),
]


def generator_state():
    _, key, *rest = np.random.get_state()
    return key.tolist(), *rest


@pytest.mark.parametrize(("transform", "draw"), ALL, ids=lambda value: repr(value) if hasattr(value, "apply") else "")
def test_transform_draws_what_the_ledger_says_and_nothing_else(transform, draw):
    for method in (transform.draw, lambda: transform(IMAGE)):
        np.random.seed(1)
        method()
        state = generator_state()
        np.random.seed(1)
        draw()
        assert generator_state() == state


@pytest.mark.parametrize("transform", [t for t, _ in ALL], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_transform_is_pure_and_keeps_shape_and_dtype(transform, dtype):
    image = (IMAGE * 9).astype(dtype)
    before = image.copy()
    drawn = transform.draw()
    state = generator_state()
    result = transform.apply(image, drawn)
    np.testing.assert_array_equal(transform.apply(image, drawn), result)
    assert generator_state() == state
    np.testing.assert_array_equal(image, before)
    assert result.shape == image.shape
    assert result.dtype == ("float32" if isinstance(transform, Normalize) and dtype == "uint8" else dtype)


@pytest.mark.parametrize("transform", [t for t, _ in ALL], ids=repr)
def test_transform_call_is_apply_of_draw(transform):
    np.random.seed(5)
    called = transform(IMAGE)
    np.random.seed(5)
    np.testing.assert_array_equal(transform.apply(IMAGE, transform.draw()), called)


def test_flip_is_below_p():
    np.random.seed(0)
    transform = RandomFlipHorizontal(p=0.5)
    flips = [not np.array_equal(transform(IMAGE), IMAGE) for _ in range(200)]
    np.random.seed(0)
    assert flips == [np.random.rand() < 0.5 for _ in range(200)]
    np.testing.assert_array_equal(transform.apply(IMAGE, True), np.flip(IMAGE, axis=1))


def test_crop_against_the_formula():
    np.random.seed(0)
    transform = RandomCrop(padding=2)
    results = [transform(IMAGE) for _ in range(20)]
    np.random.seed(0)
    padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)))
    for result in results:
        down, right = np.random.randint(low=-2, high=3, size=2)
        np.testing.assert_array_equal(result, padded[2 + down : 7 + down, 2 + right : 8 + right])


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, -1), (0, 0), (270, 3)])
def test_rotation_by_quarter_turns_is_rot90(degrees, turns):
    image = np.random.default_rng(1).random((6, 6, 2))
    np.testing.assert_allclose(RandomRotation(360).apply(image, degrees), np.rot90(image, turns), atol=1e-12)


def test_rotation_angle_is_uniform_in_both_directions():
    np.random.seed(0)
    angles = [RandomRotation(30).draw() for _ in range(5)]
    np.random.seed(0)
    np.testing.assert_allclose(angles, [(2 * np.random.rand() - 1) * 30 for _ in range(5)])


def test_rotation_keeps_a_constant_within_and_fills_outside():
    image = np.ones((21, 21, 1))
    result = RandomRotation(45, fill=7).apply(image, 45.0)[..., 0]
    np.testing.assert_allclose(result[8:13, 8:13], 1)
    assert result[0, 0] == result[-1, -1] == 7


def test_translation_by_whole_pixels_is_a_shift():
    result = RandomTranslation(3).apply(IMAGE, np.array([2.0, -1.0]))
    np.testing.assert_array_equal(result[2:, :-1], IMAGE[:-2, 1:])
    assert not result[:2].any() and not result[:, -1].any()


def test_translation_by_half_pixels_averages_neighbours():
    result = RandomTranslation(1).apply(IMAGE.astype(float), np.array([0.0, 0.5]))
    np.testing.assert_allclose(result[:, 1:], (IMAGE[:, 1:] + IMAGE[:, :-1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(result[:, 0], IMAGE[:, 0] / 2, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.3])
def test_scale_of_a_plane_is_a_plane(factor):
    """Bilinear sampling is exact for planes: a + b·row + c·column about the centre shrinks its slopes by the factor."""
    rows, columns = np.meshgrid(np.arange(9) - 4.0, np.arange(7) - 3.0, indexing="ij")
    image = (10 + 2 * rows - 3 * columns)[..., np.newaxis]
    result = RandomScale(0.1, 9).apply(image, factor)[..., 0]
    inside = (np.abs(rows / factor) <= 4) & (np.abs(columns / factor) <= 3)
    np.testing.assert_allclose(result[inside], (10 + 2 * rows / factor - 3 * columns / factor)[inside], rtol=1e-12)


def bilinear(image, row, column, fill):
    """One place of one channel, by the definition."""

    def pixel(i, j):
        return image[i, j] if 0 <= i < image.shape[0] and 0 <= j < image.shape[1] else fill

    i, j = int(np.floor(row)), int(np.floor(column))
    a, b = row - i, column - j
    return (
        (1 - a) * (1 - b) * pixel(i, j)
        + (1 - a) * b * pixel(i, j + 1)
        + a * (1 - b) * pixel(i + 1, j)
        + a * b * pixel(i + 1, j + 1)
    )


@given(
    st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    st.lists(st.floats(-5, 5), min_size=2, max_size=2),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.75]),
)
def test_resample_against_the_definition(matrix, offset, height, width, fill):
    matrix = np.array(matrix).reshape(2, 2)
    image = np.random.default_rng(0).random((height, width))
    result = resample(image, matrix, offset, fill=fill)
    centre = np.array([height - 1, width - 1]) / 2
    for i in range(height):
        for j in range(width):
            place = centre + matrix @ (np.array([i, j]) - centre) + offset
            np.testing.assert_allclose(result[i, j], bilinear(image, *place, fill), atol=1e-9)


def test_resample_rounds_and_clips_integers():
    image = np.array([[0, 255, 1]], dtype=np.uint8)
    assert resample(image, np.eye(2), (0, 0.5)).tolist() == [[128, 128, 0]]  # 127.5 and 0.5 go to the even neighbour
    assert resample(image, np.eye(2), (0, 9), fill=300).tolist() == [[255] * 3]


@pytest.mark.parametrize(
    ("drawn", "rows", "columns"),
    [((0.0, 0.0), (0, 1), (0, 1)), ((0.5, 0.5), (1, 4), (2, 5)), ((0.99, 0.99), (3, 5), (4, 6))],
)
def test_cutout_fills_a_square_cut_at_the_border(drawn, rows, columns):
    expected = IMAGE.copy()
    expected[slice(*rows), slice(*columns)] = 0.5
    transform = Cutout(3, fill=0.5)
    if drawn == (0.0, 0.0):
        expected = IMAGE.copy()
        expected[:2, :2] = 0.5
    np.testing.assert_array_equal(transform.apply(IMAGE, np.array(drawn)), expected)


def test_normalize_by_channel():
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 4.0]
    expected = (IMAGE.astype(np.float64) - mean) / std
    np.testing.assert_allclose(Normalize(mean, std)(IMAGE), expected, rtol=1e-5)


def test_compose_runs_functions_too_but_then_cannot_draw_ahead():
    composed = Compose([lambda image: image * 2, Normalize(0, 2)])
    np.testing.assert_array_equal(composed(IMAGE), IMAGE)
    assert not composed.draws_ahead
    assert Compose([Normalize(0, 2), RandomCrop()]).draws_ahead


def test_transform_with_a_call_of_its_own_cannot_draw_ahead():
    class Own(Transform):
        def __call__(self, image):
            return image + np.random.rand()

    assert not Own().draws_ahead
    assert RandomCrop().draws_ahead


def test_transforms_follow_the_generator_of_seed():
    try:
        ndl.seed(1)
        first = [RandomCrop(4).draw().tolist() for _ in range(3)]
        ndl.seed(1)
        assert [RandomCrop(4).draw().tolist() for _ in range(3)] == first
    finally:
        ndl.seed(None)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomFlipHorizontal(1.5), DataError, "p must be from 0 to 1, got 1.5"),
        (lambda: RandomFlipHorizontal(float("nan")), DataError, "p must be from 0 to 1, got nan"),
        (lambda: RandomCrop(-1), DataError, "padding must be 0 or more, got -1"),
        (lambda: RandomCrop(1.5), DTypeError, "padding must be a whole number, got 1.5"),
        (lambda: RandomRotation(-1), DataError, "degrees must be from 0 to 360, got -1"),
        (lambda: RandomScale(2, 1), DataError, "low must be from 0 to 1.0, got 2"),
        (lambda: RandomScale(0, 1), DataError, "low must be more than 0, got 0"),
        (lambda: RandomTranslation(-1), DataError, "pixels must be from 0 to inf, got -1"),
        (lambda: Cutout(0), DataError, "size must be 1 or more, got 0"),
        (lambda: Normalize(0, 0), DataError, "needs finite means and positive deviations, got 0 and 0"),
        (lambda: Normalize([[0]], 1), ShapeError, "takes one mean and deviation a channel"),
        (lambda: Apply(3), DTypeError, "Apply takes a function, got int"),
        (lambda: Normalize([0, 0], 1)(IMAGE), ShapeError, r"Normalize has 2 channels, the image 3: \(5, 6, 3\)"),
        (lambda: RandomCrop()(np.zeros(4)), ShapeError, r"one image of shape \(H, W, C\) or \(H, W\), got \(4,\)"),
        (lambda: Transform()(IMAGE), NotImplementedError, "Transform must write apply"),
    ],
)
def test_transform_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
