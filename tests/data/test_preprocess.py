from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quantkit.config.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRESETS,
    CenterCrop,
    Decode,
    EvenSides,
    Normalize,
    Pad,
    Pipeline,
    Resize,
    ToTensor,
    imagenet_pipeline,
)
from quantkit.data.preprocess import check_pipeline, normalize, preprocess, transform
from quantkit.errors import ConfigError, ImageError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def run(image: Image.Image, pipeline: Pipeline) -> np.ndarray:
    pixels = transform(image, pipeline)
    out = np.empty((pipeline.channels, *pixels.shape[:2]), np.float32)
    normalize(pixels, pipeline, out)
    return out


def as_torchvision_documents(
    image: Image.Image, resize: int, crop: tuple[int, int], interpolation: str = "bilinear"
) -> np.ndarray:
    """The evaluation transform written anew, plainly, on whole arrays."""
    width, height = image.size
    short, long = sorted((width, height))
    long = int(resize * long / short)
    size = (resize, long) if width <= height else (long, resize)
    if size != image.size:
        image = image.resize(size, FILTERS[interpolation])
    pixels = np.asarray(image)
    missing = [max(wanted - have, 0) for wanted, have in zip(crop, pixels.shape, strict=False)]
    pixels = np.pad(pixels, [(n // 2, (n + 1) // 2) for n in missing] + [(0, 0)])
    top, left = (round((have - wanted) / 2.0) for have, wanted in zip(pixels.shape, crop, strict=False))
    pixels = pixels[top : top + crop[0], left : left + crop[1]]
    scaled = pixels.astype(np.float32) / np.float32(255)
    return ((scaled - np.asarray(IMAGENET_MEAN, np.float32)) / np.asarray(IMAGENET_STD, np.float32)).transpose(2, 0, 1)


SIZES = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(
    height=SIZES,
    width=SIZES,
    resize=st.integers(1, 120),
    crop=st.tuples(st.integers(1, 130), st.integers(1, 130)),
    interpolation=st.sampled_from(sorted(FILTERS)),
)
def test_transform_odd_sizes_equal_plain_reference(
    height: int, width: int, resize: int, crop: tuple[int, int], interpolation: str
) -> None:
    pipeline = Pipeline(
        ops=(
            Decode(),
            Resize(size=resize, interpolation=interpolation),
            CenterCrop(size=crop),
            ToTensor(),
            Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        )
    )
    image = noise(height, width)
    np.testing.assert_array_equal(run(image, pipeline), as_torchvision_documents(image, resize, crop, interpolation))


@pytest.mark.parametrize(
    ("side", "crop", "offset"), [(257, 224, 16), (259, 224, 18), (256, 224, 16), (225, 224, 0), (227, 224, 2)]
)
def test_transform_crop_offset_is_rounded_half_to_even(side: int, crop: int, offset: int) -> None:
    ramp = np.broadcast_to((np.arange(side) % 251).astype(np.uint8)[:, None, None], (side, side, 3))
    pixels = transform(Image.fromarray(ramp), Pipeline(ops=(Decode(), CenterCrop(size=(crop, crop)), ToTensor())))
    assert pixels[0, 0, 0] == offset % 251


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(333, 500, (256, 384)), (500, 333, (384, 256)), (2, 3, (256, 384)), (7, 7, (256, 256))],
)
def test_transform_longer_side_is_truncated(height: int, width: int, expected: tuple[int, int]) -> None:
    pipeline = Pipeline(ops=(Decode(), Resize(size=256), ToTensor()))
    assert transform(noise(height, width), pipeline).shape[:2] == expected


def test_transform_resize_of_both_sides_squashes() -> None:
    pipeline = Pipeline(ops=(Decode(), Resize(size=(256, 128)), ToTensor()))
    image = noise(300, 200)
    expected = np.asarray(image.resize((128, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(transform(image, pipeline), expected)


def test_transform_crop_of_small_picture_pads_odd_pixel_right_and_below() -> None:
    white = Image.new("RGB", (2, 3), "white")
    pixels = transform(white, Pipeline(ops=(Decode(), CenterCrop(size=(6, 5)), ToTensor())))
    rows, columns = np.nonzero(pixels[:, :, 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 1, 2)


@pytest.mark.parametrize(
    ("size", "expected"), [((9, 12), (8, 12)), ((8, 7), (8, 6)), ((5, 5), (4, 4)), ((6, 8), (6, 8)), ((1, 3), (1, 2))]
)
def test_transform_even_sides_shrinks_odd_sides_only(size: tuple[int, int], expected: tuple[int, int]) -> None:
    pipeline = Pipeline(ops=(Decode(), EvenSides(), ToTensor()))
    image = noise(*size)
    pixels = transform(image, pipeline)
    assert pixels.shape[:2] == expected
    if size == expected:
        np.testing.assert_array_equal(pixels, np.asarray(image))
    sized = Pipeline(ops=(Decode(), Resize(size=size), EvenSides(), ToTensor()))
    assert sized.output_size == expected


def test_transform_pad_centres_picture_on_given_value() -> None:
    pixels = transform(Image.new("RGB", (2, 5), "white"), Pipeline(ops=(Decode(), Pad(value=114), ToTensor())))
    assert pixels.shape == (5, 5, 3)
    assert set(pixels[:, 0].ravel()) == {114}
    assert set(pixels[:, 1].ravel()) == {255}
    grey = transform(Image.new("L", (5, 2), 255), Pipeline(ops=(Decode(mode="L"), Pad(value=9), ToTensor())))
    assert (grey[0, 0], grey[2, 0]) == (9, 255)
    opaque = transform(
        Image.new("RGBA", (2, 5), "white"), Pipeline(ops=(Decode(mode="RGBA"), Pad(value=9), ToTensor()))
    )
    assert opaque[0, 0].tolist() == [9, 9, 9, 255]


@given(divisor=st.sampled_from([255.0, 1.0, 127.5]), mean=st.floats(-200, 200, width=32), std=st.floats(0.01, 300))
@settings(deadline=None)
def test_normalize_every_value_in_float32_steps(divisor: float, mean: float, std: float) -> None:
    pipeline = Pipeline(ops=(Decode(mode="L"), ToTensor(divisor=divisor), Normalize(mean=(mean,), std=(std,))))
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    out = np.empty((1, 16, 16), np.float32)
    normalize(pixels, pipeline, out)
    expected = (pixels.astype(np.float32) / np.float32(divisor) - np.float32(mean)) / np.float32(std)
    np.testing.assert_array_equal(out[0], expected)


def test_normalize_bgr_in_order_of_its_channels() -> None:
    image = Image.new("RGB", (1, 1), (10, 20, 30))
    pipeline = Pipeline(ops=(Decode(mode="BGR"), ToTensor(divisor=1), Normalize(mean=(1, 2, 3), std=(1, 1, 1))))
    np.testing.assert_array_equal(run(image, pipeline).ravel(), [29, 18, 7])


def test_preprocess_writes_into_the_buffer_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(300, 280).save(path)
    out = np.full((2, 3, 224, 224), np.nan, np.float32)
    result = preprocess(path, PRESETS["imagenet"], out[1])
    assert result.base is out
    assert np.isnan(out[0]).all()
    np.testing.assert_array_equal(out[1], as_torchvision_documents(noise(300, 280), 256, (224, 224)))


def test_preprocess_names_an_image_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    noise(20, 30).save(path)
    pipeline = Pipeline(ops=(Decode(), ToTensor()))
    assert preprocess(path, pipeline).shape == (3, 20, 30)
    with pytest.raises(ImageError, match=r"wide\.png: the image is 20 x 30 .* after preprocessing, and 32 x 32"):
        preprocess(path, pipeline, np.empty((3, 32, 32), np.float32))


def test_preprocess_very_long_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("L", (20_000, 1)).save(path)
    with pytest.raises(ImageError, match=r"long\.png: an image of 20000 x 1 would be resized to 5120000 x 256"):
        preprocess(path, PRESETS["imagenet"])


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((Decode(), Resize(size=8, interpolation="bicubic", antialias=False), ToTensor()), "bicubic without antialias"),
        (
            (Decode(), ToTensor(), Normalize(mean=(0.5, 0.5), std=(0.5, 0.5))),
            "mean and std have 2 values for 3 channels",
        ),
        ((Decode(mode="L"), ToTensor()), "the model needs 3 channels, and the pipeline gives 1"),
        ((Decode(), CenterCrop(size=(192, 224)), ToTensor()), "the model needs height 224, and the pipeline gives 192"),
        ((Decode(), Resize(size=(224, 256)), ToTensor()), "the model needs width 224, and the pipeline gives 256"),
    ],
)
def test_check_pipeline_unfit_for_model_is_refused(ops: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_pipeline(Pipeline(ops=ops), channels=3, height=224, width=224)


def test_check_pipeline_that_fits_or_fixes_nothing_passes() -> None:
    check_pipeline(PRESETS["imagenet"], 3, 224, 224)
    check_pipeline(PRESETS["imagenet"], None, None, None)
    check_pipeline(Pipeline(ops=(Decode(), ToTensor())), 3, 224, 224)


def test_normalize_wrong_number_of_channels_is_refused() -> None:
    pipeline = Pipeline(ops=(Decode(), ToTensor(), Normalize(mean=(0.5, 0.5), std=(0.5, 0.5))))
    with pytest.raises(ConfigError, match="mean and std have 2 values for 3 channels"):
        run(noise(4, 4), pipeline)


@pytest.mark.torch
@pytest.mark.shared
def test_preprocess_real_photos_equal_torchvision(shared_assets: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="needs quantkit[torch]")
    reference = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    photos = sorted((shared_assets / "imagenet_samples").iterdir())
    assert len(photos) == 1000
    for photo in photos:
        with Image.open(photo) as image:
            expected = reference(image.convert("RGB")).numpy()
        np.testing.assert_array_equal(preprocess(photo, imagenet_pipeline()), expected, err_msg=photo.name)


@pytest.mark.torch
def test_preprocess_odd_sizes_and_filters_equal_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="needs quantkit[torch]")
    rng = np.random.default_rng(0)
    for turn in range(120):
        height, width = (int(n) for n in rng.integers(1, 500, 2))
        resize, crop = int(rng.integers(1, 60)), tuple(int(n) for n in rng.integers(1, 80, 2))
        name = sorted(FILTERS)[turn % len(FILTERS)]
        size = resize if turn % 2 else (resize, crop[0])
        reference = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode(name)),
                transforms.CenterCrop(crop),
                transforms.ToTensor(),
            ]
        )
        ours = Pipeline(ops=(Decode(), Resize(size=size, interpolation=name), CenterCrop(size=crop), ToTensor()))
        image = noise(height, width, turn)
        np.testing.assert_array_equal(run(image, ours), reference(image).numpy(), err_msg=f"{image.size} {ours}")


@pytest.mark.shared
def test_preprocess_real_photos_equal_plain_reference(shared_assets: Path) -> None:
    for photo in sorted((shared_assets / "imagenet_samples").iterdir())[::40]:
        with Image.open(photo) as image:
            expected = as_torchvision_documents(image.convert("RGB"), 256, (224, 224))
        np.testing.assert_array_equal(preprocess(photo, imagenet_pipeline()), expected, err_msg=photo.name)
