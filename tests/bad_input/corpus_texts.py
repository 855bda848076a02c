"""Text files that people and programs write: settings, labels, sets, records, lists."""

import json

from bad_input.bad_item import BadInput

from quantkit.errors import CalibrationSetError, ConfigError, LabelError, QuantkitError, VendorFileError

_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{now}: &{now} [{', '.join([f'*{before}'] * 9)}]\n" for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)
_DEEP = "[" * 20_000
_HUGE_NUMBER = "9" * 5000


def _items(kind: str, error: type[QuantkitError], refused: dict[str, tuple[str | bytes, str]]) -> tuple[BadInput, ...]:
    return tuple(
        BadInput(kind, name, content if isinstance(content, bytes) else content.encode(), result, error)
        for name, (content, result) in refused.items()
    )


def _folder(kind: str, name: str, result: str, error: type[QuantkitError]) -> BadInput:
    return BadInput(kind, name, lambda path: path.mkdir(), result, error)


def _loop(kind: str, name: str, result: str, error: type[QuantkitError]) -> BadInput:
    return BadInput(kind, name, lambda path: path.symlink_to(path.name), result, error)


PROJECTS = (
    *_items(
        "project",
        ConfigError,
        {
            "bomb/quantkit.yaml": (_BOMB, r"line 2: aliases \(\*a\) are not allowed"),
            "deep/quantkit.yaml": (f"model: {_DEEP}", "line 1: nested too deeply"),
            "half_letter/quantkit.yaml": ('model: "\\ud800"', "line 1: lone surrogate in escape sequence"),
            "deep_keys/quantkit.yaml": ("".join(" " * i + "a:\n" for i in range(500)), "line 101: nested too deeply"),
            "twice/quantkit.yaml": ("model: a.onnx\nmodel: b.onnx\n", "found duplicate key"),
            "object/quantkit.yaml": (
                "model: !!python/object/apply:os.system [id]\n",
                "could not determine a constructor",
            ),
            "name/quantkit.yaml": ("model: !!python/name:os.system\n", "could not determine a constructor"),
            "binary_tag/quantkit.yaml": ("model: !!binary '*'\n", "model|binary"),
            "list/quantkit.yaml": ("- model\n", "must be a mapping"),
            "word/quantkit.yaml": ("model\n", "must be a mapping"),
            "empty/quantkit.yaml": ("", "must be a mapping"),
            "two_documents/quantkit.yaml": ("model: a\n---\nmodel: b\n", "but found another document"),
            "unfinished/quantkit.yaml": ("model: 'a\n", "line 2"),
            "tab/quantkit.yaml": ("model:\n\tx: 1\n", "line 2"),
            "control/quantkit.yaml": ("model: a\x07b\n", "not YAML"),
            "utf16/quantkit.yaml": ("model: a.onnx\n".encode("utf-16"), "is not UTF-8 text"),
            "latin1/quantkit.yaml": ("model: é.onnx\n".encode("latin-1"), "is not UTF-8 text"),
            "binary/quantkit.yaml": (bytes(range(256)), "is not UTF-8 text"),
            "unknown_key/quantkit.yaml": ("modle: a.onnx\n", "there is no key 'modle'; did you mean model"),
            "number_as_key/quantkit.yaml": ("1: a.onnx\n", "Keys should be strings"),
            "nothing_as_key/quantkit.yaml": ("null: a.onnx\n", "Keys should be strings"),
            "date/quantkit.yaml": ("model: 2026-11-23\n", "model: "),
            "wrong_kind/quantkit.yaml": ("per_channel: perhaps\n", "per_channel: "),
            "no_fraction/quantkit.yaml": ("fraction: .nan\n", "fraction: "),
            "too_large_fraction/quantkit.yaml": ("fraction: 1.5\n", "fraction: "),
            "huge_number/quantkit.yaml": (f"version: {_HUGE_NUMBER}\n", "version|not YAML"),
            "huge/quantkit.yaml": ("# comment\n" * 200_000, "too large for a settings file"),
            "zero_byte_in_path/quantkit.yaml": ('model: "a\\0b.onnx"\n', "model contains a zero byte"),
        },
    ),
    _folder("project", "folder/quantkit.yaml", "cannot be read", ConfigError),
    _loop("project", "loop/quantkit.yaml", "cannot be read", ConfigError),
)

