import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny_model, write_images

from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.item import FileItem
from quantkit.data.preprocess import preprocess
from quantkit.engine.batches import Batching, load_batch
from quantkit.engine.observe import observe
from quantkit.engine.tap import TappedSession
from quantkit.errors import ImageError, NumericError
from quantkit.stats.observed import Observed
from quantkit.stats.observer import Observer

LOAD = partial(preprocess, pipeline=Pipeline(ops=(Decode(), ToTensor())))
NAMES = ["input", "ar", "sr"]


def last(session: TappedSession, paths: list[FileItem], **options: Any) -> Observed:
    *_, chunk = observe(session, paths, LOAD, **options)
    return chunk.observed()


@pytest.fixture
def paths(tmp_path: Path) -> list[FileItem]:
    return [FileItem(path) for path in sorted(write_images(tmp_path / "images", per_class=10).rglob("*.png"))]


def same(one: Observed, other: Observed) -> bool:
    names = list(one.tensors)
    return names == list(other.tensors) and all(one.tensors[name].identical(other.tensors[name]) for name in names)


def test_observe_any_threads_order_and_resumption_give_same_bits(tmp_path: Path, paths: list[FileItem]) -> None:
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx")), NAMES)
    whole = last(session, paths, threads=1)
    threaded, backwards = last(session, paths, threads=3), last(session, paths[::-1], threads=2)
    resumed = last(session, paths, threads=2, before=last(session, paths[:7], threads=2))
    assert same(threaded, whole)
    assert same(backwards, whole)
    assert same(resumed, whole)
    for one in (threaded.extremes, backwards.extremes[::-1], resumed.extremes):
        np.testing.assert_array_equal(one, whole.extremes)


@pytest.mark.parametrize("batch", [1, 3])
def test_observe_keeps_extremes_of_each_image(tmp_path: Path, paths: list[FileItem], batch: int) -> None:
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx", batch=str(batch))), NAMES)
    extremes = last(session, paths[:7], threads=2, batching=Batching(batch)).extremes
    assert extremes.shape == (7, 3, 2)
    for path, row in zip(paths[:7], extremes, strict=True):
        seen = {name: value[0] for name, value in session.run(load_batch([path], LOAD, batch))[1]}
        np.testing.assert_array_equal(row, [[seen[name].min(), seen[name].max()] for name in NAMES])


def test_observe_fixed_batch_filling_is_not_counted(tmp_path: Path, paths: list[FileItem]) -> None:
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx", batch="3")), NAMES)
    statistics = last(session, paths[:7], threads=2, batching=Batching(3)).tensors
    assert statistics["input"].count == 7 * 3 * 8 * 8
    expected = Observer()
    for path in paths[:7]:
        expected.observe(load_batch([path], LOAD, 1))
    assert statistics["input"].identical(expected.statistics())


def test_observe_chunks_end_at_convergence_points_and_end(tmp_path: Path, paths: list[FileItem]) -> None:
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx")), NAMES)
    chunks = list(observe(session, paths, LOAD, threads=2))
    assert [chunk.images for chunk in chunks if chunk.at_convergence_point] == [16, 24, 36, 40]


def test_observe_chunks_are_of_whole_batches(
    tmp_path: Path, paths: list[FileItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device compiles or chooses its kernels for a shape: a batch of another size costs more than it brings."""
    clock = itertools.count()
    monkeypatch.setattr("quantkit.engine.observe.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr("quantkit.engine.observe.CHUNK_SECONDS", 1.5)
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx")), NAMES)
    ends = [chunk.images for chunk in observe(session, paths[:24], LOAD, Batching(4, fill=False), threads=1)]
    assert ends == [4, 8, 12, 16, 20, 24]


def test_observe_progress_counts_every_image_once(tmp_path: Path, paths: list[FileItem]) -> None:
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx")), NAMES)
    seen: list[int] = []
    last(session, paths, threads=3, progress=seen.append)
    assert sorted(seen) == list(range(1, 41))


def test_observe_nan_is_refused_with_tensor_and_image(tmp_path: Path, paths: list[FileItem]) -> None:
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx", gain=1e25)), NAMES)
    with pytest.raises(NumericError, match=r"\.png: \d+ of \d+ values of the tensor \w+ are NaN or infinite"):
        last(session, paths, threads=2)


def test_observe_undecodable_image_is_named(tmp_path: Path, paths: list[FileItem]) -> None:
    session = TappedSession(ir.load(tiny_model(tmp_path / "m.onnx")), NAMES)
    paths[20].path.write_bytes(paths[20].read()[:60])
    with pytest.raises(ImageError, match=paths[20].path.name):
        last(session, paths, threads=2)


def test_load_batch_is_filled_with_last_image(paths: list[FileItem]) -> None:
    x = load_batch(paths[:2], LOAD, 4)
    assert x.shape == (4, 3, 8, 8)
    np.testing.assert_array_equal(x[2], x[1])
    np.testing.assert_array_equal(x[3], x[1])


@pytest.mark.parametrize("batch", [1, 2])
def test_observe_tokens_in_front_of_batch_are_all_counted(tmp_path: Path, paths: list[FileItem], batch: int) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["": 17]>
    rows (float[{batch}, 3, 8, 8] input) => (float[24, {batch}, 8] tokens) {{
        moved = Transpose <perm = [1, 2, 0, 3]> (input)
        shape = Constant <value = int64[3] {{24, {batch}, 8}}> ()
        flat = Reshape(moved, shape)
        tokens = Relu(flat)
    }}
    """
    session = TappedSession(ir.serde.deserialize_model(onnx.parser.parse_model(text)), ["tokens"])
    *_, chunk = observe(session, paths[:6], LOAD, Batching(batch), threads=2)
    expected = Observer()
    for path in paths[:6]:
        expected.observe(load_batch([path], LOAD, 1))
    found = chunk.observed()
    assert found.tensors["tokens"].identical(expected.statistics())
    assert found.extremes.shape == (6, 1, 2)
    assert (found.extremes[:, 0, 0].min(), found.extremes[:, 0, 1].max()) == (
        found.tensors["tokens"].lo,
        found.tensors["tokens"].hi,
    )
