"""What a check finds in build files: the kind, the line, the mend; and what it leaves alone."""

import random
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from vacc_files import BUILD, COMPILE, LATER_BUILD, changed

from quantkit.errors import UsageError
from quantkit.vendors.vacc.check import build_files, check_document, check_file
from quantkit.vendors.vacc.dialects import dialect_of
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.findings import Finding, abbreviated, edit_distance, misspelt
from quantkit.vendors.vacc.onnx_facts import OnnxFacts

Change = tuple[str, str]


def found(text: str, *changes: Change, facts: OnnxFacts | None = None) -> list[Finding]:
    """What a changed file is found to have beyond what the unchanged one has, notes left out."""
    document = changed(text, *changes)
    known = {finding.message for finding in check_document(changed(text), dialect_of(changed(text)), facts=facts)}
    return [
        finding
        for finding in check_document(document, dialect_of(document), facts=facts)
        if finding.message not in known and finding.severity != "note"
    ]


def test_check_good_files_have_no_findings() -> None:
    for text in (BUILD, LATER_BUILD):
        assert [f for f in check_document(changed(text), "build") if f.severity != "note"] == []
    (only,) = (f for f in check_document(changed(COMPILE), "compile") if f.severity != "note")
    assert (only.severity, only.message) == ("warning", "`backend.quantize.house_option` is unknown")


