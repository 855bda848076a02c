"""Every build file in a run belongs to one of its models, whatever commands were run in whatever order."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import uneven_model, write_images

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile, recorded_method
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.runs.folder import QuantizedRecord, RunFolder
from quantkit.search.budget import FloatBudget
from quantkit.search.stages import Goal
from quantkit.targets import ORT, TENSORRT, VACC
from quantkit.vendors.vacc.check import check_file
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.dialects import BuildSpec
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.write import vendor_method
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.tune import TuneOptions, tune
from quantkit.workflows.vacc.backend import VaccBackend
from quantkit.workflows.vacc.build_file import VamcOptions, build_file_name

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
QUICK = TuneOptions(goal=Goal(max_drop=0, min_agreement=100), budget=FloatBudget(macs=60), seconds=0.5)
METHODS: tuple[Method, ...] = (Percentile(), Percentile(fraction=0.99), Kl(), Mse(), MinMax())

Written = set[str]
Step = Callable[[Path], Written]


def names(files: tuple[Path, ...]) -> Written:
    return {path.name for path in files if path.suffix == ".yaml"}


def calibrated(place: Path, **options: Any) -> Written:
    model = place / ("other.onnx" if options.pop("other", False) else "tiny.onnx")
    options = {"method": Percentile(fraction=0.999), **options}
    return names(calibrate(model, place / "set.csv", PIPELINE, run=place / "run", **options).files)


def quantized(place: Path, **options: Any) -> Written:
    return names(quantize(place / "run", **options).files)


def tuned(place: Path, **options: Any) -> Written:
    return names(tune(place / "run", QUICK, target=VACC, **options).files)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    images = write_images(tmp_path / "images", per_class=14)
    build_calibration_set(images, count=20).save(tmp_path / "set.csv")
    uneven_model(tmp_path / "tiny.onnx")
    (tmp_path / "other.onnx").write_bytes((tmp_path / "tiny.onnx").read_bytes().replace(b"tiny", b"tina"))
    return tmp_path


def spec_of(path: Path) -> BuildSpec:
    return read_spec(Document.load(path))


def method_of(made: QuantizedRecord) -> Method:
    if not made.is_tuned:
        return made.solved_by
    settings = dict(made.options["recipe"]["method"])
    return recorded_method(settings.pop("name"), settings)


def check_run(place: Path) -> None:
    """Check that build files and models for the card belong together, and that each file is without fault."""
    folder = RunFolder(place / "run")
    record = folder.read()
    for_card = {name for name, made in record.quantized.items() if made.target == "vacc"}
    owner = {build_file_name(name): name for name in {"int8-vacc" if "int8-vacc" in for_card else "int8"} | for_card}
    files = {path.name: path for path in folder.path.glob("*.yaml")}
    assert files.keys() == owner.keys()
    for name, path in files.items():
        assert not check_file(path).count("error"), path
        spec = spec_of(path)
        assert spec.backend.quantize is not None
        if (made := record.quantized.get(owner[name])) is not None:
            method = method_of(made)
            assert spec.backend.quantize.calibrate_mode == vendor_method(method)
            assert spec.backend.quantize.calibrate_range == (
                method.fraction if isinstance(method, Percentile) else None
            )
            corrected = None if made.fp32 is None else str((folder.path / made.fp32).resolve())
            assert spec.frontend.checkpoint == (corrected or record.model.path)
        assert Path(str(spec.frontend.checkpoint)).is_file()
    compiled = [spec_of(path).name for path in files.values()]
    assert len(set(compiled)) == len(compiled), "the compiler files its builds by name"
    fp32 = sorted(path.name for path in folder.path.glob("*fp32*.onnx"))
    assert fp32 == sorted(made.fp32 for made in record.quantized.values() if made.fp32 is not None), "each has its own"


@pytest.mark.parametrize(
    ("steps", "written"),
    [
        ([(calibrated, {})], {"vamc.yaml"}),
        ([(calibrated, {}), (quantized, {"method": Kl()})], set()),
        ([(calibrated, {}), (quantized, {"method": MinMax(), "target": TENSORRT})], set()),
        ([(calibrated, {}), (quantized, {"method": Percentile(fraction=0.9)})], {"vamc.yaml"}),
        ([(calibrated, {}), (quantized, {"method": Kl(), "target": VACC})], {"vamc.yaml"}),
        (
            [
                (calibrated, {}),
                (quantized, {"method": Kl(), "target": VACC}),
                (quantized, {"method": Percentile(), "target": VACC}),
            ],
            {"vamc-percentile.yaml"},
        ),
        ([(calibrated, {"target": VACC}), (quantized, {"method": Kl()})], set()),
        ([(calibrated, {"target": VACC}), (calibrated, {"method": Kl()})], set()),
        (
            [(calibrated, {"target": VACC}), (quantized, {"method": Kl(), "target": VACC, "out": Path("card.onnx")})],
            {"card-vamc.yaml"},
        ),
        (
            [
                (calibrated, {"target": VACC}),
                (quantized, {"method": Kl(), "target": VACC, "out": Path("vacc.onnx")}),
                (quantized, {"target": VACC, "out": Path("vacc.onnx"), "options": QuantizeOptions(skip=("b",))}),
            ],
            {"vacc-vamc.yaml"},
        ),
        ([(calibrated, {}), (tuned, {})], {"vamc-tuned.yaml"}),
        ([(calibrated, {}), (tuned, {}), (tuned, {"out": Path("again.onnx")})], {"again-vamc.yaml"}),
        ([(calibrated, {"target": VACC}), (tuned, {}), (calibrated, {"other": True, "fresh": True})], {"vamc.yaml"}),
    ],
    ids=lambda value: "+".join(step.__name__ for step, _ in value) if isinstance(value, list) else None,
)
def test_build_files_after_commands_belong_to_models(
    steps: list[tuple[Callable[..., Written], dict]], written: Written, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    said: Written = set()
    for step, options in steps:
        said = step(place, **options)
        check_run(place)
    assert said == written


@pytest.mark.parametrize("seed", range(4))
def test_build_files_after_random_commands_belong_to_models(
    seed: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    chance = random.Random(seed)
    calibrated(place, target=chance.choice((ORT, VACC)))
    check_run(place)
    for _ in range(8):
        match chance.randrange(6):
            case 0:
                calibrated(place, method=chance.choice(METHODS), target=chance.choice((ORT, VACC)))
            case 1:
                dialect = VaccBackend(VamcOptions(dialect=chance.choice(("build", "compile"))))
                methods = [method for method in METHODS if not isinstance(method, Mse)]
                calibrated(place, backends={"vacc": dialect}, method=chance.choice(methods))
            case 2:
                calibrated(place, other=chance.random() < 0.5, fresh=True)
            case _:
                options = QuantizeOptions(
                    bias_correction=chance.random() < 0.5, skip=chance.choice(((), ("b",))), keep_outliers=True
                )
                target = chance.choice((ORT, VACC, VACC, TENSORRT))
                quantized(place, method=chance.choice(METHODS), target=target, options=options)
        check_run(place)


def test_build_files_dialect_changed_later_is_that_of_all(place: Path) -> None:
    calibrated(place, target=VACC)
    quantized(place, target=VACC, method=Kl())
    backends = {"vacc": VaccBackend(VamcOptions(dialect="build"))}
    assert calibrated(place, target=VACC, backends=backends) == {"vamc.yaml", "vamc-kl.yaml"}
    check_run(place)
    assert {check_file(path).dialect for path in (place / "run").glob("*.yaml")} == {"build"}
