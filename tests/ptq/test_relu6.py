"""ReLU6 networks: channels are rescaled under the Clips of torchvision's MobileNetV2, and the scores stay."""

from pathlib import Path

import numpy as np
import pytest
from tune_models import builder_of

from quantkit.config.method import Percentile
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.search.candidate_builder import SAME_FUNCTION
from quantkit.search.recipe import Recipe

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.torch


def smooth_images(count: int, seed: int) -> list[np.ndarray]:
    coarse = np.random.default_rng(seed).normal(0.0, 1.0, (count, 1, 3, 8, 8)).astype(np.float32)
    return list(np.repeat(np.repeat(coarse, 8, axis=3), 8, axis=4))


@pytest.fixture
def mobilenet(tmp_path: Path) -> Path:
    """Random weights, batch norms with uneven scales and with the statistics of images, as training leaves them."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(num_classes=10, dropout=0.0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.exp(0.6 * torch.randn_like(module.weight))
            module.bias.data = 0.5 * torch.randn_like(module.bias)
            module.momentum = None
            module.reset_running_stats()
    images = torch.from_numpy(np.concatenate(smooth_images(32, seed=1)))
    with torch.no_grad():
        network.train()(images)
    path = tmp_path / "mobilenet_v2.onnx"
    torch.onnx.export(network.eval(), (images[:1],), path, input_names=["input"], opset_version=17, dynamo=False)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_equalize_relu6_network_changes_ranges_and_keeps_scores(mobilenet: Path) -> None:
    model = prepare(read_model(mobilenet)).model
    assert sum(node.op_type == "Clip" for node in model.graph) == 35
    builder, selection = builder_of(model, work=smooth_images(12, seed=2), others=smooth_images(12, seed=3))
    plain = Recipe(method=Percentile())
    wanted = plain.changed(channel_shift=True, equalization=0.5)
    effective = builder.effective(wanted)
    assert effective == wanted
    assert selection.largest_change(builder.rewritten(effective)) <= SAME_FUNCTION
    distance = {one: selection.distance_if_corrected(builder.preview(one).model) for one in (plain, effective)}
    assert distance[effective] < distance[plain]
