"""Both dialects as typed models, and from one to the other."""

from pathlib import Path
from typing import Any

import pytest
from vacc_files import BUILD, COMPILE, LATER_BUILD, changed

from quantkit.errors import VendorFileError
from quantkit.vendors.vacc.convert import convert, framework_of, read_spec
from quantkit.vendors.vacc.dialects import CompileDialect, CompileOptions, ExtraOps, dialect_of, read_file
from quantkit.vendors.vacc.document import Document


def test_read_spec_of_compile_file_has_all_fields() -> None:
    spec = read_spec(Document.parse(COMPILE))
    assert (spec.name, spec.backend.type, spec.backend.dtype) == ("small_int8", "tvm_vacc", "int8")
    assert (spec.frontend.checkpoint, spec.frontend.type) == ("small.onnx", "onnx")
    assert spec.inputs == {"input.1": [1, 3, 224, 224]}
    assert spec.backend.quantize is not None
    assert (spec.backend.quantize.calibrate_mode, spec.backend.quantize.quantize_per_channel) == ("percentile", True)
    assert spec.backend.quantize.model_extra == {"house_option": {"a": 1}}
    assert spec.dataset is not None
    assert (spec.dataset.path, spec.dataset.sampler.suffix, spec.dataset.count) == ("photos", "JPEG", 1000)
    assert spec.graph.extra_ops == ExtraOps(type="softmax")


def test_read_spec_of_build_and_compile_are_equal() -> None:
    there = convert(Document.parse(BUILD), "compile")
    assert read_spec(Document.parse(there.text)) == read_spec(Document.parse(BUILD))


def test_convert_build_file_round_trips() -> None:
    there = convert(Document.parse(BUILD), "compile")
    assert there.notes == ()
    assert there.data["backend"] == {
        "type": "tvm_vacc",
        "dtype": "int8",
        "quantize": {"calibrate_mode": "percentile", "quantize_per_channel": True},
    }
    assert there.data["graph"] == {"extra_ops": {"type": None}}
    assert there.data["workspace"] == {"path": "./deploy_weights/", "enable_ir": False, "save_log": True}
    back = convert(Document.parse(there.text), "build")
    assert back.data == Document.parse(BUILD).data


def test_convert_to_build_notes_what_it_cannot_express() -> None:
    document = changed(
        COMPILE,
        ("dtype: fp32", "dtype: int64"),
        ("type: onnx", "type: huggingface"),
        ("    # our own key\n", "    skip_matmul_layers: [0]\n"),
    )
    rendering = convert(document, "build")
    assert rendering.notes == (
        "frontend.type: huggingface is left out: the build dialect uses the file's suffix",
        "frontend.dtype: int64 is left out: the build dialect has no such key",
        "engine.calibration.skip_matmul_layers: kept, but not known in this dialect",
        "engine.calibration.house_option: kept, but not known in this dialect",
    )
    assert rendering.data["engine"]["common"] == {"do_quantization": True}
    assert rendering.data["engine"]["calibration"]["skip_matmul_layers"] == [0]


def test_convert_other_precisions_become_later_build_file() -> None:
    rendering = convert(changed(COMPILE, ("dtype: int8", "dtype: fp16int8")), "build")
    engine = rendering.data["engine"]
    assert engine["dtype"] == "fp16int8"
    assert "common" not in engine
    calibration = {"calibrate_mode": "percentile", "quantize_per_channel": True, "house_option": {"a": 1}}
    assert engine["calibration"] == calibration
    back = read_spec(Document.parse(rendering.text))
    assert back.backend.dtype == "fp16int8"
    own = convert(changed(LATER_BUILD, ("dtype: int8", "dtype: fp16int8")), "build")
    assert read_spec(Document.parse(own.text)) == read_spec(changed(LATER_BUILD, ("dtype: int8", "dtype: fp16int8")))


def test_convert_other_engine_is_kept_and_noted() -> None:
    document = changed(BUILD, ("type: vacc", "type: debug"))
    there = convert(document, "compile")
    assert there.notes == ("backend.type: debug is kept from engine.type; no known compile file has it",)
    assert convert(Document.parse(there.text), "build").data == document.data


def test_convert_values_read_otherwise_than_written_are_noted() -> None:
    rendering = convert(changed(BUILD, ("do_quantization: true", "do_quantization: fp16")), "compile")
    assert rendering.data["backend"]["dtype"] == "fp16"
    assert rendering.notes == ('engine.common.do_quantization should be false, not "fp16"; interpreted as that',)


def test_convert_keys_of_other_dialect_keep_meaning() -> None:
    document = changed(
        COMPILE, ("  path: ./deploy_weights/", "  work_dir: ./out"), ("name: small_int8", "model: small")
    )
    rendering = convert(document, "build")
    assert rendering.data["workspace"] == {"work_dir": "./out"}
    assert rendering.data["model"]["name"] == "small"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("get_data_num: 1000", "get_data_num: many", r"`dataset.sampler.get_data_num` must be a number, not \"many\""),
        ("dataset:\n", "dataset: 3\nrest:\n", "`dataset` must be a section"),
        ("- type: DecodeImage", "- DecodeImage", r"`dataset.process_ops\[0\]` must be a section"),
        ("shape:\n    input.1: [1, 3, 224, 224]", "shape: [1, 3]", "`frontend.shape` must be a section"),
    ],
)
def test_read_file_unreadable_value_is_named_with_line(old: str, new: str, message: str) -> None:
    with pytest.raises(VendorFileError, match=rf"file.yaml, line \d+: {message}"):
        read_file(changed(COMPILE, (old, new)), "compile")


