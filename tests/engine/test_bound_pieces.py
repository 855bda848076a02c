"""Memory that is used again for every batch holds the same values as new memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny_model

from quantkit.engine.tap import TappedSession, TapReader
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.taps import observed_tensors


def random_batches(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def assert_reads_the_same(session: TappedSession, batches: Sequence[np.ndarray]) -> TapReader:
    reader = TapReader(session)
    for x in batches:
        expected = dict(session.tensors(x))
        for name, value in reader.tensors(x):
            np.testing.assert_array_equal(value, expected.pop(name))
        assert not expected
    return reader


@pytest.fixture
def in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TappedSession:
    monkeypatch.setattr("quantkit.engine.tap.PIECE_ELEMENTS", 1)
    prepared = prepare(read_model(tiny_model(tmp_path / "tiny.onnx"))).model
    return TappedSession(prepared, [str(value.name) for node in prepared.graph for value in node.outputs])


def test_reader_of_pieces_gives_the_same_bits(in_pieces: TappedSession) -> None:
    assert len(in_pieces.partitions) > 1
    reader = assert_reads_the_same(in_pieces, random_batches(*[(2, 3, 8, 8)] * 3))
    assert reader._bound is not None


def test_reader_takes_batches_of_any_size_in_any_order(in_pieces: TappedSession) -> None:
    shapes = [(count, 3, 8, 8) for count in (1, 1, 2, 1, 3, 3, 3, 1, 1)]
    assert_reads_the_same(in_pieces, random_batches(*shapes))


def test_reader_takes_a_batch_that_is_not_contiguous(in_pieces: TappedSession) -> None:
    batches = random_batches(*[(2, 8, 8, 3)] * 3)
    assert_reads_the_same(in_pieces, [np.moveaxis(x, -1, 1) for x in batches])


def test_reader_of_a_real_model_gives_the_same_bits_in_less_memory(shared_assets: Path) -> None:
    prepared = prepare(read_model(shared_assets / "squeezenet1_1.onnx"))
    session = TappedSession(prepared.model, observed_tensors(prepared.model).tapped)
    reader = assert_reads_the_same(session, random_batches(*[(1, 3, 224, 224)] * 2))
    assert reader._bound is not None
    arrays = reader._bound._arrays.values()
    used = max(one.ctypes.data + one.nbytes for one in arrays) - min(one.ctypes.data for one in arrays)
    assert used < sum(one.nbytes for one in arrays) / 2


def test_reader_follows_shapes_that_depend_on_values() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        net (float[1, 1, 1, 8] input) => (float[m] out) {
            doubled = Add(input, input)
            places = NonZero(doubled)
            found = Cast <to = 1> (places)
            one = Constant <value = float {1.0}> ()
            shifted = Add(found, one)
            axes = Constant <value = int64[1] {0}> ()
            sums = ReduceSum <keepdims = 0> (shifted, axes)
            out = Relu(sums)
        }
    """
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    x = np.zeros((1, 1, 1, 8), np.float32)
    batches = []
    for count in (3, 3, 5, 5, 2):
        batches.append(x.copy())
        batches[-1][..., :count] = count
    assert_reads_the_same(TappedSession(model, ["doubled", "shifted", "out"]), batches)
