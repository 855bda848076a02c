"""Models in and out of files: damage named, external data mapped, nothing half-written."""

import os
import re
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runs import run, text_model
from onnx import helper, numpy_helper

from quantkit.errors import ModelError, OutputError
from quantkit.files import sha256_file
from quantkit.graph import model as files
from quantkit.graph.model import model_digest, read_model, save_model

RNG = np.random.default_rng(13)


def tiny(**weights):
    values = {"w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)} | weights
    return text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 8, 8] image) => (float[N, 4] logits) {
          c = Conv (image, w)
          p = GlobalAveragePool (c)
          logits = Flatten (p)
        }""",
        **values,
    )


def save_external(model, folder, name="weights.bin"):
    path = folder / "model.onnx"
    ir.save(model, path, external_data=name, size_threshold_bytes=0)
    return path


X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)


def test_save_model_one_file_round_trips(tmp_path):
    model = tiny()
    model.metadata_props["classes"] = "4"
    save_model(model, tmp_path / "m.onnx")
    again = read_model(tmp_path / "m.onnx")
    assert again.metadata_props == {"classes": "4"}
    np.testing.assert_array_equal(run(again, X), run(model, X))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx"]


def test_read_model_external_data_is_mapped(tmp_path):
    path = save_external(tiny(w=RNG.normal(size=(4, 3, 5, 5)).astype(np.float32)), tmp_path)
    model = read_model(path)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    save_model(model, tmp_path / "one.onnx")
    np.testing.assert_array_equal(
        run(tmp_path / "one.onnx", X), run(tiny(w=model.graph.initializers["w"].const_value.numpy()), X)
    )
    assert not (tmp_path / "one.onnx.data").exists()


def test_read_model_small_external_tensors_are_loaded(tmp_path):
    """Shapes and axes must be known to the checker and to shape inference."""
    model = read_model(save_external(tiny(), tmp_path))
    assert isinstance(model.graph.initializers["w"].const_value, ir.Tensor)
    (tmp_path / "weights.bin").unlink()
    assert run(model, X).shape == (2, 4)


def test_read_model_external_data_behind_link_is_refused(tmp_path):
    path = save_external(tiny(), tmp_path)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-weights.bin"
    (tmp_path / "weights.bin").rename(elsewhere)
    (tmp_path / "weights.bin").symlink_to(elsewhere)
    with pytest.raises(ModelError, match=r"the data of 'w' cannot be read \(.*symlink"):
        read_model(path)


def test_save_model_beyond_limit_writes_data_beside_model(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "INLINE_LIMIT_BYTES", 100)
    model = tiny()
    save_model(model, tmp_path / "m.onnx")
    _, data = sorted(file.name for file in tmp_path.iterdir())
    assert re.fullmatch(r"m\.onnx\.[0-9a-f]{12}\.data", data)
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", X), run(model, X))
    save_model(read_model(tmp_path / "m.onnx"), tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", X), run(model, X))
    assert len(list(tmp_path.iterdir())) == 2


def test_save_model_killed_before_model_keeps_old_model_and_data(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "INLINE_LIMIT_BYTES", 100)
    old, new = tiny(), tiny(w=RNG.normal(size=(4, 3, 3, 3)).astype(np.float32))
    save_model(old, tmp_path / "m.onnx")
    save_model(new, tmp_path / "new.onnx")
    script = (
        "import os, sys, pathlib; from quantkit.graph import model as files; files.INLINE_LIMIT_BYTES = 100;"
        "pathlib.Path.replace = lambda *_: os._exit(9);"
        "files.save_model(files.read_model(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "new.onnx", tmp_path / "m.onnx"], check=False)
    assert done.returncode == 9
    assert len(list(tmp_path.glob("m.onnx.*.data"))) == 2
    np.testing.assert_array_equal(run(read_model(tmp_path / "m.onnx"), X), run(old, X))
    save_model(read_model(tmp_path / "new.onnx"), tmp_path / "m.onnx")
    assert len(list(tmp_path.glob("m.onnx.*.data"))) == 1
    np.testing.assert_array_equal(run(read_model(tmp_path / "m.onnx"), X), run(new, X))


def test_save_model_failed_rename_keeps_model_and_data(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "INLINE_LIMIT_BYTES", 100)
    old = tiny()
    save_model(old, tmp_path / "m.onnx")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "replace", full)
    for model in (old, tiny(w=RNG.normal(size=(4, 3, 3, 3)).astype(np.float32))):
        with pytest.raises(OutputError, match="no space left on device"):
            save_model(model, tmp_path / "m.onnx")
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_save_model_smaller_removes_old_data_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "INLINE_LIMIT_BYTES", 100)
    save_model(tiny(), tmp_path / "m.onnx")
    monkeypatch.undo()
    save_model(tiny(), tmp_path / "m.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx"]


def test_save_model_failed_write_keeps_old_file(tmp_path, monkeypatch):
    save_model(tiny(), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(OutputError, match="no space left on device"):
        save_model(tiny(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx"]


def test_model_digest_covers_file_and_external_data(tmp_path):
    save_model(tiny(), tmp_path / "m.onnx")
    assert model_digest(tmp_path / "m.onnx") == sha256_file(tmp_path / "m.onnx")
    path = save_external(tiny(), tmp_path)
    first = model_digest(path)
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[7] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert model_digest(path) != first


def test_read_model_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.onnx: there is no such model file"):
        read_model(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no graph"),
        (b"<html><body>404</body></html>", "is not an ONNX file, or is truncated"),
        (b"\x00" * 64, "is not an ONNX file, or is truncated"),
    ],
    ids=["empty", "a web page", "zeros"],
)
def test_read_model_other_content_is_refused(tmp_path, content, message):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_read_model_truncated_is_refused(tmp_path, share):
    save_model(tiny(), tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"m\.onnx: "):
        read_model(tmp_path / "m.onnx")


def test_read_model_missing_external_data_is_named(tmp_path):
    path = save_external(tiny(), tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"its external data file 'weights\.bin' is missing; put it in"):
        read_model(path)


def test_read_model_short_external_data_is_named(tmp_path):
    path = save_external(tiny(), tmp_path)
    os.truncate(tmp_path / "weights.bin", 100)
    with pytest.raises(ModelError, match=r"weights\.bin: is too short for the tensor 'w'"):
        read_model(path)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/passwd", "sub/../../weights.bin", "C:\\weights.bin"])
def test_read_model_external_data_outside_folder_is_refused(tmp_path, place):
    proto = onnx.load(save_external(tiny(), tmp_path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="is outside the model's folder"):
        read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("position", [0, -1])
def test_read_model_nan_in_weight_is_refused_by_name(tmp_path, position):
    weight = np.ones((4, 3, 3, 3), np.float32)
    weight.reshape(-1)[position] = np.nan
    save_model(tiny(w=weight), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="the weight 'w' contains NaN"):
        read_model(tmp_path / "m.onnx")


def test_read_model_nan_in_constant_node_is_refused(tmp_path):
    model = tiny()
    proto = ir.to_proto(model)
    nan = numpy_helper.from_array(np.asarray("nan", np.float32), "value")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=nan))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="the weight 'k' contains NaN"):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("op_type", ["QuantizeLinear", "QLinearConv", "DynamicQuantizeLinear"])
def test_read_model_quantized_is_refused_by_name_of_node(tmp_path, op_type):
    proto = ir.to_proto(tiny())
    proto.graph.node.add(op_type=op_type, name="the_node", input=["image"], output=["q"])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=f"is already quantized: node 'the_node' is {op_type}; give the fp32 model"):
        read_model(tmp_path / "m.onnx")


def test_read_model_quantized_is_read_where_allowed(tmp_path):
    from graph_runs import quantize

    int8, _, _ = quantize(tiny(), X)
    save_model(int8, tmp_path / "int8.onnx")
    assert len(read_model(tmp_path / "int8.onnx", allow_quantized=True).graph) == len(int8.graph)


def test_read_model_invalid_graph_is_refused_in_one_line(tmp_path):
    proto = ir.to_proto(tiny())
    proto.graph.node[0].input[1] = "nowhere"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="is not a valid ONNX model") as caught:
        read_model(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