CASES: list[tuple[str, Sequence[Change], str, str, str | None]] = [
    # What the README of the public zoo names.
    (COMPILE, [("calibrate_mode", "alibrate_mode")], "error", "probably `calibrate_mode`", "write `calibrate_mode`"),
    (
        COMPILE,
        [("  path: ./d", "  work_dir: ./d")],
        "error",
        "`work_dir` is a key of the build dialect",
        "write `path`",
    ),
    # Misspelt keys, on every level.
    (COMPILE, [("get_data_num", "get_date_num")], "error", "probably `get_data_num`", None),
    (COMPILE, [("crop_size", "cropsize")], "error", "probably `crop_size`", None),
    (COMPILE, [("extra_ops", "extra-ops")], "error", "probably `extra_ops`", None),
    (COMPILE, [("workspace:", "worksapce:")], "error", "probably `workspace`", None),
    (BUILD, [("per_channel", "per_chanel")], "error", "probably `per_channel`", None),
    (BUILD, [("do_quantization", "do_quantisation")], "error", "probably `do_quantization`", None),
    # Keys that resemble nothing, or another key from afar.
    (COMPILE, [("    # our", "    warp: 9\n    # our")], "warning", "`backend.quantize.warp` is unknown", None),
    (
        COMPILE,
        [("    # our", "    skip_layers: 9\n    # our")],
        "warning",
        "is unknown",
        "did you mean `skip_conv_layers`?",
    ),
    (
        COMPILE,
        [("  dtype: int8", "  dtype: int8\n  calibrate_range: 0.9")],
        "warning",
        "is unknown here",
        "move it to",
    ),
    # Keys of the other dialect.
    (
        COMPILE,
        [("calibrate_mode", "quant_mode")],
        "error",
        "`quant_mode` is a key of the build dialect",
        "calibrate_mode",
    ),
    (COMPILE, [("process_ops", "transform_ops")], "error", "`transform_ops` is a key of the build", "`process_ops`"),
    (COMPILE, [("shape:", "inputs:")], "error", "`inputs` is a key of the build dialect", "write `shape`"),
    (BUILD, [("quant_mode", "calibrate_mode")], "error", "`calibrate_mode` is a key of the compile", "`quant_mode`"),
    (BUILD, [("  common:", "  dtype: int8\n  common:")], "error", "`dtype` is a key of the compile", "do_quantization"),
    (LATER_BUILD, [("dtype: int8", "dtype: itn8")], "error", "not a known value", "write `int8`"),
    (LATER_BUILD, [("calibrate_mode", "alibrate_mode")], "error", "probably `calibrate_mode`", None),
    (BUILD, [("work_dir", "path")], "error", "`path` is a key of the compile dialect", "write `work_dir`"),
    (BUILD, [("work_dir", "env_recheck: 1\n  work_dir")], "warning", "known only in the compile dialect", None),
    (COMPILE, [("name: small_int8", "model: small")], "warning", "`model` is not the name", "write `name: small`"),
    # Values.
    (
        COMPILE,
        [("calibrate_mode: percentile", "calibrate_mode: kl")],
        "error",
        "not a known value",
        "write `kl_divergence`",
    ),
    (COMPILE, [("calibrate_mode: percentile", "calibrate_mode: magic")], "error", "not a known value", None),
    (COMPILE, [("dtype: int8", "dtype: itn8")], "error", "not a known value", "write `int8`"),
    (COMPILE, [("dtype: int8", "dtype: int4")], "warning", "not a known value", None),
    (COMPILE, [("type: onnx", "type: caffe")], "warning", "not a known value", None),
    (COMPILE, [("type: onnx", "type: ONNX")], "warning", "not a known value", "write `onnx`"),
    (
        COMPILE,
        [("  suffix: JPEG", "  suffix: JPEG\n    suffix: JPEG")],
        "warning",
        "occurs more than once, in lines",
        None,
    ),
    (COMPILE, [("  suffix: JPEG", "  suffix: png\n    suffix: JPEG")], "error", "in lines 28 and 29", "readers differ"),
    (BUILD, [("type: vacc", "type: vaac")], "error", "not a known value", "write `vacc`"),
    (COMPILE, [("_channel: true", "_channel: maybe")], "error", 'must be true or false, not "maybe"', None),
    (COMPILE, [("_channel: true", "_channel: yes")], "warning", 'should be true, not "yes"', None),
    (COMPILE, [("_num: 1000", '_num: "1000"')], "warning", 'should be 1000, not "1000"', None),
    (COMPILE, [("_num: 1000", "_num: 0")], "error", "must be a number of images, 1 or more, not 0", None),
    (COMPILE, [("_num: 1000", "_num:")], "warning", "`dataset.sampler.get_data_num` has no value", None),
    (
        COMPILE,
        [("    # our", "    calibrate_range: 99.999\n    #")],
        "error",
        "99.999 percent is written 0.99999",
        None,
    ),
    (COMPILE, [("    # our", "    calibrate_range: 7\n    #")], "error", "must be a fraction above 0.5", None),
    (COMPILE, [("    # our", "    weight_scale: pow2\n    #")], "error", "weight_scale: pow2", None),
    (COMPILE, [("    # our", "    skip_conv_layers: 3\n    #")], "warning", "should be [3], not 3", None),
    (COMPILE, [("    # our", "    skip_conv_layers: [-1]\n    #")], "error", "indices counted from 0", None),
    (COMPILE, [("    # our", "    skip_conv_layers: {a: 1}\n    #")], "error", "must be a list of whole numbers", None),
    (COMPILE, [("[1, 3, 224, 224]", "{a: 1}")], "error", "must be a list of dimensions, not {a: 1}", None),
    (
        BUILD,
        [("do_quantization: true", 'do_quantization: "debug"')],
        "error",
        'must be true or false, not "debug"',
        "`debug` is a value of `engine.type`",
    ),
    (BUILD, [("do_quantization: true", "do_quantization: fp16")], "warning", 'should be false, not "fp16"', None),
    (
        COMPILE,
        [("name: small_int8", "name: small_fp16")],
        "warning",
        "the name contains fp16, and the build is int8",
        None,
    ),
    # Operations.
    (COMPILE, [("type: Resize", "type: Resise")], "error", "the operation Resise is unknown", "write `Resize`"),
    (COMPILE, [("type: Resize", "type: Warp")], "warning", "the operation Warp is unknown", None),
    (COMPILE, [("  - type: ToTensor", "  - kind: ToTensor")], "error", "an operation has no `type`", None),
    (COMPILE, [("size: [256, 256]", "size: [200, 256]")], "error", "crop [224, 224] is larger than the image", None),
    (COMPILE, [("size: [256, 256]", "size: 256")], "warning", "should be [256, 256], not 256", None),
    (COMPILE, [("size: [256, 256]", "size: [256]")], "error", "must be [height, width] in pixels, not [256]", None),
    (COMPILE, [("size: [256, 256]", "size:")], "warning", "`size` has no value", "write [height, width]"),
    (
        COMPILE,
        [("    - 224\n    - 224", "    - 192\n    - 224")],
        "error",
        "gives [192, 224], the input is [224, 224]",
        None,
    ),
    (
        COMPILE,
        [("mean: [0.485, 0.456, 0.406]", "mean: [123.7, 116.3, 103.5]")],
        "error",
        "pixels 0..255",
        "div255: false",
    ),
    (COMPILE, [("std: [0.229, 0.224, 0.225]", "std: [58.4, 57.1, 57.4]")], "error", "pixels 0..255", "div255: false"),
    (COMPILE, [("std: [0.229, 0.224, 0.225]", "std: [0.229]")], "error", "mean has 3 values and std 1", None),
    (COMPILE, [("std: [0.229, 0.224, 0.225]", "std: [0.229, 0, 0.225]")], "error", "numbers above 0", None),
    (BUILD, [("div255: False", "div255: True")], "error", "divided by 255 first", "write `div255: false`"),
    (BUILD, [("      div255: False\n", "")], "error", "divided by 255 first", "write `div255: false`"),
    (BUILD, [("div255: False", "div255: null")], "warning", "`div255` has no value", "write true or false"),
    (
        COMPILE,
        [("    mean: [0.485", "    div255: false\n    mean: [0.485")],
        "error",
        "scale of pixels 0..1, but pixels are not divided by 255",
        "write `div255: true`",
    ),
    (
        COMPILE,
        [("    mean: [0.485", "    norm_type: None\n    mean: [0.485")],
        "warning",
        "is the string None",
        "`null`",
    ),
    # What is not there.
    (COMPILE, [("  checkpoint: small.onnx   # the model\n", "")], "error", "`frontend.checkpoint` is not given", None),
    (COMPILE, [("    get_data_num: 1000\n", "")], "warning", "`dataset.sampler.get_data_num` is not given", None),
    (
        COMPILE,
        [("    calibrate_mode: percentile\n", "")],
        "warning",
        "`backend.quantize.calibrate_mode` is not given",
        None,
    ),
    (
        COMPILE,
        [("  path: photos", "  path: ILSVRC2012"), ("1000", "50")],
        "warning",
        "50 images for 1000 classes",
        None,
    ),
]