PIPELINES = _items(
    "pipeline",
    ConfigError,
    {
        "no_ops.yaml": ("opps: []\n", "has the single key ops"),
        "not_a_list.yaml": ("ops: decode\n", "ops"),
        "empty_ops.yaml": ("ops: []\n", "ops must be: decode"),
        "no_such_op.yaml": ("ops:\n- op: rotate\n", "rotate"),
        "wrong_order.yaml": ("ops:\n- op: to_tensor\n- op: decode\n", "ops must be: decode"),
        "zero_size.yaml": ("ops:\n- op: decode\n- {op: resize, size: 0}\n- op: to_tensor\n", "greater than 0"),
        "huge_size.yaml": (
            f"ops:\n- op: decode\n- {{op: resize, size: {_HUGE_NUMBER}}}\n- op: to_tensor\n",
            "not YAML|size",
        ),
        "nan_mean.yaml": (
            "ops:\n- op: decode\n- op: to_tensor\n- {op: normalize, mean: [.nan, 0, 0], std: [1, 1, 1]}\n",
            "mean.*finite",
        ),
        "infinite_std.yaml": (
            "ops:\n- op: decode\n- op: to_tensor\n- {op: normalize, mean: [0, 0, 0], std: [.inf, 1, 1]}\n",
            "std.*finite",
        ),
        "tiny_std.yaml": (
            "ops:\n- op: decode\n- op: to_tensor\n- {op: normalize, mean: [0, 0, 0], std: [1.0e-200, 1, 1]}\n",
            "too large or too small for float32",
        ),
        "zero_std.yaml": (
            "ops:\n- op: decode\n- op: to_tensor\n- {op: normalize, mean: [0, 0, 0], std: [0, 1, 1]}\n",
            "std.*greater than 0",
        ),
        "infinite_divisor.yaml": ("ops:\n- op: decode\n- {op: to_tensor, divisor: .inf}\n", "divisor.*finite"),
        "uneven.yaml": (
            "ops:\n- op: decode\n- op: to_tensor\n- {op: normalize, mean: [0], std: [1, 1, 1]}\n",
            "mean has 1 values and std 3",
        ),
    },
)

BUILD_FILES = (
    *_items(
        "build file",
        VendorFileError,
        {
            "bomb.yaml": (_BOMB, "more than 50000 values with expanded aliases"),
            "self.yaml": ("a: &a [*a]\n", "line 1: an alias refers to a value that contains it"),
            "object.yaml": ("model: !!python/object/apply:os.system [id]\n", "line 1: the tag .* is refused"),
            "deep.yaml": (f"model: {_DEEP}", "line 1: nested too deeply"),
            "list_as_key.yaml": ("? [a, b]\n: c\n", "line 1"),
            "two_documents.yaml": ("a: 1\n---\nb: 2\n", "line"),
            "unfinished.yaml": ("name: 'a\n", "line"),
            "no_alias.yaml": ("name: *nowhere\n", "line 1"),
            "huge.yaml": ("# comment\n" * 200_000, "too large for a build file"),
            "word.yaml": ("name\n", "neither|not a build file|dialect|section"),
            "empty.yaml": ("", "empty|neither|not a build file|dialect"),
            "neither_dialect.yaml": ("a: 1\n", "neither|not a build file|dialect"),
            "binary.yaml": (bytes(range(256)), "line|not YAML|neither"),
        },
    ),
    _folder("build file", "folder.yaml", "cannot read the file", VendorFileError),
    _loop("build file", "loop.yaml", "cannot read the file", VendorFileError),
)

