"""Arrays and iterables from Python: what is taken, and what is named as wrong."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_forms import labels_of, pictures, write_folder

from quantkit.config.pipeline import PRESETS
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import find_labelled_images
from quantkit.data.given_set import whole_source
from quantkit.data.item import content_digest
from quantkit.data.preprocess import preprocess
from quantkit.data.sources import iterables
from quantkit.data.sources.open import open_source
from quantkit.errors import CalibrationSetError, ImageError, LabelError, NumericError, QuantkitError, UsageError

ARRAYS = np.random.default_rng(22).normal(size=(9, 3, 4, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2] * 3)


class Loader:
    """Batches of arrays and labels, as torch's DataLoader gives them."""

    def __init__(self, batch: int = 4, arrays: Any = ARRAYS) -> None:
        self.batch, self.arrays, self.passes = batch, arrays, 0

    def __len__(self) -> int:
        return -(-len(self.arrays) // self.batch)

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for start in range(0, len(self.arrays), self.batch):
            arrays = self.arrays[start : start + self.batch]
            yield arrays, LABELS[start : start + len(arrays)]


class ByIndex:
    """A torch data set by index: no __iter__."""

    def __len__(self) -> int:
        return len(ARRAYS)

    def __getitem__(self, index: int) -> Any:
        return ARRAYS[index], int(LABELS[index])


class Reader:
    """An onnxruntime CalibrationDataReader."""

    def __init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        self._feeds = iter([{"input": one[None]} for one in ARRAYS])

    def get_next(self) -> Any:
        return next(self._feeds, None)


class Tensor:
    """What is used of a torch tensor."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape

    def detach(self) -> "Tensor":
        return self

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> Any:
        return self.array


GIVEN: dict[str, Any] = {
    "array and labels": lambda: (ARRAYS, LABELS),
    "tensor and labels": lambda: (Tensor(ARRAYS), Tensor(LABELS)),
    "generator": lambda: ((one, label) for one, label in zip(ARRAYS, LABELS, strict=True)),
    "list": lambda: list(zip(ARRAYS, LABELS.tolist(), strict=True)),
    "dictionaries": lambda: [{"pixel_values": one, "label": label} for one, label in zip(ARRAYS, LABELS, strict=True)],
    "loader": Loader,
    "loader of tensors": lambda: [
        (Tensor(one[None]), Tensor(label[None])) for one, label in zip(ARRAYS, LABELS, strict=True)
    ],
    "data set by index": ByIndex,
}


@pytest.mark.parametrize("form", GIVEN)
def test_open_source_python_forms_same_arrays_and_labels(form: str) -> None:
    found = find_labelled_images(GIVEN[form]())
    assert found.array_shape == (3, 4, 5)
    assert found.labels is not None
    assert found.labels.tolist() == LABELS.tolist()
    for item, array in zip(found.items, ARRAYS, strict=True):
        np.testing.assert_array_equal(item.read(), array)
        assert item.digest() == content_digest(array)


@pytest.mark.parametrize(
    "given", [ARRAYS, Tensor(ARRAYS), list(ARRAYS), Reader()], ids=["array", "tensor", "list", "reader"]
)
def test_open_source_arrays_without_labels(given: Any) -> None:
    found = open_source(given)
    assert found.labels is None
    assert len(found) == len(ARRAYS)


def test_preprocess_leaves_ready_arrays_as_they_are() -> None:
    item = open_source(ARRAYS).items[2]
    np.testing.assert_array_equal(preprocess(item, PRESETS["imagenet"]), ARRAYS[2])
    out = np.empty((3, 4, 5), np.float32)
    preprocess(item, PRESETS["imagenet"], out)
    np.testing.assert_array_equal(out, ARRAYS[2])


def test_iterable_of_encoded_images_has_digests_of_files(tmp_path: Path) -> None:
    images = pictures(2)
    found = open_source(list(zip(images.values(), labels_of(images), strict=True)))
    assert found.array_shape is None
    folder = find_labelled_images(write_folder(tmp_path / "zoo", images))
    assert [item.digest() for item in found.items] == [item.digest() for item in folder.items]


def test_arrays_balanced_set_is_drawn_by_class() -> None:
    chosen = build_calibration_set((ARRAYS, LABELS), count=6)
    assert chosen.per_class == {0: 2, 1: 2, 2: 2}
    assert [item.digest() for item in chosen.items] == [image.sha256 for image in chosen.images]


def test_arrays_manifest_needs_them_again(tmp_path: Path) -> None:
    build_calibration_set((ARRAYS, LABELS), count=6).save(tmp_path / "set.csv")
    loaded = CalibrationSet.load(tmp_path / "set.csv")
    with pytest.raises(CalibrationSetError, match="the images were in memory and not in a file; give them again"):
        _ = loaded.items
    assert CalibrationSet.load(tmp_path / "set.csv", images=(ARRAYS, LABELS)).verify() == ()


def test_arrays_whole_source_keeps_order_and_refuses_repeats() -> None:
    assert [image.name for image in whole_source(open_source(ARRAYS)).images][:2] == ["image-000000", "image-000001"]
    with pytest.raises(CalibrationSetError, match="image 3: the image is identical to image-000001"):
        whole_source(open_source(ARRAYS[[0, 1, 2, 1]]))


def _with(position: int, value: Any) -> list[Any]:
    arrays: list[Any] = list(ARRAYS)
    arrays[position] = value
    return arrays


def _nan(value: float) -> Any:
    array = ARRAYS[5].copy()
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            _with(5, _nan(np.nan)),
            NumericError,
            r"image 5: 1 of 60 values are NaN or infinite, the first at \[1, 2, 3\]",
        ),
        (_with(5, _nan(np.inf)), NumericError, r"image 5: 1 of 60 values are NaN or infinite"),
        (_with(5, ARRAYS[5].astype(np.float64)), ImageError, r"item 5: the array has dtype float64, not float32"),
        (_with(5, (ARRAYS[5] * 9).astype(np.uint8)), ImageError, r"item 5: the array has dtype uint8, not float32"),
        (
            _with(5, ARRAYS[5][:, :2]),
            ImageError,
            r"image 5: the array has shape \[3, 2, 5\], and the first \[3, 4, 5\]",
        ),
        (_with(5, ARRAYS[5][0]), ImageError, r"image 5: the array has shape \[4, 5\], not \[C, H, W\]"),
        (_with(5, b"png"), ImageError, "image 5: arrays and encoded images are mixed"),
        (_with(5, "a.png"), UsageError, "item 5: str is not an array"),
        (_with(5, (ARRAYS[5], 1, 2)), UsageError, "item 5: the item has 3 values"),
        (_with(5, {"a": 1}), UsageError, "item 5: the dictionary has the keys a"),
        (_with(5, (ARRAYS[5], 1)), LabelError, "8 of 9 images have no label, image 0 first"),
        ([(one, -1) for one in ARRAYS], LabelError, "item 0: '-1' is not a class index"),
        ([(one, 0.5) for one in ARRAYS], LabelError, "item 0: '0.5' is not a class index"),
        ((ARRAYS, LABELS[:4]), LabelError, r"labels of shape \[4\] for 9 images"),
        ((ARRAYS, LABELS - 1), LabelError, "label -1 of image 0 is not a class index"),
        ((ARRAYS, LABELS.astype(float)), LabelError, "the labels are float64, not integers"),
        (ARRAYS[0], ImageError, r"\[3, 4, 5\], not \[N, C, H, W\]"),
        (ARRAYS[:0], ImageError, r"\[0, 3, 4, 5\], not"),
        (ARRAYS.astype(np.float16), ImageError, "the array has dtype float16"),
        ([], CalibrationSetError, "it yielded no images"),
        (3, UsageError, "int is not an image source"),
        ([(ARRAYS[:4], LABELS[:3])], LabelError, "item 0: 3 labels for 4 images"),
    ],
)
def test_arrays_wrong_ones_are_named_with_position(given: Any, error: type[QuantkitError], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(given)


def test_arrays_nan_is_named_when_read() -> None:
    arrays = ARRAYS.copy()
    arrays[7, 0, 0, 0] = np.nan
    items = open_source(arrays).items
    items[6].read()
    with pytest.raises(NumericError, match="image 7: 1 of 60 values are NaN"):
        items[7].read()


def test_iterable_without_an_end_asks_for_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterables, "MEMORY_BYTES", 10_000)
    endless = itertools.cycle(ARRAYS)
    with pytest.raises(UsageError, match=r"cycle: 42 images of an iterable without len\(\).*give limit=N"):
        open_source(endless)
    assert len(open_source(itertools.cycle(ARRAYS), limit=5)) == 5


def test_iterator_that_was_read_before_gives_nothing() -> None:
    given = iter(ARRAYS)
    open_source(given)
    with pytest.raises(CalibrationSetError, match="it yielded no images; create it again"):
        open_source(given)


def test_loader_larger_than_memory_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterables, "MEMORY_BYTES", 500)
    loader = Loader()
    found = open_source(loader)
    for _ in range(2):
        for item, array in zip(found.items, ARRAYS, strict=True):
            np.testing.assert_array_equal(item.read(), array)
    assert loader.passes == 2  # the second pass serves both rounds: all images fit the window


def test_loader_read_again_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterables, "MEMORY_BYTES", 500)
    monkeypatch.setattr(iterables, "_WINDOW", 2)
    found = open_source(Loader())
    for index in (8, 0, 4, 3, 8):
        np.testing.assert_array_equal(found.items[index].read(), ARRAYS[index])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (ARRAYS[:6], "image 8: it ended after 6 images and had more in the first pass"),
        (ARRAYS[::-1], "image 8: it was another image in the first pass; do not shuffle"),
        (ARRAYS[:, :, :2], "image 8: it was another image in the first pass"),
    ],
)
def test_loader_that_gives_others_the_second_time_is_named(
    second: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iterables, "MEMORY_BYTES", 500)
    loader = Loader()
    found = open_source(loader)
    loader.arrays = second
    with pytest.raises(ImageError, match=message):
        found.items[8].read()


@pytest.mark.parametrize("limit", [0, -1])
def test_iterable_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(UsageError, match=f"invalid number of images {limit}"):
        open_source(iter(ARRAYS), limit=limit)


def test_loader_with_two_inputs_is_refused() -> None:
    class Two(Reader):
        def get_next(self) -> Any:
            return {"a": ARRAYS[:1], "b": ARRAYS[:1]}

    with pytest.raises(UsageError, match=r"get_next\(\) must return one named array"):
        open_source(Two())  # type: ignore[arg-type]


def test_torch_data_loader_and_data_set_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
    data = torch.utils.data.TensorDataset(torch.from_numpy(ARRAYS), torch.from_numpy(LABELS))
    for given in (data, torch.utils.data.DataLoader(data, batch_size=4)):
        found = find_labelled_images(given)
        assert found.labels is not None
        assert found.labels.tolist() == LABELS.tolist()
        np.testing.assert_array_equal(np.stack([item.read() for item in found.items]), ARRAYS)


def test_hugging_face_dataset_gives_undecoded_images_and_class_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    images = pictures(2)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])})
    rows = {"image": [{"bytes": data, "path": None} for data in images.values()], "label": labels_of(images)}
    found = find_labelled_images(datasets.Dataset.from_dict(rows, features=features))
    assert [item.read() for item in found.items] == list(images.values())
    assert found.labels is not None
    assert found.labels.tolist() == labels_of(images)
    assert found.class_names == {0: "cat", 1: "dog", 2: "emu"}