@pytest.mark.parametrize(("text", "changes", "severity", "message", "fix"), CASES, ids=[case[3][:40] for case in CASES])
def test_check_one_fault_gives_one_finding_on_its_line(
    text: str, changes: Sequence[Change], severity: str, message: str, fix: str | None
) -> None:
    findings = found(text, *changes)
    assert [finding.severity for finding in findings] == [severity], [str(finding) for finding in findings]
    (finding,) = findings
    assert message in finding.message
    assert fix is None or fix in (finding.fix or "")
    assert finding.line is not None
    rows = changed(text, *changes).text.splitlines()
    if "not given" not in message:
        word = finding.key.rpartition(".")[2].partition("[")[0]
        near = rows[finding.line - 1]
        assert word in near or near.strip().startswith("-") or "mean" in near or "std" in near, near


def test_check_two_inputs_or_free_sides_give_no_finding_on_picture() -> None:
    several = ("input.1: [1, 3, 224, 224]", "input.1: [1, 3, 1, 1]\n    mask: [1, 9]")
    assert found(COMPILE, several) == []
    assert found(COMPILE, ("input.1: [1, 3, 224, 224]", "input.1: [[1, 3, 9, 9], [1, 3, 99, 99]]")) == []


def test_check_pictures_that_keep_aspect_are_accepted() -> None:
    letterbox = "size: [224, -1]\n    adaptive_side: long\n  - type: Pad\n    pad_to_square: true"
    assert found(COMPILE, ("size: [256, 256]", letterbox)) == []
    (finding,) = found(COMPILE, ("size: [256, 256]", letterbox.replace("224", "160")))
    assert "is larger than the image, [160, 160]" in finding.message