VDSP = (
    *_items(
        "vdsp_params",
        VendorFileError,
        {
            "empty.json": ("", "not JSON"),
            "cut.json": ('{"OpType": "FUSION', "not JSON"),
            "list.json": ("[]", "not a vdsp_params file: it has no OpType"),
            "no_op_type.json": ("{}", "it has no OpType"),
            "no_config.json": ('{"OpType": "X"}', "not a vdsp_params file: OpConfig"),
            "list_as_config.json": ('{"OpType": "X", "OpConfig": []}', "not a vdsp_params file: OpConfig"),
            "nan_mean.json": ('{"OpType": "X", "OpConfig": {"Mean": [NaN]}}', "OpConfig.Mean"),
            "infinite_std.json": ('{"OpType": "X", "OpConfig": {"Std": [Infinity]}}', "OpConfig.Std"),
            "no_width.json": ('{"OpType": "X", "OpConfig": {"OimageWidth": 0}}', "OpConfig.OimageWidth"),
            "word_as_width.json": ('{"OpType": "X", "OpConfig": {"OimageWidth": "wide"}}', "OpConfig.OimageWidth"),
            "deep.json": ("[" * 200_000, "not JSON"),
            "huge_number.json": (f'{{"OpType": {_HUGE_NUMBER}}}', "not JSON"),
            "binary.json": (bytes(range(256)), "not JSON"),
        },
    ),
    _folder("vdsp_params", "folder.json", "cannot read the file", VendorFileError),
    _loop("vdsp_params", "loop.json", "cannot read the file", VendorFileError),
)

LINES = "a.png 0\nb.png 1\nc.png 2\n"

LABELS = (
    *(
        BadInput("labels", name, content, "a 0, b 1, c 2")
        for name, content in {
            "mark.txt": b"\xef\xbb\xbf" + LINES.encode(),
            "crlf.txt": LINES.replace("\n", "\r\n").encode(),
            "cr.txt": LINES.replace("\n", "\r").encode(),
            "mark_and_crlf.csv": b"\xef\xbb\xbfname,label\r\na.png,0\r\nb.png,1\r\nc.png,2\r\n",
            "unsorted.txt": b"c.png 2\na.png 0\nb.png 1\n",
            "twice_the_same.txt": LINES.encode() + b"a.png 0\n",
            "blank_lines.txt": b"\n\na.png 0\n\n  \nb.png 1\nc.png 2\n\n",
            "comments.txt": b"# mine\na.png 0\n# b\nb.png 1\nc.png 2\n",
            "of_more_images.txt": LINES.encode() + b"d.png 3\n",
            "windows_paths.txt": b"x\\a.png 0\nx\\b.png 1\nx\\c.png 2\n",
            "no_last_line_end.txt": LINES.encode().removesuffix(b"\n"),
        }.items()
    ),
    *_items(
        "labels",
        LabelError,
        {
            "empty.txt": ("", "the label file is empty"),
            "only_a_header.csv": ("name,label\r\n", "the label file has a header and no labels"),
            "only_comments.txt": ("# none\n", "the label file is empty"),
            "missing_line.txt": ("a.png 0\nc.png 2\n", r"1 of 3 images have no label: b\.png"),
            "contradiction.txt": (LINES + "a.png 2\n", "a.png has label 2, and 0 on line 1"),
            "by_position.txt": ("0\n1\n2\n", "labels are not paired by position"),
            "no_label.txt": ("a.png\nb.png\nc.png\n", "neither a header nor a line with a label"),
            "no_label_on_one_line.txt": ("a.png 0\nb.png\nc.png 2\n", "no_label_on_one_line.txt:2"),
            "negative.txt": (LINES.replace(" 1", " -1"), "negative.txt:2: label -1 is not a non-negative integer"),
            "fraction.txt": (LINES.replace(" 1", " 1.5"), "fraction.txt:2: label 1.5 is not a non-negative integer"),
            "word.txt": (LINES.replace(" 1", " dog"), "'dog' is neither a class index nor a known class"),
            "no_wnid.txt": (LINES.replace(" 1", " n99999999"), "n99999999 is not a class of ImageNet-1k"),
            "huge.txt": (LINES.replace(" 1", " " + "9" * 30), "huge.txt:2: "),
            "far_too_huge.txt": (LINES.replace(" 1", " " + _HUGE_NUMBER), "far_too_huge.txt:2: "),
            "other_digits.txt": (LINES.replace(" 1", " １"), "other_digits.txt:2: "),
            "of_other_images.txt": ("p.png 0\nq.png 1\n", "none of its 2 names matches any of the 3 images"),
            "utf16.txt": (LINES.encode("utf-16"), "not UTF-8 text"),
            "latin1.txt": ("é.png 0\n".encode("latin-1"), "not UTF-8 text"),
            "zero_bytes.txt": (b"a.png 0\n\0\0\0", "it contains zero bytes"),
            "beyond_the_model.txt": (LINES.replace(" 2", " 7"), "the labels go up to 7|labels"),
        },
    ),
    _folder("labels", "folder.txt", "cannot read the file", LabelError),
    _loop("labels", "loop.txt", "cannot read the file", LabelError),
)