@pytest.mark.parametrize(
    ("old", "new", "path", "value"),
    [
        ("get_data_num: 1000", 'get_data_num: "50"', "sampler.get_data_num", 50),
        ("get_data_num: 1000", "get_data_num: 50.0", "sampler.get_data_num", 50),
        ("quantize_per_channel: true", "quantize_per_channel: yes", "quantize.quantize_per_channel", True),
        ("quantize_per_channel: true", "quantize_per_channel: 0", "quantize.quantize_per_channel", False),
        ("    # our own key", "    skip_conv_layers: 3", "quantize.skip_conv_layers", [3]),
        ("    # our own key", '    skip_conv_layers: "0, 2"', "quantize.skip_conv_layers", [0, 2]),
        ("name: small_int8", "name: 50", "name", "50"),
        ("[1, 3, 224, 224]", "1x3x224x224", "frontend.shape", {"input.1": [1, 3, 224, 224]}),
        ("suffix: JPEG", "suffix: [jpg, png]", "sampler.suffix", ["jpg", "png"]),
    ],
)
def test_read_file_unambiguous_value_is_read(old: str, new: str, path: str, value: Any) -> None:
    file = read_file(changed(COMPILE, (old, new)), "compile")
    assert isinstance(file, CompileDialect)
    assert file.backend is not None
    assert file.dataset is not None
    holders: dict[str, Any] = {
        "sampler": file.dataset.sampler,
        "quantize": file.backend.quantize,
        "frontend": file.frontend,
    }
    holder, _, key = path.rpartition(".")
    assert getattr(holders.get(holder, file), key) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; write one with `quantkit vamc write`"),
        ("# nothing\n", "the file is empty"),
        ("- 1", "a build file is a mapping of sections"),
        ("just words", "a build file is a mapping of sections"),
        ("services: {}\n", "not a build file: neither `frontend` and `backend`"),
        ("model: resnet50\n", "not a build file"),
    ],
)
def test_convert_other_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(VendorFileError, match=message):
        dialect_of(Document.parse(text))


@pytest.mark.parametrize(
    ("checkpoint", "framework"),
    [
        ("a/b.onnx", "onnx"),
        ("a.torchscript.pt", "pytorch"),
        ("A.H5", "keras"),
        (["net.cfg", "net.weights"], "darknet"),
        ({"config": "net.cfg", "weights": "net.weights"}, "darknet"),
        ("meta-llama/Llama-2-7b-hf", None),
        (None, None),
    ],
)
def test_read_spec_framework_follows_from_file_name(checkpoint: Any, framework: str | None) -> None:
    assert framework_of(checkpoint) == framework


def test_read_spec_later_build_files_equal_earlier_ones() -> None:
    later, earlier = read_spec(changed(LATER_BUILD)), read_spec(changed(BUILD))
    assert later.backend.compile == CompileOptions(data_transport_mode=1)
    assert later.model_copy(update={"backend": later.backend.model_copy(update={"compile": None})}) == earlier
    nms = ("add_extra_ops_to_graph:\n    type: null", "extra_ops:\n    type: yolov5_nms")
    head = read_spec(changed(LATER_BUILD, nms)).graph.extra_ops
    assert head is not None
    assert head.type == "yolov5_nms"
    assert read_spec(changed(LATER_BUILD, ("dtype: int8", "dtype: fp16"))).backend.dtype == "fp16"


@pytest.mark.shared
def test_convert_shared_files_round_trip(shared_vacc: Path) -> None:
    """Files rewritten in their own dialect mean the same; build files come back from the other one equal."""
    unequal = []
    for path in sorted((shared_vacc / "configs").rglob("*.yaml")):
        document = Document.load(path)
        assert document.text == path.read_text(encoding="utf-8"), path
        dialect = dialect_of(document)
        assert dialect == path.parent.name
        assert read_spec(Document.parse(convert(document, dialect).text)) == read_spec(document), path
        as_build = document if dialect == "build" else Document.parse(convert(document, "build").text)
        as_compile = Document.parse(convert(as_build, "compile").text)
        back = convert(as_compile, "build")
        assert read_spec(Document.parse(back.text)) == read_spec(as_build), path
        if back.data != as_build.data:
            unequal.append(path.name)
    # Its `do_quantization: fp16` is no value of the dialect; it comes back as the false that it means.
    assert unequal == ["classification__densenet__keras_densenet.yaml"]


def test_convert_values_without_place_are_noted() -> None:
    rendering = convert(changed(BUILD, ("type: vacc", "type: vacc\n  quantize: 3")), "compile")
    assert rendering.data["backend"]["quantize"] == {"calibrate_mode": "percentile", "quantize_per_channel": True}
    assert rendering.notes == (
        "backend.quantize: another value is left out, because a key of the same meaning is given",
    )