def test_check_empty_sections_give_findings_without_crash() -> None:
    for text in ("frontend: 3\nbackend: []\n", "model: {}\nengine:\n", "name: x\ngraph: {extra_ops: }\n"):
        document = Document.parse(text)
        assert all(finding.message for finding in check_document(document, dialect_of(document)))


FACTS = OnnxFacts(
    inputs={"input.1": (None, 3, 224, 224)}, outputs={"out": (None, 10)}, convolutions=4, ends_in_softmax=False
)


@pytest.mark.parametrize(
    ("change", "message", "fix"),
    [
        (("input.1:", "input.2:"), "the model has no input `input.2`", "write `input.1`"),
        (("[1, 3, 224, 224]", "[1, 3, 224]"), "the shape [1, 3, 224] of `input.1` does not fit the model's", None),
        (("[1, 3, 224, 224]", "[1, 1, 224, 224]"), "does not fit the model's [any, 3, 224, 224]", None),
        (("    # our own key", "    skip_conv_layers: [3, 4]"), "there is no convolution 4: the model has 4", "remove"),
    ],
)
def test_check_against_model_names_differences(change: Change, message: str, fix: str | None) -> None:
    finding = next(f for f in found(COMPILE, change, facts=FACTS) if message in f.message)
    assert finding.severity == "error"
    assert fix is None or fix in (finding.fix or "")


@pytest.mark.parametrize(
    ("opset", "outputs", "message"),
    [
        (10, {"out": (None, 10)}, None),
        (12, {"out": (None, 10)}, None),
        (13, {"out": (None, 10)}, "the model has opset 13; the vendor exports classifiers with opset 10 to 12"),
        (17, {"boxes": (1, 9, 4), "scores": (1, 9)}, None),
        (18, {"boxes": (1, 9, 4), "scores": (1, 9)}, "the model has opset 18; the vendor exports models with opset 10"),
        (None, {"out": (None, 10)}, None),
    ],
)
def test_check_opset_above_vendor_is_a_warning(
    opset: int | None, outputs: dict[str, tuple[int | None, ...]], message: str | None
) -> None:
    facts = OnnxFacts(FACTS.inputs, outputs, 4, False, opset)
    findings = [f for f in check_document(changed(COMPILE), "compile", facts=facts) if "opset" in f.message]
    assert [finding.severity for finding in findings] == ([] if message is None else ["warning"])
    assert message is None or (message in findings[0].message and findings[0].key == "frontend.checkpoint")