RECORDS = (
    *_items(
        "run record",
        ConfigError,
        {
            "empty/run.json": ("", "is damaged"),
            "cut/run.json": ('{"version": 1, "quantkit"', "is damaged"),
            "list/run.json": ("[]", "is damaged"),
            "no_keys/run.json": ("{}", "is damaged"),
            "deep/run.json": ("[" * 200_000, "is damaged"),
            "other/run.json": (json.dumps({"name": "x", "scripts": {}}), "is damaged"),
            "binary/run.json": (bytes(range(256)), "is damaged"),
            "huge_number/run.json": (f'{{"version": {_HUGE_NUMBER}}}', "is damaged"),
        },
    ),
    _folder("run record", "folder/run.json", "cannot be read", ConfigError),
    _loop("run record", "loop/run.json", "cannot be read", ConfigError),
)

RELAY = "".join(f"x/a/1.png: Relay top-{k} id: {k % 4}, prob: 0.5, class name: a\n" for k in range(5))

EVALUATIONS = _items(
    "evaluation text",
    VendorFileError,
    {
        "empty.txt": ("", "neither results of the card nor|empty"),
        "prose.txt": ("all went well\n", "neither results of the card nor top1_rate"),
        "cut.txt": (RELAY + RELAY.replace("1.png", "2.png")[:-60], "has 4 lines, and others have 5|form"),
        "no_rate.txt": ("[VACC]:  top1_rate: 1.2.3 top5_rate: 4\n", "neither results of the card nor top1_rate"),
        "dots.txt": ("top1_rate: . top5_rate: .\n", "neither results of the card nor top1_rate"),
        "huge_id.txt": (f"x/a/1.png: Relay top-0 id: {_HUGE_NUMBER}, prob: 1, class name: a\n", "form|id"),
        "binary.txt": (bytes(range(256)), "UTF-8|zero bytes"),
    },
)

DATALISTS = _items(
    "datalist",
    VendorFileError,
    {
        "empty.list": ("", "the datalist is empty"),
        "twice.list": ("x/a/0.npz\nx/a/0.npz\n", "occurs more than once"),
        "too_long.list": ("x/a/0.npz\nx/a/1.npz\nx/a/2.npz\n", "there are 2 results for"),
        "too_short.list": ("x/a/0.npz\n", "there are 2 results for the 1 lines"),
        "binary.list": (bytes(range(256)), "UTF-8|zero bytes"),
    },
)

