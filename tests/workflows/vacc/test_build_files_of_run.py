"""Every build file in a run belongs to one of its models, whatever commands were run in whatever order."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import uneven_model, write_images

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile, recorded_method
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.errors import UsageError
from quantkit.runs.folder import QuantizedRecord, RunFolder
from quantkit.search.budget import FloatBudget
from quantkit.search.stages import Goal
from quantkit.targets import ORT, TENSORRT, VACC, Target
from quantkit.vendors.vacc.check import check_file
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.dialects import BuildSpec
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.write import VamcOptions, vendor_method
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.relink import relink_run
from quantkit.workflows.tune import TuneOptions, tune
from quantkit.workflows.vacc.backend import VaccBackend
from quantkit.workflows.vacc.build_file import ADVISED, build_file_name, vamc_of_run

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


@pytest.mark.parametrize(
    ("out", "target", "said"),
    [
        ("run/int8.onnx", VACC, "int8 is the name that quantkit gives to another model"),
        ("elsewhere/int8.onnx", VACC, "int8 is the name that quantkit gives to another model"),
        ("run/int8-vacc-tuned.onnx", VACC, "int8-vacc-tuned is the name"),
        ("run/kl.onnx", VACC, "kl is the name"),
        ("run/int8-tensorrt.onnx", ORT, "int8-tensorrt is the name"),
        ("run/fp32.onnx", VACC, "fp32 is the name of the original model"),
        ("run/fp32-vacc.onnx", VACC, "is a name of fp32 models with corrected biases"),
        ("run/card-fp32.onnx", VACC, "is a name of fp32 models with corrected biases"),
        ("run/run.json", VACC, "ends with .onnx"),
        ("run/statistics.safetensors", ORT, "ends with .onnx"),
        ("tiny.onnx", VACC, "it is the original model of the run"),
        ("link.onnx", ORT, "it is the original model of the run"),
        ("elsewhere/card.onnx", VACC, "the run has another model card, "),
    ],
)
def test_names_given_by_a_user_that_another_file_or_record_has_are_refused(
    out: str, target: Target, said: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "link.onnx").symlink_to("tiny.onnx")
    calibrated(place, target=VACC)
    quantized(place, target=VACC, out="card.onnx")
    files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=said):
        quantized(place, target=target, method=Mse(), out=out)
    assert {path: path.read_bytes() for path in files} == files


def test_names_that_end_as_other_build_files_have_build_files_of_their_own(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    calibrated(place, target=VACC)
    for name in ("int8-vacc-advised", "vamc", "int8-vacc-vamc", "int8-vacc-mse", "vamc-a", "int8-vacc-a-vamc"):
        assert len(quantized(place, target=VACC, method=Mse(), out=f"run/{name}.onnx")) == 1
        check_run(place)
    assert build_file_name("int8-vacc-advised") != ADVISED
    files = tune(place / "run", replace(QUICK, write_fp32=place / "better.onnx"), target=VACC).files
    assert place / "better.onnx" in files
    for taken in ("run/fp32-vacc.onnx", "tiny.onnx"):
        with pytest.raises(UsageError, match=f"^write_fp32 .*{Path(taken).name}: it is "):
            tune(place / "run", replace(QUICK, write_fp32=place / taken), target=VACC)


def test_build_file_written_for_options_that_a_model_has_is_that_models_file(place: Path) -> None:
    calibrated(place, target=VACC, method=Percentile(fraction=0.999))
    quantized(place, target=VACC, method=Kl(), options=QuantizeOptions(per_channel=False))
    run = place / "run"
    assert RunFolder(run).read().quantized["int8-vacc"].fp32 == "fp32-vacc.onnx"
    assert vamc_of_run(run)[0].text == (run / "vamc.yaml").read_text()
    kl = vamc_of_run(run, method=Kl(), per_channel=False)[0]
    assert kl.text == (run / "vamc-kl.yaml").read_text()
    for options in ({"method": Mse()}, {"skip_convs": [0]}, {"options": VamcOptions(weight_scale="power2")}):
        build = vamc_of_run(run, **options)[0]
        assert build.spec.frontend is not None
        assert build.spec.frontend.checkpoint == str(place / "tiny.onnx")
        assert "fp32-vacc.onnx are corrected for other options" in build.notes[-1]
    original = vamc_of_run(run, bias_correction=False)[0]
    assert original.spec.frontend is not None
    assert original.spec.frontend.checkpoint == str(place / "tiny.onnx")


def test_build_files_of_a_moved_run_get_the_new_paths_from_relink(place: Path, tmp_path: Path) -> None:
    place = place.rename(tmp_path.parent / f"{tmp_path.name} moved once")
    calibrated(place, target=VACC)
    quantized(place, target=VACC, method=Kl())
    tuned(place)
    before = {path.name: path.read_text() for path in (place / "run").glob("*.yaml")}
    assert len(before) == 3
    moved = place.rename(tmp_path.parent / f"{tmp_path.name}: moved twice")
    record, files = relink_run(moved / "run")
    assert {path.name for path in files} == {*before, "run.json"}
    assert record.model.path == str(moved / "tiny.onnx")
    check_run(moved)
    for name, text in before.items():
        again = (moved / "run" / name).read_text()
        assert str(place) not in again
        assert spec_of(moved / "run" / name).dataset.path == str(moved / "run/calibration")
        assert [line for line in again.split("\n") if "/" not in line] == [
            line for line in text.split("\n") if "/" not in line
        ]
    assert relink_run(moved / "run")[1] == (moved / "run/run.json",)
    regenerated = vamc_of_run(moved / "run")[0].text
    assert regenerated == (moved / "run/vamc.yaml").read_text()


@pytest.mark.parametrize(
    "checkpoint",
    [
        "frontend: {{checkpoint: {0}, type: onnx}}",
        "frontend:\n  checkpoint: [{0}]",
        "frontend:\n  checkpoint: >-\n    {0}",
    ],
)
def test_relink_build_file_in_the_users_form_is_unchanged(place: Path, checkpoint: str) -> None:
    calibrated(place, target=VACC)
    text = f"{checkpoint.format('gone/tiny.onnx')}\nbackend:\n  type: tvm_vacc\n"
    (place / "run/vamc.yaml").write_text(text)
    relink_run(place / "run")
    assert (place / "run/vamc.yaml").read_text() == text


def test_build_file_edited_by_hand_is_renamed_before_it_is_written_anew(place: Path) -> None:
    calibrated(place, target=VACC)
    quantized(place, target=VACC, method=Kl())
    run = place / "run"
    edits = {}
    for name in ("vamc.yaml", "vamc-kl.yaml"):
        edits[name] = (run / name).read_text() + " \n"
        (run / name).write_text(edits[name])
    done = quantize(run, target=VACC, method=Kl(), options=QuantizeOptions(per_channel=False))
    assert "vamc-kl.yaml was edited by hand: the edited file is vamc-kl.yaml.bak now" in done.notes
    assert (run / "vamc-kl.yaml.bak").read_text() == edits["vamc-kl.yaml"]
    assert (run / "vamc.yaml").read_text() == edits["vamc.yaml"], "its model has not changed"
    (run / "vamc-kl.yaml").write_text(edits["vamc-kl.yaml"])
    quantized(place, target=VACC, method=Kl())
    assert (run / "vamc-kl.yaml.bak1").read_text() == edits["vamc-kl.yaml"]
    calibrated(place, target=VACC, fresh=True, other=True)
    assert (run / "vamc.yaml.bak").read_text() == edits["vamc.yaml"]


def test_build_file_edited_by_hand_stays_edited_after_relink(place: Path, tmp_path: Path) -> None:
    calibrated(place, target=VACC)
    text = (place / "run/vamc.yaml").read_text()
    (place / "run/vamc.yaml").write_text(f"# mine\n{text}")
    moved = place.rename(tmp_path.parent / f"{tmp_path.name} moved with edits")
    relink_run(moved / "run")
    assert (moved / "run/vamc.yaml").read_text().startswith("# mine\n")
    calibrated(moved, target=VACC)
    assert (moved / "run/vamc.yaml.bak").read_text().startswith("# mine\n")
    assert not (moved / "run/vamc.yaml").read_text().startswith("# mine\n")