MEAN = "mean: [0.485, 0.456, 0.406]"
TO_BGR = ("  - type: DecodeImage\n", "  - type: DecodeImage\n  - type: CvtColor\n    code: COLOR_RGB2BGR\n")
CAFFE = "div255: false\n    mean: [103.939, 116.779, 123.68]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(MEAN, "mean: [0.406, 0.456, 0.485]")], "ImageNet's in BGR order, and the image is RGB"),
        ([(MEAN, CAFFE), ("std: [0.229, 0.224, 0.225]", "std: [1, 1, 1]")], "in BGR order, and the image is RGB"),
        ([(MEAN, "mean: [0.408, 0.459, 0.482]")], "in BGR order"),  # [104, 117, 123] / 255
        ([(MEAN, "mean: [0.4465, 0.4822, 0.4914]")], "CIFAR-10's in BGR order"),
        ([(MEAN, "mean: [0.456, 0.485, 0.406]")], "in neither RGB nor BGR order"),
        ([TO_BGR, (MEAN, "mean: [0.456, 0.485, 0.406]")], "in neither RGB nor BGR order"),
        ([TO_BGR, (MEAN, "mean: [0.406, 0.456, 0.485]")], None),
        ([TO_BGR], None),  # as PaddleOCR's text detectors are trained
        ([(MEAN, "mean: [0.481, 0.458, 0.408]")], None),  # CLIP's
        ([(MEAN, "mean: [0.3257, 0.369, 0.3223]")], None),  # of a data set that is not known
        ([(MEAN, "mean: [0.5, 0.5, 0.5]")], None),
        ([TO_BGR, ("RGB2BGR", "RGB2YCrCb"), (MEAN, "mean: [0.406, 0.456, 0.485]")], None),
        ([("DecodeImage\n", "CustomFunc\n    func_name: f\n"), (MEAN, "mean: [0.406, 0.456, 0.485]")], None),
    ],
)
def test_check_mean_in_other_channel_order_is_a_warning(changes: Sequence[Change], message: str | None) -> None:
    findings = found(COMPILE, *changes)
    assert [finding.severity for finding in findings] == ([] if message is None else ["warning"]), findings
    assert message is None or message in findings[0].message
    assert message is None or findings[0].key == f"dataset.process_ops[{3 + (TO_BGR in changes)}].mean"


def test_check_model_input_without_shape_is_named() -> None:
    facts = OnnxFacts({**FACTS.inputs, "mask": (1, 9)}, FACTS.outputs, 4, False)
    messages = [f.message for f in check_document(changed(COMPILE), "compile", facts=facts)]
    assert "the model's input `mask` has no shape" in messages


def test_check_second_softmax_is_a_warning() -> None:
    facts = OnnxFacts(FACTS.inputs, FACTS.outputs, 4, ends_in_softmax=True)
    (finding,) = (f for f in check_document(changed(COMPILE), "compile", facts=facts) if "softmax" in f.message)
    assert (finding.severity, finding.key) == ("warning", "graph.extra_ops.type")


def test_check_reads_checkpoint_if_present(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x, float[2,3,1,1] w) => (float[1,2,8,8] y) '
        "{ y = Conv(x, w) }"
    )
    onnx.save(model, tmp_path / "small.onnx")
    path = tmp_path / "file.yaml"
    path.write_text(COMPILE.replace("    # our own key", "    skip_conv_layers: [1]"))
    messages = [f.message for f in check_file(path).findings if f.severity == "error"]
    assert any("the model has no input `input.1`" in message for message in messages)
    (tmp_path / "small.onnx").write_bytes(b"not a model")
    (broken,) = (f for f in check_file(path).findings if f.severity == "error")
    assert "not an ONNX model" in broken.message
    (tmp_path / "small.onnx").unlink()
    assert any("does not exist here" in f.message for f in check_file(path).findings if f.severity == "note")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"{i}.JPEG" for i in range(1000)], None),
        ([f"sub/{i}.JPEG" for i in range(1000)], None),
        ([f"{i}.JPEG" for i in range(999)], "1000 images are needed, and"),
        ([f"{i}.jpeg" for i in range(1000)], "ends in .JPEG (found: jpeg)"),
        ([], "has no files"),
    ],
)
def test_check_calibration_folder_faults_are_errors(tmp_path: Path, names: list[str], message: str | None) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in names:
        (tmp_path / "photos" / name).touch()
    path = tmp_path / "file.yaml"
    path.write_text(COMPILE)
    errors = [finding.message for finding in check_file(path).findings if finding.severity == "error"]
    assert len(errors) == (message is not None)
    assert message is None or message in errors[0]


def test_check_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").touch()
    path = tmp_path / "file.yaml"
    path.write_text(COMPILE)
    assert any("is not a folder" in f.message for f in check_file(path).findings if f.severity == "error")


