"""``export`` compared with another implementation, and networks whose in-place operations overwrite their input."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
pytest.importorskip("torchvision", reason="needs quantkit[torch]")

from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from quantkit.cli import main as entry  # noqa: E402
from quantkit.config.pipeline import CenterCrop, Decode, Pipeline, Resize, ToTensor  # noqa: E402
from quantkit.data.item import FileItem  # noqa: E402
from quantkit.errors import CheckpointError, ModelError, UsageError  # noqa: E402
from quantkit.export.iresnet import IResNet  # noqa: E402
from quantkit.export.model import export_model  # noqa: E402
from quantkit.export.network import export_network  # noqa: E402
from quantkit.graph.model import read_model  # noqa: E402
from quantkit.graph.prepare import prepare  # noqa: E402
from quantkit.targets import VACC  # noqa: E402

pytestmark = pytest.mark.torch

SIZE = (1, 8, 8)

# One stage of three basic blocks as the authors of iResNet write them: one ReLU for a block, which works in place, and
# a shortcut that is the input itself. Then quantkit's own, in both forms, and a reference with other parameters.
OWN_MODULE = """
from functools import partial
from torch import nn
from quantkit.export.iresnet import Conv, IResNet, basic_convs


class Block(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        if index == 2:
            self.bn0 = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        if index != 1:
            self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        shortcut = x
        if self.index == 2:
            x = self.bn0(x)
        if self.index != 0:
            x = self.relu(x)
        x = self.conv2(self.relu(self.bn1(self.conv1(x))))
        if self.index == 0:
            x = self.bn2(x)
        x += shortcut
        return self.relu(self.bn2(x)) if self.index == 2 else x


class InPlace(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*(Block(index) for index in range(3)))
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def quantkits(num_classes=3, paper=False):
    sizes = dict(in_channels=1, stem=Conv(4, 3), widths=(4,), strides=(1,), groups=(1,))
    return IResNet(basic_convs, (3,), num_classes=num_classes, rectified_shortcut=not paper, **sizes)


def linear(num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


class OtherClasses(InPlace):
    def forward(self, x):
        return super().forward(x)[:, :2]
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inplace_networks.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "inplace_networks", raising=False)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("inplace_networks:InPlace", "inplace_networks:quantkits"),
        ("inplace_networks:quantkits", "inplace_networks:InPlace"),
    ],
)
def test_export_in_place_relus_equal_reference(name: str, reference: str, exporter: str, tmp_path: Path) -> None:
    done = export_model(
        name,
        tmp_path / "a.onnx",
        random_seed=0,
        input_size=SIZE,
        exporter=exporter,  # type: ignore[arg-type]
        reference=reference,
    )
    assert done.parity.against == f"{name} in torch"
    assert done.reference_parity is not None
    assert done.reference_parity.against == f"the reference {reference}"
    assert max(done.parity.max_abs_error, done.reference_parity.max_abs_error) < 1e-5 < done.parity.largest_logit
    stored = {one.key: one.value for one in onnx.load(done.path).metadata_props}
    assert stored["quantkit.reference"] == reference


def test_export_differing_from_reference_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.onnx"
    with pytest.raises(
        ModelError,
        match=r"differs from the reference inplace_networks:InPlace by 0\.\d+ on logits up to [\d.]+, more than .*; "
        r"the two implementations compute different scores from the same weights",
    ):
        export_model(
            "inplace_networks:quantkits",
            out,
            random_seed=0,
            input_size=SIZE,
            arguments={"paper": True},
            exporter="torchscript",
            reference="inplace_networks:InPlace",
        )
    assert not out.exists()


def test_export_reference_difference_is_that_of_both_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        other[1].bias[1] += 0.25  # every logit of class 1 is further by this
    from quantkit.export.parity import Original

    with pytest.raises(ModelError, match=r"differs from theirs by 0\.25 on logits up to"):
        export_network(
            one,
            tmp_path / "a.onnx",
            input_size=SIZE,
            exporter="torchscript",
            reference=Original("theirs", other, "look"),
        )
    assert not (tmp_path / "a.onnx").exists()