_GOOD_ROW = f"a.png,{'0' * 64},0,a\n"
_HEAD = "# quantkit calibration set\n# format: 1\n"
_COLUMNS = "path,sha256,label,class_name\n"


def _manifest(rows: str, head: str = _HEAD, columns: str = _COLUMNS) -> str:
    return head + columns + rows


GOOD_MANIFEST = _manifest(_GOOD_ROW, _HEAD + '# seed: 0\n# count: 1\n# left out: "b.png" damaged\n')

SETS = (
    *_items(
        "calibration set",
        CalibrationSetError,
        {
            "empty.csv": ("", "not a calibration set of quantkit"),
            "prose.csv": ("hello\n", "not a calibration set of quantkit"),
            "binary.csv": (bytes(range(256)), "not a calibration set of quantkit"),
            "cut.csv": (_manifest(_GOOD_ROW)[:-5], "the last line has no end"),
            "no_format.csv": (
                _manifest(_GOOD_ROW, "# quantkit calibration set\n"),
                "'# format:' has no integer",
            ),
            "format_9.csv": (_manifest(_GOOD_ROW, _HEAD.replace("1", "9")), "format 9 is not known"),
            "format_huge.csv": (_manifest(_GOOD_ROW, _HEAD.replace("1", _HUGE_NUMBER)), "format"),
            "other_columns.csv": (_manifest(_GOOD_ROW, columns="image,label\n"), "the columns are not"),
            "no_rows.csv": (_manifest(""), "the calibration set is empty"),
            "few_columns.csv": (_manifest("a.png,0\n"), "few_columns.csv:4: the row has 2 columns, not 4"),
            "outside.csv": (_manifest(_GOOD_ROW.replace("a.png", "../a.png")), "is not a path below the image folder"),
            "absolute.csv": (
                _manifest(_GOOD_ROW.replace("a.png", "/etc/passwd")),
                "is not a path below the image folder",
            ),
            "no_digest.csv": (_manifest(_GOOD_ROW.replace("0" * 64, "0" * 63)), "is not a SHA-256"),
            "negative.csv": (_manifest(_GOOD_ROW.replace(",0,a", ",-1,a")), "label '-1' is not a class index"),
            "huge_label.csv": (_manifest(_GOOD_ROW.replace(",0,a", f",{'9' * 30},a")), "is not a class index"),
            "far_too_huge_label.csv": (
                _manifest(_GOOD_ROW.replace(",0,a", f",{_HUGE_NUMBER},a")),
                "is not a class index",
            ),
            "twice.csv": (_manifest(_GOOD_ROW * 2), "a.png is in the set 2 times"),
            "half_labelled.csv": (_manifest(_GOOD_ROW + f"b.png,{'1' * 64},,\n"), "1 of 2 images have no label"),
            "other_count.csv": (_manifest(_GOOD_ROW, _HEAD + "# count: 2\n"), "it has 1 images and declares 2"),
            "other_digest.csv": (_manifest(_GOOD_ROW, _HEAD + "# digest: 00\n"), "its rows were changed since"),
            "left_out.csv": (_manifest(_GOOD_ROW, _HEAD + "# left out: a\n"), "without a quoted name"),
            "left_out_deep.csv": (_manifest(_GOOD_ROW, _HEAD + "# left out: " + _DEEP + "\n"), "without a quoted name"),
            "quote.csv": (_manifest('"a.png,0\n'), "not readable as CSV"),
            "zero_bytes.csv": (_manifest(_GOOD_ROW + "\0\0\0\n"), "."),
        },
    ),
    _folder("calibration set", "folder.csv", "cannot read the calibration set", CalibrationSetError),
    _loop("calibration set", "loop.csv", "cannot read the calibration set", CalibrationSetError),
)

TEXTS = PROJECTS + PIPELINES + BUILD_FILES + VDSP + LABELS + RECORDS + EVALUATIONS + DATALISTS + SETS