def test_check_classes_are_counted_by_model() -> None:
    document = changed(COMPILE, ("1000", "8"))
    messages = [finding.message for finding in check_document(document, "compile", facts=FACTS)]
    assert "8 images for 10 classes: at least 2 classes have no image" in messages


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML|not a build file|mapping"),
        (b"model: !!python/name:os.system\n", "refused"),
    ],
)
def test_check_unreadable_files_are_findings(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    report = check_file(path)
    assert [finding.severity for finding in report.findings] == ["error"]
    assert any(word in report.findings[0].message for word in message.split("|"))
    assert check_file(tmp_path / "gone.yaml").findings[0].message == "cannot read the file (no such file or directory)"


def test_check_text_in_other_encoding_is_read_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(BUILD.replace("model:", "model: # 模型", 1).encode("gb18030"))
    (finding,) = (f for f in check_file(path).findings if f.severity != "note")
    assert finding.message == "the file is not UTF-8; read as gb18030"


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("alibrate_mode", ["calibrate_mode", "quantize_mode"], "calibrate_mode"),
        ("Calibrate-Mode", ["calibrate_mode"], "calibrate_mode"),
        ("caliberate_moed", ["calibrate_mode"], "calibrate_mode"),
        ("caliberat_moed", ["calibrate_mode"], None),
        ("int4", ["int8"], None),
        ("input_2", ["input_1"], None),
        ("skip_dense_layers", ["skip_conv_layers"], None),
        ("input_layout", ["output_layout"], None),
        ("tp", ["b2s", "tq"], None),
        ("pth", ["path"], None),
        ("sufix", ["suffix"], "suffix"),
        ("fp61", ["fp16"], None),
    ],
)
def test_check_misspelt_keys_are_suggested(word: str, known: list[str], meant: str | None) -> None:
    assert misspelt(word, known) == meant


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("calib_mode", "calibrate_mode"),
        ("skip_layers", "skip_conv_layers"),
        ("skip_conv", "skip_conv_layers"),
        ("layers_skip", None),  # another order
        ("mode", None),  # one word says too little
        ("nsamples", None),  # `sampler` is only alike
        ("enable_dense_to_matmul", None),
    ],
)
def test_check_abbreviated_keys_are_suggested(word: str, meant: str | None) -> None:
    assert abbreviated(word, ["sampler", "calibrate_mode", "skip_conv_layers", "enable_graph_partition"]) == meant


def test_check_keys_of_other_tasks_are_known() -> None:
    language = ("  type: tvm\n", "  type: huggingface\n  nsamples: 128\n  name: alpaca\n  seqlen: 512\n")
    compiler = ("  quantize:\n", "  compile: {output_ddr: [-1, 1], enable_dense_to_matmul: true}\n  quantize:\n")
    assert found(COMPILE, language, compiler, ("suffix: JPEG", "suffix: null")) == []


def test_check_unreadable_values_leave_rest_to_be_checked() -> None:
    changes = [
        ("do_quantization: true", 'do_quantization: "debug"'),
        ("input: [1, 3, 224, 224]", "input: {a: 1}"),
        ("  checkpoint: small.onnx\n", ""),
        ("name: small", "name: [small]"),
        ("  path: photos", "  path: ILSVRC2012"),
        ("get_data_num: 1000", "get_data_num: 50"),
        ("    - type: DecodeImage\n", "    - DecodeImage\n"),
    ]
    messages = [finding.message for finding in found(BUILD, *changes)]
    expected = ("`engine.common.do_quantization` must be", "`model.inputs.input` must be", "`model.checkpoint` is not",
                "`model.name` must be", "50 images for 1000 classes", "`dataset.transform_ops[0]`")  # fmt: skip
    assert len(messages) == len(expected), messages
    for start in expected:
        assert any(message.startswith(start) for message in messages), (start, messages)


def test_edit_distance_by_hand() -> None:
    # kitten -> sitting: two substitutions and an insertion; ca -> ac is one swap.
    assert [edit_distance(*pair) for pair in (("kitten", "sitting"), ("ca", "ac"), ("", "abc"), ("abc", "abc"))] == [
        3, 1, 3, 0
    ]  # fmt: skip