def test_export_reference_is_compared_on_images_too(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        Image.effect_noise((20, 20), 60).save(path)
    pipeline = Pipeline(ops=(Decode(mode="L"), Resize(size=8), CenterCrop(size=(8, 8)), ToTensor()))
    done = export_model(
        "inplace_networks:linear",
        tmp_path / "a.onnx",
        random_seed=0,
        input_size=SIZE,
        num_classes=5,
        exporter="torchscript",
        images=[FileItem(path) for path in paths],
        pipeline=pipeline,
        reference="inplace_networks:linear",
    )
    assert done.reference_parity is not None
    assert (done.reference_parity.images, done.classes) == (3, 5)


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        (
            "inplace_networks:linear",
            CheckpointError,
            r"^reference .*:linear: the weights of .* do not match: missing 2",
        ),
        ("inplace_networks:none", UsageError, "^reference: inplace_networks:none: cannot be imported"),
        ("iresnet51", UsageError, "^reference: there is no network 'iresnet51'; did you mean iresnet50"),
        ("inplace_networks:OtherClasses", ModelError, "OtherClasses: returns 2 classes, and the network returns 3"),
    ],
)
def test_export_incomparable_reference_is_refused(
    reference: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export_model(
            "inplace_networks:InPlace", tmp_path / "a.onnx", random_seed=0, input_size=SIZE, reference=reference
        )
    assert not (tmp_path / "a.onnx").exists()


def test_export_module_with_missing_package_names_it(tmp_path: Path) -> None:
    (tmp_path / "needs_missing.py").write_text("import no_such_package\n")
    with pytest.raises(UsageError, match=r"No module named 'no_such_package'.*; install no_such_package"):
        export_model("needs_missing:net", tmp_path / "a.onnx", random_seed=0)


class RectifiesItsInput(nn.Module):
    """Overwrites the tensor it is given before anything else reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        y = self.relu(x)
        return self.linear((y + 2 * x).flatten(1))


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_export_network_overwriting_its_input_is_compared_on_the_input(exporter: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RectifiesItsInput()
    done = export_network(network, tmp_path / "a.onnx", input_size=SIZE, exporter=exporter)  # type: ignore[arg-type]
    batch = np.random.default_rng(1).standard_normal((4, *SIZE), np.float32)
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": batch})[0]
    rectified = torch.from_numpy(batch).clamp(min=0)
    with torch.inference_mode():
        expected = network.linear((3 * rectified).flatten(1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


# -- opsets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13])
def test_export_old_opsets_are_read_back(opset: int, tmp_path: Path) -> None:
    done = export_model("inplace_networks:InPlace", tmp_path / "a.onnx", random_seed=0, input_size=SIZE, opset=opset)
    assert (done.exporter, done.failed_exporter) == ("torchscript", None)
    assert [(one.domain, one.version) for one in onnx.load(done.path).opset_import] == [("", opset)]
    prepared = tmp_path / "prepared.onnx"
    from quantkit.graph.model import save_model

    save_model(prepare(read_model(done.path)).model, prepared)
    batch = np.random.default_rng(1).standard_normal((4, *SIZE), np.float32)
    logits = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": batch})[0]
        for path in (done.path, prepared)
    ]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)


class MeanOfEachChannel(nn.Module):
    """Has nothing that onnx does not convert down."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return x.mean((2, 3))


def test_export_opset_below_14_falls_back_to_dynamo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantkit.export import translate

    def failing(*_: object) -> None:
        raise RuntimeError("no tracing here")

    monkeypatch.setitem(translate._EXPORTERS, "torchscript", failing)
    done = export_network(MeanOfEachChannel(), tmp_path / "a.onnx", input_size=SIZE, opset=13)
    assert (done.exporter, done.failed_exporter, done.fallback_reason) == (
        "dynamo",
        "torchscript",
        "RuntimeError: no tracing here",
    )


def test_export_target_sets_opset_unless_given(tmp_path: Path) -> None:
    for opset, expected in ((None, 11), (12, 12)):
        done = export_model(
            "inplace_networks:linear", tmp_path / "a.onnx", random_seed=0, input_size=SIZE, target=VACC, opset=opset
        )
        assert done.opset == onnx.load(done.path).opset_import[0].version == expected


# -- the command -------------------------------------------------------------------------------------------------------


def quantkit(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["quantkit", *(str(one) for one in arguments)])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    return int(stop.value.code or 0)


def test_export_command_prints_difference_to_reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    import inplace_networks  # type: ignore[import-not-found]

    torch.save(inplace_networks.InPlace().state_dict(), "a.pth")
    options = ["--checkpoint", "a.pth", "--input-size", "1x8x8", "--target", "vacc"]
    reference = ["--reference", "inplace_networks:quantkits"]
    assert quantkit(monkeypatch, "export", "inplace_networks:InPlace", *options, *reference) == 0
    said = capsys.readouterr().out.splitlines()
    assert ", opset 11, torchscript exporter, " in said[0]
    assert said[1].startswith("max abs error against inplace_networks:InPlace in torch: ")
    assert said[2].startswith("max abs error against the reference inplace_networks:quantkits: ")
    assert said[3] == "wrote InPlace.onnx"

    before = Path("InPlace.onnx").read_bytes()
    arguments = ["--reference-arg", "paper=true"]
    assert quantkit(monkeypatch, "export", "inplace_networks:InPlace", *options, *reference, *arguments) == 7
    assert "error: the exported model differs from the reference" in capsys.readouterr().err
    assert Path("InPlace.onnx").read_bytes() == before


def test_export_command_names_built_in_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--random-weights", "--input-size", "32", "--exporter", "torchscript"]
    assert quantkit(monkeypatch, "export", "iresnet18", *options) == 0
    assert "max abs error against quantkit's iresnet18 in torch: " in capsys.readouterr().out


def test_build_network_paper_form_is_built_by_name() -> None:
    from quantkit.export.build import build_network

    networks = [build_network(name, {"num_classes": 2}) for name in ("iresnet18", "iresnet18-paper")]
    assert all(isinstance(network, IResNet) for network in networks)
    assert [network.layer1[1].rectifies_shortcut for network in networks] == [True, False]
