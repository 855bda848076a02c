"""The commands vamc and vamp, through the entry point: what they print and how they end."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models import tiny_model
from vacc_files import BUILD, COMPILE

Run = Callable[..., tuple[int, str, str]]

PIPELINE = "ops:\n- {op: decode}\n- {op: resize, size: [8, 8]}\n- {op: to_tensor}\n"


def test_vamc_check_prints_lines_and_summary_with_exit_code(run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(BUILD)
    (tmp_path / "bad.yaml").write_text(COMPILE.replace("calibrate_mode", "alibrate_mode"))
    code, out, err = run("vamc", "check", "good.yaml", "bad.yaml")
    assert code == 10
    assert out.splitlines() == [
        "bad.yaml:15: error: unknown key `alibrate_mode`, probably `calibrate_mode`; write `calibrate_mode`",
        "bad.yaml:18: warning: `backend.quantize.house_option` is unknown",
        "2 checked: 1 with errors, 0 with warnings only, 1 clean; 2 could not be checked in full (--notes says why)",
    ]
    assert err == "error: 1 of 2 build files have errors"
    code, out, _ = run("vamc", "check", "good.yaml", "--notes")
    note = "not checked against the model: small.onnx does not exist here; give --model"
    assert (code, out.splitlines()[0]) == (0, f"good.yaml:5: note: {note}; for a moved run, quantkit relink RUN")


def test_vamc_check_json_has_findings(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "bad.yml").write_text(COMPILE.replace("  path: ./d", "  work_dir: ./d"))
    code, out, _ = run("vamc", "check", "sub", "--json")
    report = json.loads(out)
    assert (code, report["errors"]) == (10, 1)
    (file,) = report["files"]
    assert (file["path"], file["dialect"]) == ("sub/bad.yml", "compile")
    assert {
        "severity": "error",
        "line": 44,
        "key": "workspace.work_dir",
        "message": "`work_dir` is a key of the build dialect and has no effect here",
        "fix": "in the compile dialect write `path`",
    } in file["findings"]


def test_vamc_check_against_model_and_vdsp_params_names_differences(run: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "a.png").touch()
    arguments = ("--model", "tiny.onnx", "--preset", "pipeline.yaml", "--calibration-folder", "calib")
    code, out, _ = run("vamc", "write", *arguments, "--out", "vamc.yaml", "--vdsp", "vdsp.json", "--skip-conv", 1)
    assert (code, out) == (0, "wrote vamc.yaml, vdsp.json\nnext: quantkit vamc check vamc.yaml --vdsp vdsp.json\n")
    assert run("vamc", "check", "vamc.yaml", "--vdsp", "vdsp.json")[0] == 0
    assert run("vamc", "vdsp", "vdsp.json")[1] == "vdsp.json: RGB, resize 8 x 8 (pillow bilinear), / 255\n"
    text = (tmp_path / "vamc.yaml").read_text()
    (tmp_path / "vamc.yaml").write_text(text.replace("[1]", "[2]").replace("size: [8, 8]", "size: [9, 9]"))
    code, out, _ = run("vamc", "check", "vamc.yaml", "--model", "tiny.onnx", "--vdsp", "vdsp.json")
    assert code == 10
    for message in ("no convolution 2", "preprocessing gives [9, 9]", "resizes to [9, 9], the card to [8, 8]"):
        assert message in out
    code, _, err = run("vamc", "check", "vamc.yaml", "--model", "gone.onnx")
    assert (code, "gone.onnx: cannot read the model" in err) == (7, True)


def test_vamc_convert_prints_or_writes_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(BUILD)
    code, out, err = run("vamc", "convert", "b.yaml", "--to", "compile")
    assert (code, err) == (0, "")
    assert out.startswith("name: small\n")
    code, out, _ = run("vamc", "convert", "b.yaml", "--to", "compile", "--out", "c.yaml")
    assert (code, out) == (0, "wrote c.yaml\nnext: quantkit vamc check c.yaml\n")
    code, out, err = run("vamc", "convert", "c.yaml", "--to", "build")
    assert code == 0
    assert "quant_mode: percentile" in out
    assert run("vamc", "convert", "b.yaml", "--to", "magic")[::2] == (
        2, "error: --to: 'magic' is not one of build, compile. See quantkit vamc convert --help."
    )  # fmt: skip


def test_vamc_write_with_suffix_and_count_needs_no_folder(run: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    base = ("vamc", "write", "--model", "tiny.onnx", "--preset", "pipeline.yaml", "--calibration-folder", "/far/away")
    code, out, _ = run(*base, "--suffix", "JPEG", "--count", 7, "--dialect", "build", "--method", "kl", "--per-tensor")
    assert code == 0
    for line in ("path: /far/away", "get_data_num: 7", "quant_mode: kl_divergence", "per_channel: false"):
        assert line in out
    assert run(*base)[0] == 6
    assert run(*base, "--suffix", "a", "--count", 1, "--weight-scale", "big")[0] == 2
    assert run(*base, "--suffix", "a", "--count", 1, "--fraction", 0.9, "--method", "kl")[0] == 2
    assert run("vamc", "write", "--model", "tiny.onnx", "--calibration-folder", "x")[::2] == (
        2, "error: --preset: the preprocessing is not known; give a preset or a YAML file"
    )  # fmt: skip


def test_vamc_write_fp16_needs_model_only(run: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    base = ("vamc", "write", "--model", "tiny.onnx", "--dtype", "fp16")
    code, out, err = run(*base, "--cluster-mode", 0, "--data-transport-mode", 1, "--out", "fp16.yaml")
    assert (code, out, err) == (0, "wrote fp16.yaml\nnext: quantkit vamc check fp16.yaml\n", "")
    text = (tmp_path / "fp16.yaml").read_text()
    for line in ("name: tiny_fp16", "dtype: fp16", "cluster_mode: 0", "data_transport_mode: 1"):
        assert line in text
    assert "quantize" not in text
    code, out, _ = run("vamc", "check", "fp16.yaml")
    assert code == 0
    assert run(*base, "--skip-conv", 0, "--count", 3)[::2] == (
        2, "error: --count --skip-conv: an fp16 build has no calibration; drop the option, or write --dtype int8"
    )  # fmt: skip
    assert run("vamc", "write", "--model", "tiny.onnx", "--dtype", "fp32")[::2] == (
        2, "error: --dtype: 'fp32' is not one of int8, fp16. See quantkit vamc write --help."
    )  # fmt: skip


def test_vamc_write_int8_has_compiler_options(run: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    folder = ("--calibration-folder", "x", "--suffix", "JPEG", "--count", "7")
    base = ("vamc", "write", "--model", "tiny.onnx", "--preset", "pipeline.yaml", *folder)
    code, out, _ = run(*base, "--skip-matmul", 0, "--skip-matmul", 3, "--calibrate-chunk-by", -1, "--overflow-adaptive")
    assert code == 0
    for line in ("skip_matmul_layers: [0, 3]", "calibrate_chunk_by: -1", "overflow_adaptive: 1"):
        assert line in out
    assert run(*base, "--skip-matmul", -1)[0] == 2


def test_vamc_check_skips_other_yaml_files_of_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(BUILD)
    (tmp_path / "other.yaml").write_text("repos: []\n")
    code, out, _ = run("vamc", "check", ".")
    assert code == 0
    assert out.splitlines()[-2].startswith("1 checked: 0 with errors")
    assert out.splitlines()[-1] == "1 YAML files that are not build files were skipped"
    assert json.loads(run("vamc", "check", ".", "--json")[1])["skipped"] == ["other.yaml"]


def test_vamc_convert_says_that_input_type_is_dropped(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(COMPILE)
    _, _, err = run("vamc", "convert", "c.yaml", "--to", "build", "--out", "b.yaml")
    assert "note: frontend.dtype: fp32 is left out: the build dialect has no such key" in err


def test_vamc_tensors_are_written_for_build_file(run: Run, tmp_path: Path, photos: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    common = ("--model", "tiny.onnx", "--preset", "pipeline.yaml")
    code, out, _ = run("vamc", "tensors", photos, *common, "--out", "tensors")
    assert code == 0
    assert out.splitlines()[:2] == ["6 tensors (suffix: npz)", "wrote tensors"]
    code, out, _ = run("vamc", "write", *common, "--calibration-folder", "tensors")
    assert code == 0
    assert "suffix: npz" in out
    assert "process_ops" not in out


def test_vamp_inputs_command_and_eval_in_turn(run: Run, tmp_path: Path, photos: Path) -> None:
    code, out, _ = run("vamp", "inputs", "--images", photos, "--out", "npz")
    assert code == 0
    assert out.splitlines()[:2] == ["6 inputs (0 were there); the list has 6", "wrote npz, npz/npz_datalist.txt"]
    (tmp_path / "out").mkdir()
    for index in range(6):
        np.savez(tmp_path / "out" / f"output_{index}.npz", output_0=np.eye(2, dtype=np.float32)[[index // 4]])
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    arguments = ("--results", "out", "--datalist", "npz/npz_datalist.txt", "--labels", "names.txt")
    code, out, _ = run("vamp", "eval", *arguments, "--out", "relay.txt")
    assert (code, out.splitlines()) == (
        0,
        [
            "[VACC]:  top1_rate: 83.333 top5_rate: 100.0",
            "top-1 5 and top-5 6 of 6 images right",
            "wrote relay.txt",
            "next: quantkit compare fp32 card=out --run RUN --datalist npz/npz_datalist.txt",
        ],
    )
    code, out, _ = run("vamp", "eval", "--text", "relay.txt", "--labels", "names.txt")
    assert (code, out.splitlines()[0]) == (0, "[VACC]:  top1_rate: 83.333 top5_rate: 100.0")
    (tmp_path / "log.txt").write_text("[VACC]:  top1_rate: 75.856 top5_rate: 92.892\n")
    assert run("vamp", "eval", "--text", "log.txt")[1] == "top-1 75.856 %  top-5 92.892 %, as printed\n"
    (tmp_path / "out" / "output_2.npz").write_bytes(b"")
    code, _, err = run("vamp", "eval", *arguments)
    assert (code, "1 of 6 results cannot be read: out/output_2.npz" in err) == (10, True)
    code, out, err = run("vamp", "eval", *arguments, "--skip-damaged")
    assert (code, "of 5 images right" in out, "left out: out/output_2.npz" in err) == (0, True, True)
    (tmp_path / "out" / "output_2.npz").unlink()
    assert "missing: number 2" in run("vamp", "eval", *arguments)[2]
    assert run("vamp", "eval", "--results", "out", "--labels", "names.txt")[0] == 2
    assert run("vamp", "eval", "--results", "out")[0] == 2


def test_vamp_inputs_names_broken_images(run: Run, photos: Path) -> None:
    broken = next(photos.rglob("*.png"))
    broken.write_bytes(b"<html>")
    code, _, err = run("vamp", "inputs", "--images", photos, "--out", "npz")
    assert (code, "1 of 6 images cannot be decoded" in err, broken.name in err) == (4, True, True)
    code, out, err = run("vamp", "inputs", "--images", photos, "--out", "npz", "--skip-broken")
    assert (code, "the list has 5" in out, "left out:" in err) == (0, True, True)
    shutil.rmtree(photos)
    assert run("vamp", "inputs", "--images", photos, "--out", "npz")[0] == 6


def test_vamp_command_prints_two_lines_to_copy(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(COMPILE)
    code, out, _ = run("vamp", "command", "c.yaml", "--vdsp", "p.json", "-b", 4)
    line = "vamp -m deploy_weights/small_int8/mod --vdsp_params p.json -i 8 -p 1 -b 4 -s '[3,224,224]'"
    assert (code, out.splitlines()) == (
        0,
        [
            "# performance",
            line,
            "# accuracy",
            line + " --datalist npz_datalist.txt --path_output npz_output",
        ],
    )
    assert run("vamp", "command", "--model", "m/mod")[0] == 0
    assert run("vamp", "command")[::2] == (
        2, "error: --model: no compiled model given; give --model DIR/mod, or the build file"
    )  # fmt: skip
    assert run("vamp", "command", "gone.yaml")[0] == 10


@pytest.mark.shared
def test_vamc_check_folder_counts_files_and_errors(run: Run, shared_vacc: Path, tmp_path: Path) -> None:
    """`check_file` of all shared files is tested in ``test_vacc_check.py``."""
    for name in ("resnet__torch_resnet", "mobilenet_v3__ppcls_mobilenetv3"):
        for path in (shared_vacc / "configs").rglob(f"*classification__{name}*.yaml"):
            shutil.copy(path, tmp_path / path.name)
    code, out, _ = run("vamc", "check", tmp_path, "--json")
    report = json.loads(out)
    assert (code, report["errors"]) == (10, 1)
    assert sorted(Path(one["path"]).name for one in report["files"]) == sorted(one.name for one in tmp_path.iterdir())
