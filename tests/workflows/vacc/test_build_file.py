"""The build file of a run says what ``run.json`` says, and only what is asked for is changed."""

from pathlib import Path

import pytest
from models import tiny_model, write_images

from quantkit.config.method import Kl, Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.errors import UsageError
from quantkit.runs.folder import RunFolder
from quantkit.targets import VACC
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.dialects import CompileOptions
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.write import VamcOptions
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.vacc.backend import VaccBackend
from quantkit.workflows.vacc.build_file import choices_of_run, vamc_of_run

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = tiny_model(tmp_path / "tiny.onnx")
    chosen = build_calibration_set(write_images(tmp_path / "images"), count=8)
    chosen.save(tmp_path / "set.csv")
    calibrate(model, tmp_path / "set.csv", PIPELINE, run=tmp_path / "run", method=Percentile(fraction=0.999))
    return tmp_path / "run"


def test_vamc_of_run_equals_file_of_calibration(run: Path) -> None:
    build, pipeline = vamc_of_run(run)
    assert build.text == (run / "vamc.yaml").read_text()
    assert pipeline == PIPELINE


def test_vamc_of_run_prefers_model_for_the_card(run: Path) -> None:
    quantize(run, method=Kl(), target=VACC, options=QuantizeOptions(per_channel=False, power_of_two=True, skip=("b",)))
    assert choices_of_run(RunFolder(run).read()).method == Kl()
    calibration = vamc_of_run(run)[0].spec.backend.quantize
    assert calibration is not None
    assert (calibration.calibrate_mode, calibration.quantize_per_channel) == ("kl_divergence", False)
    assert (calibration.weight_scale, calibration.skip_conv_layers) == ("power2", [1])


def test_vamc_of_run_changes_only_what_is_asked_for(run: Path) -> None:
    options = VamcOptions(dialect="build", suffix="npz", count=3, softmax=True, name="other")
    spec = vamc_of_run(run, method=Kl(), per_channel=False, skip_convs=[0], options=options)[0].spec
    assert spec.backend.quantize is not None
    assert spec.dataset is not None
    assert (spec.backend.quantize.calibrate_mode, spec.backend.quantize.quantize_per_channel) == (
        "kl_divergence",
        False,
    )
    assert (spec.backend.quantize.skip_conv_layers, spec.backend.quantize.weight_scale) == ([0], None)
    assert (spec.dataset.sampler.suffix, spec.dataset.count, spec.dataset.path) == (
        "npz",
        3,
        str((run / "calibration").resolve()),
    )
    assert (spec.name, spec.graph.extra_ops is not None) == ("other", True)


def test_vamc_of_run_without_its_set_is_same(run: Path, tmp_path: Path) -> None:
    (tmp_path / "set.csv").unlink()
    assert vamc_of_run(run)[0].text == (run / "vamc.yaml").read_text()


def test_vamc_of_run_index_beyond_model_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="there is no conv 2"):
        vamc_of_run(run, skip_convs=[2])


def test_vamc_of_run_fp16_is_fp32_model_without_calibration(run: Path, tmp_path: Path) -> None:
    (tmp_path / "set.csv").unlink()  # not needed
    options = VamcOptions(precision="fp16", data_transport_mode=1)
    spec = vamc_of_run(run, options=options)[0].spec
    assert (spec.name, spec.backend.dtype, spec.backend.quantize, spec.dataset) == ("tiny_fp16", "fp16", None, None)
    assert spec.backend.compile == CompileOptions(data_transport_mode=1)
    assert (spec.frontend.checkpoint, spec.inputs) == (str(tmp_path / "tiny.onnx"), {"input": [1, 3, 8, 8]})


def test_vamc_options_of_compiler_are_read_back_from_run(run: Path, tmp_path: Path) -> None:
    backend = VaccBackend(VamcOptions(dialect="build", cluster_mode=1, skip_matmul_layers=(2, 0)))
    set_ = tmp_path / "set.csv"
    calibrate(tmp_path / "tiny.onnx", set_, PIPELINE, run=run, backends={"vacc": backend})
    quantize(run, target=VACC)
    spec = read_spec(Document.load(run / "vamc.yaml"))
    assert spec.backend.compile == CompileOptions(cluster_mode=1)
    assert spec.backend.quantize is not None
    assert spec.backend.quantize.skip_matmul_layers == [0, 2]