def test_check_damaged_text_never_crashes() -> None:
    """Letters put in, taken out and moved, and lines moved: the check ends with findings, whatever it meets."""
    rng = random.Random(7)
    for _ in range(150):
        text = list(rng.choice((BUILD, COMPILE)))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(text))
            text[place : place + rng.choice((0, 1, 9))] = rng.choice(
                ("", ":", "- ", "\n", "  ", "[", "}", "&a ", "*a", "null", "\t", "'", "#", "-1", "|", "é", "!!x ")
            )
        try:
            document = Document.parse("".join(text))
            dialect = dialect_of(document)
        except Exception as error:
            assert type(error).__name__ == "YamlError"  # noqa: PT017 - any other error is the failure sought
            continue
        assert all(finding.message for finding in check_document(document, dialect))


def test_build_files_of_a_folder_leave_out_other_yaml_files(tmp_path: Path) -> None:
    contents = {
        "b.yaml": b"",
        "a.yml": COMPILE.encode(),
        "sub/c.yaml": b"frontend: [",  # broken, and still a build file
        "sub/flow.yaml": b"{name: x, 'frontend': {}}",
        "sub/wide.yaml": BUILD.encode("utf-16"),
        "d.json": b"",
        "sub/train.yaml": b"name: ecbsr\nnetwork_g:\n  type: ECBSR\ndatasets: {}\n",
        "sub/hooks.yaml": b"repos:\n- repo: local\n",
        "sub/llm.yml": b"model:\n  model_name: llama\n# frontend: none\n",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = build_files([tmp_path, tmp_path / "d.json", tmp_path / "sub" / "hooks.yaml"])
    files, others = ([path.relative_to(tmp_path).as_posix() for path in paths] for paths in (found.files, found.others))
    assert files == ["a.yml", "b.yaml", "sub/c.yaml", "sub/flow.yaml", "sub/wide.yaml", "d.json", "sub/hooks.yaml"]
    assert others == ["sub/hooks.yaml", "sub/llm.yml", "sub/train.yaml"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="there is no build file below this folder"):
        build_files([tmp_path / "none"])


# Every kind of finding in the vendor's files, with how many files have it. Each kind was compared with the files.
SHARED_FINDINGS = {
    ("error", "probably `calibrate_mode`"): 1,
    ("error", "`work_dir` is a key of the build dialect"): 1,
    ("warning", "images for 1000 classes"): 30,
    ("warning", "`dataset.sampler.get_data_num` is not given"): 4,
    ("warning", "`norm_type: None` is the string None"): 2,
    ("warning", "`div255` has no value"): 1,
    ("warning", "`engine.common.do_quantization` should be false"): 1,
    ("warning", "`graph.extra_ops.extra_ops` is unknown here"): 1,
    ("warning", "`model` is not the name in the compile dialect"): 1,
    ("warning", "in neither RGB nor BGR order"): 1,
    ("warning", "the name contains fp16, and the build is int8"): 1,
    ("warning", "the name contains int8, and the build is fp16"): 1,
}


@pytest.mark.shared
def test_check_shared_files_have_known_findings_only(shared_vacc: Path) -> None:
    reports = [check_file(path) for path in build_files([shared_vacc / "configs"]).files]
    assert len(reports) == 200
    assert {report.dialect for report in reports} == {"build", "compile"}
    counts = dict.fromkeys(SHARED_FINDINGS, 0)
    for report in reports:
        for finding in report.findings:
            if finding.severity == "note":
                continue
            kinds = [kind for kind in SHARED_FINDINGS if kind[0] == finding.severity and kind[1] in finding.message]
            assert len(kinds) == 1, f"{report.path}:{finding.line}: {finding}"
            counts[kinds[0]] += 1
    assert counts == SHARED_FINDINGS
    wrong = {Path(report.path).name for report in reports if report.count("error")}
    assert wrong == {
        "cv__classification__mobilenet_v3__ppcls_mobilenetv3.yaml",
        "cv__text_recognition__cnn_ctc__config.yaml",
    }
