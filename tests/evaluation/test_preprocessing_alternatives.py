"""Alternatives to a preprocessing: well-known ones, each different in one dimension."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.config.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRESETS,
    CenterCrop,
    Decode,
    Normalize,
    Pipeline,
    Resize,
    ToTensor,
    imagenet_pipeline,
)
from quantkit.data.preprocess import check_pipeline
from quantkit.evaluation.preprocessing_alternatives import (
    Dimension,
    geometry_alternatives,
    geometry_key,
    interpolation_alternatives,
    starting_pipeline,
    value_alternatives,
)

IMAGENET = Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
IMAGENET_BGR = Normalize(mean=IMAGENET_MEAN[::-1], std=IMAGENET_STD[::-1])


def values(pipeline: Pipeline, *, near: bool = False) -> dict[str, Pipeline]:
    return {one.words: one.pipeline for one in value_alternatives(pipeline, near=near)}


def test_values_of_imagenet_are_the_four_other_scalings_and_the_other_order() -> None:
    assert list(values(imagenet_pipeline())) == [
        "colours in the order BGR",
        "pixels from 0 to 255",
        "pixels from 0 to 1",
        "pixels from -1 to 1",
        "ImageNet's mean subtracted from 0 to 255",
    ]


def test_values_keep_the_geometry() -> None:
    given = imagenet_pipeline()
    assert all(one.ops[1:3] == given.ops[1:3] for one in values(given).values())


def test_values_near_the_given_ones_are_left_out() -> None:
    lite = Pipeline(ops=(Decode(), ToTensor(divisor=1.0), Normalize(mean=(127.0,) * 3, std=(128.0,) * 3)))
    assert "pixels from -1 to 1" not in values(lite)
    assert "pixels from 0 to 1" in values(lite)


@pytest.mark.parametrize("normalize", [IMAGENET, IMAGENET_BGR], ids=["as listed", "reversed"])
def test_values_order_swapped_keeps_imagenet_mean_with_its_colours(normalize: Normalize) -> None:
    rgb = Pipeline(ops=(Decode(), ToTensor(), normalize))
    assert values(rgb)["colours in the order BGR"].ops[-1] == IMAGENET_BGR
    bgr = Pipeline(ops=(Decode(mode="BGR"), ToTensor(), normalize))
    assert values(bgr)["colours in the order RGB"].ops[-1] == IMAGENET


def test_values_order_swapped_keeps_an_unknown_mean_in_place() -> None:
    own = Normalize(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert values(Pipeline(ops=(Decode(), ToTensor(), own)))["colours in the order BGR"].ops[-1] == own


def test_values_of_bgr_have_the_mean_in_the_order_of_the_channels() -> None:
    found = values(Pipeline(ops=(Decode(mode="BGR"), ToTensor())))
    assert found["ImageNet's mean and std"].ops[-1] == IMAGENET_BGR
    normalize = found["ImageNet's mean subtracted from 0 to 255"].ops[-1]
    assert isinstance(normalize, Normalize)
    assert normalize.mean == (103.939, 116.779, 123.68)


def test_values_near_include_the_reverse_order_of_the_given_mean_and_std() -> None:
    assert (
        values(imagenet_pipeline(), near=True)["ImageNet's mean and std in the reverse order"].ops[-1] == IMAGENET_BGR
    )
    grey = Normalize(mean=(0.5,) * 3, std=(0.5,) * 3)
    assert not [one for one in values(Pipeline(ops=(Decode(), ToTensor(), grey)), near=True) if "reverse" in one]


def test_values_of_grey_images_have_no_order_and_no_colours() -> None:
    assert set(values(PRESETS["digits"])) == {"pixels from 0 to 255", "pixels from 0 to 1"}
    assert set(values(PRESETS["digits"], near=True)) == {
        "pixels from 0 to 255",
        "pixels from 0 to 1",
        "MNIST's mean and std",
    }


def test_values_near_include_those_of_cifar_for_small_images_only() -> None:
    assert "CIFAR's mean and std" in values(PRESETS["cifar10"], near=True)
    assert "CIFAR's mean and std" not in values(imagenet_pipeline(), near=True)
    assert "MNIST's mean and std" not in values(PRESETS["cifar10"], near=True)


def test_values_with_alpha_scale_four_channels_alike() -> None:
    found = values(Pipeline(ops=(Decode(mode="RGBA"), ToTensor())))
    assert found["pixels from -1 to 1"].ops[-1] == Normalize(mean=(0.5,) * 4, std=(0.5,) * 4)
    assert found["colours in the order BGRA"].decode.mode == "BGRA"
    assert "ImageNet's mean and std" not in found


def test_geometry_of_imagenet_is_every_crop_but_its_own() -> None:
    assert [one.words for one in geometry_alternatives(imagenet_pipeline(interpolation="bicubic"))] == [
        "shorter side 235, centre crop 224",
        "shorter side 224, centre crop 224",
        "squashed to 224 x 224",
        "squashed to 256 x 256, centre crop 224 x 224",
    ]


def test_geometry_keeps_filter_and_values() -> None:
    start = imagenet_pipeline(interpolation="bicubic")
    for one in geometry_alternatives(start):
        resize = one.pipeline.ops[1]
        assert isinstance(resize, Resize)
        assert resize.interpolation == "bicubic"
        assert one.pipeline.ops[-2:] == start.ops[-2:]


def test_geometry_of_a_rectangle_is_squashed_only() -> None:
    start = Pipeline(ops=(Decode(), Resize(size=256), CenterCrop(size=(112, 96)), ToTensor()))
    assert [one.words for one in geometry_alternatives(start)] == [
        "squashed to 112 x 96",
        "squashed to 128 x 109, centre crop 112 x 96",
    ]


@pytest.mark.parametrize(
    "ops", [(), (CenterCrop(size=(8, 8)),), (Resize(size=64),)], ids=["nothing", "crop only", "own sizes"]
)
def test_geometry_without_a_resize_or_a_size_has_no_alternatives(ops: tuple[Resize | CenterCrop, ...]) -> None:
    assert list(geometry_alternatives(Pipeline(ops=(Decode(), *ops, ToTensor())))) == []


def test_interpolation_leaves_out_the_given_filter() -> None:
    assert [one.words for one in interpolation_alternatives(imagenet_pipeline())] == [
        "bicubic",
        "bilinear without antialias (OpenCV)",
        "nearest without antialias",
    ]
    assert list(interpolation_alternatives(Pipeline(ops=(Decode(), ToTensor())))) == []


STARTS = st.builds(
    starting_pipeline,
    st.integers(1, 4),
    st.integers(1, 400),
    st.integers(1, 400),
    whole=st.booleans(),
)


@settings(max_examples=30)
@given(STARTS)
def test_alternatives_keep_channels_and_size_and_change_one_dimension(start: Pipeline) -> None:
    found = [
        *value_alternatives(start, near=True),
        *geometry_alternatives(start),
        *interpolation_alternatives(start),
    ]
    for one in found:
        assert start.output_size is not None
        check_pipeline(one.pipeline, start.channels, *start.output_size)
        same_pixels = geometry_key(one.pipeline) == geometry_key(start)
        assert same_pixels == (one.dimension in (Dimension.SCALING, Dimension.ORDER))
    assert len({one.pipeline for one in found}) == len(found)
    assert start not in {one.pipeline for one in found}


def test_start_for_a_photograph_is_torchvisions() -> None:
    assert starting_pipeline(3, 224, 224) == imagenet_pipeline()


def test_start_for_a_small_image_is_not_cropped() -> None:
    assert starting_pipeline(3, 32, 32) == PRESETS["cifar10"]
    assert starting_pipeline(1, 8, 8) == PRESETS["digits"]


def test_start_for_whole_numbers_does_not_scale() -> None:
    assert starting_pipeline(3, 224, 224, whole=True).ops[-1] == ToTensor(divisor=1.0)
