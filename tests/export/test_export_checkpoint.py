"""Checkpoints: found in their containers, fitted strictly, refused in words that say what is wrong."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs quantkit[torch]")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from quantkit.errors import CheckpointError  # noqa: E402
from quantkit.export.checkpoint import load_weights, read_state_dict  # noqa: E402

pytestmark = pytest.mark.torch


def make_network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return make_network()


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    state, other_state = one.state_dict(), other.state_dict()
    return all(torch.equal(state[name], other_state[name]) for name in state)


@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."], ids=lambda one: one or "plain")
def test_checkpoint_any_container_and_prefix_is_loaded(
    network: nn.Module, tmp_path: Path, container: str | None, prefix: str
) -> None:
    path = tmp_path / "a.pth"
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    beside = {"epoch": 90, "args": argparse.Namespace(lr=0.1), "best": np.float64(75.5), "old": np.float32(1)}
    torch.save(state if container is None else {**beside, container: state}, path)
    other = make_network()
    load_weights(other, read_state_dict(path), where=path, network_name="n")
    assert same_weights(network, other)


def test_checkpoint_safetensors_is_loaded(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(network.state_dict(), path)
    other = make_network()
    load_weights(other, read_state_dict(path), where=path, network_name="n")
    assert same_weights(network, other)


def test_checkpoint_half_precision_is_widened(network: nn.Module) -> None:
    load_weights(
        other := make_network(),
        {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in network.state_dict().items()
        },
        where="half.pth",
        network_name="n",
    )
    assert other[0].weight.dtype == torch.float32
    torch.testing.assert_close(other[0].weight, network[0].weight, rtol=1e-3, atol=1e-4)


def test_checkpoint_without_count_of_batches_is_loaded(network: nn.Module) -> None:
    state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    load_weights(make_network(), state, where="old.pth", network_name="n")


def test_checkpoint_prefix_of_the_network_itself_is_kept() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_network()

    network, other = Wrapped(), Wrapped()
    load_weights(other, network.state_dict(), where="a.pth", network_name="n")
    assert same_weights(network, other)


def test_checkpoint_old_densenet_names_are_loaded() -> None:
    models = pytest.importorskip("torchvision", reason="needs quantkit[torch]").models
    with torch.device("meta"):
        names = list(models.densenet121().state_dict())
    network = models.DenseNet(growth_rate=4, block_config=(2,), num_init_features=4)
    state = network.state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor for name, tensor in state.items()}
    assert "features.denseblock1.denselayer1.norm1.weight" in names
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    load_weights(network, old, where="a.pth", network_name="densenet")


def test_checkpoint_of_other_network_names_keys_and_counts(network: nn.Module) -> None:
    state = dict(network.state_dict())
    for name in ("0.weight", "0.bias"):
        del state[name]
    state |= {f"extra.{index}": torch.zeros(1) for index in range(7)}
    state["3.bias"] = torch.zeros(9)
    with pytest.raises(
        CheckpointError,
        match=r"a\.pth: does not match n: missing 2 \(0\.weight, 0\.bias\), "
        r"unexpected 7 \(extra\.0, extra\.1, extra\.2, extra\.3, extra\.4 and 2 more\), "
        r"with another shape 1 \(3\.bias \[9\] instead of \[3\]\); give the network of the checkpoint",
    ):
        load_weights(network, state, where="a.pth", network_name="n")


def test_checkpoint_other_number_of_classes_is_named(network: nn.Module) -> None:
    with pytest.raises(CheckpointError, match=r"with another shape 2 .*; give --num-classes 8"):
        load_weights(network, make_network(8).state_dict(), where="a.pth", network_name="n")


def test_checkpoint_with_nan_is_refused_by_name(network: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["3.weight"][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"contains NaN or infinity in 3\.weight;"):
        load_weights(network, state, where="a.pth", network_name="n")


class Recorder:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_checkpoint_pickled_code_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": Recorder()}}, "evil.pth")
    with pytest.raises(CheckpointError, match=r"contains a pickled .*, not only weights"):
        read_state_dict(Path("evil.pth"))
    assert not Path("ran").exists()


def test_checkpoint_whole_network_is_refused(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(network, path)
    with pytest.raises(
        CheckpointError, match=r"contains a pickled torch\.nn.*Sequential, .*save model\.state_dict\(\)"
    ):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "is not a torch checkpoint"),
        ("a.pth", b"\x89PNG not this", "is not a torch checkpoint"),
        ("a.pth", b"PK\x03\x04 half a zip", "is not a torch checkpoint, or is truncated"),
        ("a.safetensors", b"short", "is not a safetensors file"),
    ],
)
def test_checkpoint_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(path)


def test_checkpoint_truncated_is_refused(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="is not a torch checkpoint, or is truncated"):
        read_state_dict(path)


def test_checkpoint_without_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"epoch": 1, "lr": [0.1]}, path)
    with pytest.raises(CheckpointError, match="has no state dict; its keys are epoch, lr; store only the weights"):
        read_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="contains a list, not a state dict"):
        read_state_dict(path)


def test_checkpoint_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such checkpoint file"):
        read_state_dict(tmp_path / "a.pth")
