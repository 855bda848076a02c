"""Commands on the workers of a real Ray on this machine: the bits of threads, whatever happens to workers."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny_model, write_images
from progress_log import ProgressLog

import quantkit
from quantkit.config.pipeline import Decode, Normalize, Pipeline, ToTensor
from quantkit.data.build_set import choose_images
from quantkit.engine.cluster.address import ClusterAddress
from quantkit.engine.cluster.ray_engine import RayEngine
from quantkit.engine.cluster.session import RaySession
from quantkit.engine.device import CPU, Device
from quantkit.errors import ClusterError, ImageError, UsageError
from quantkit.progress import Progress, as_progress
from quantkit.runs.folder import RunFolder
from quantkit.workflows import calibrate as calibrate_module
from quantkit.workflows import compare as compare_module
from quantkit.workflows import evaluate as evaluate_module
from quantkit.workflows import sensitivity as sensitivity_module
from quantkit.workflows import tune as tune_module
from quantkit.workflows.execution import Execution

ray = pytest.importorskip("ray", reason="needs quantkit[ray]")

PIPELINE = Pipeline(ops=(Decode(), ToTensor(), Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))))


class SharedEngine(RayEngine):
    """Stays open between tests: starting Ray takes seconds."""

    def close(self) -> None:
        pass

    def really_close(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def engine() -> Iterator[SharedEngine]:
    """Return two workers of one thread on this machine."""
    made = SharedEngine(RaySession(ClusterAddress.parse("local:2"), CPU, 1), ProgressLog())
    try:
        assert made.workers == 2
        yield made
    finally:
        made.really_close()


@pytest.fixture
def on_cluster(engine: SharedEngine, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an address that stands for the shared engine."""

    def place(
        cluster: str | None, device: Device, threads: int | None, progress: Progress | None, **_: Any
    ) -> Execution:
        return Execution(device, 2, None if cluster is None else engine, as_progress(progress))

    for module in (calibrate_module, compare_module, evaluate_module, sensitivity_module, tune_module):
        monkeypatch.setattr(module, "choose_execution", place)
    return "auto"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and 160 labelled images."""
    made = tmp_path_factory.mktemp("cluster")
    tiny_model(made / "model.onnx")
    images = quantkit.find_labelled_images(write_images(made / "images", per_class=40))
    choose_images(images, count=len(images)).save(made / "set.csv")
    return made


def worker_processes() -> list[int]:
    """Return the processes of the workers that this process started."""
    commands = {one: Path(f"/proc/{one}/cmdline") for one in descendants(os.getpid())}
    return [one for one, path in commands.items() if path.exists() and path.read_bytes().startswith(b"ray::Worker")]


def test_cluster_evaluation_has_bits_of_threads(folder: Path, on_cluster: str) -> None:
    kept: dict[str | None, Any] = {}
    for cluster in (None, on_cluster):
        kept[cluster] = quantkit.evaluate(
            folder / "model.onnx",
            images=folder / "images",
            pipeline=PIPELINE,
            cache=folder / f"cache-{cluster}",
            cluster=cluster,
        )
    here, there = kept[None].predictions, kept[on_cluster].predictions
    assert here.names == there.names
    for name in ("top", "margin", "labels"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    scores = [sorted((folder / f"cache-{cluster}").rglob("*.scores")) for cluster in kept]
    assert scores[0][0].read_bytes() == scores[1][0].read_bytes()


def test_cluster_statistics_have_bits_of_threads(folder: Path, on_cluster: str, tmp_path: Path) -> None:
    for cluster, run in ((None, "here"), (on_cluster, "there")):
        calibrate(folder, tmp_path / run, cluster)
    for name in ("statistics.safetensors", "int8.onnx", "ranges.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_cluster_stable_pass_stops_at_same_image(folder: Path, on_cluster: str, tmp_path: Path) -> None:
    found = [
        calibrate(folder, tmp_path / run, cluster, until_stable=20.0)
        for cluster, run in ((None, "here"), (on_cluster, "there"))
    ]
    assert 16 < len(found[0].statistics.images) < 160
    assert found[0].statistics.images == found[1].statistics.images
    assert found[0].statistics.convergence == found[1].statistics.convergence


def test_cluster_interrupted_pass_resumes_elsewhere_to_same_bits(folder: Path, on_cluster: str, tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        if name == "calibrating" and done >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(folder, tmp_path / "there", on_cluster, progress=ProgressLog(stop))
    assert RunFolder(tmp_path / "there").partial.is_file()
    calibrate(folder, tmp_path / "there", None)
    calibrate(folder, tmp_path / "here", None)
    name = "statistics.safetensors"
    assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def calibrate(folder: Path, run: Path, cluster: str | None, **options: Any) -> quantkit.Calibration:
    """Calibrate the model on all images."""
    return quantkit.calibrate(
        folder / "model.onnx",
        folder / "set.csv",
        PIPELINE,
        run=run,
        method="minmax",
        cluster=cluster,
        **options,
    )


def test_cluster_comparison_sensitivity_and_tuning_equal_threads(folder: Path, on_cluster: str, tmp_path: Path) -> None:
    found = []
    for cluster, run in ((None, "here"), (on_cluster, "there")):
        calibrate(folder, tmp_path / run, None)
        comparison = quantkit.compare(
            ["fp32", "int8"],
            run=tmp_path / run,
            images=folder / "images",
            pipeline=PIPELINE,
            drift_images=0,
            cluster=cluster,
        )
        layers = quantkit.sensitivity(tmp_path / run, count=20, cluster=cluster)
        options = quantkit.TuneOptions(goal=quantkit.Goal(max_drop=50.0), disable=frozenset(quantkit.Stage))
        tuned = quantkit.tune(tmp_path / run, options, images=folder / "images", cluster=cluster)
        found.append((comparison.rows(), layers.to_json(), tuned.trials[0].holdout))
    assert found[0] == found[1]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_cluster_killed_workers_are_replaced_and_images_counted_once(
    folder: Path, engine: SharedEngine, on_cluster: str, tmp_path: Path
) -> None:
    calibrate(folder, tmp_path / "here", None)
    log, killed = ProgressLog(), list[int]()
    engine._progress = log

    def kill(name: str, done: int, total: int) -> None:
        if name == "calibrating" and len(killed) < 3 and (alive := worker_processes()):
            killed.append(alive[-1])
            os.kill(killed[-1], signal.SIGKILL)

    calibrate(folder, tmp_path / "there", on_cluster, progress=ProgressLog(kill))
    assert killed
    assert "a worker died; its images are run again" in log.messages
    name = "statistics.safetensors"
    assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_cluster_benchmark_counts_processor_time_of_all_processes(
    engine: SharedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    benchmark = importlib.import_module("cluster")
    ray.cloudpickle.register_pickle_by_value(benchmark)  # workers do not find the module
    cost = benchmark.cost_of_jobs(engine, 20)
    assert cost["jobs_per_s"] > 0.0
    assert cost["all_s"] >= cost["driver_s"] > 0.0


def test_cluster_damaged_image_ends_in_error_of_threads(folder: Path, on_cluster: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    (images / "b" / "001.png").write_bytes(b"no image")
    messages = []
    for cluster in (None, on_cluster):
        with pytest.raises(ImageError) as raised:
            quantkit.evaluate(
                folder / "model.onnx", images=images, pipeline=PIPELINE, cache=tmp_path / "cache", cluster=cluster
            )
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_cluster_image_that_differs_at_worker_is_named(folder: Path, on_cluster: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")

    source = quantkit.find_labelled_images(images)
    set_ = choose_images(source, count=16)
    where = Path(str(set_.items[9].where))
    content = where.read_bytes()

    class Changing(ProgressLog):
        def task(self, name: str, unit: str) -> Any:
            if name == "calibrating":  # the driver has checked the images
                where.write_bytes(content + b"more")
            return super().task(name, unit)

    with pytest.raises(ImageError, match="another content at this worker; make the same images available"):
        quantkit.calibrate(
            folder / "model.onnx", set_, PIPELINE, run=tmp_path / "run", cluster=on_cluster, progress=Changing()
        )


def test_cluster_arrays_in_memory_are_refused(folder: Path, on_cluster: str, tmp_path: Path) -> None:
    arrays = np.zeros((8, 3, 8, 8), np.float32)
    with pytest.raises(UsageError, match="which the workers of a cluster cannot read; give a folder"):
        quantkit.evaluate(folder / "model.onnx", images=(arrays, [0] * 8), cache=tmp_path / "cache", cluster=on_cluster)


@pytest.mark.parametrize("device", [Device("auto"), Device("cuda", 1)])
def test_cluster_device_ambiguous_for_workers_is_refused(device: Device) -> None:
    with pytest.raises(UsageError, match=f"workers of a cluster cannot run on the device {device.name}"):
        RaySession(ClusterAddress.parse("local:1"), device, None)


def test_cluster_second_ray_in_one_process_is_refused(engine: SharedEngine) -> None:
    other = RaySession(ClusterAddress.parse("local:1"), CPU, 1)
    with pytest.raises(ClusterError, match="this process is connected to a Ray already; use it with the cluster auto"):
        other.start()


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="reads /proc")
def test_cluster_own_ray_listens_on_loopback_only(engine: SharedEngine) -> None:
    sockets = listening(descendants(os.getpid()))
    assert len(sockets) > 2
    assert set(sockets) == {"127.0.0.1"}


def descendants(of: int) -> set[int]:
    """Return a process and all that it started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, before = {of}, 0
    while len(found) > before:
        before = len(found)
        found |= {process for process, parent in parents.items() if parent in found}
    return found


def listening(of: set[int]) -> list[str]:
    """Return the addresses that processes listen on."""
    inodes = set()
    for process in of:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                address = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
                found.append(socket.inet_ntoa(address[-4:]))
    return found


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_cluster_interrupted_command_leaves_no_process(folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", per_class=1)
    for file in sorted(images.rglob("*.png")):
        for number in range(2000):
            os.link(file, file.with_stem(f"again{number}"))
    command = [sys.executable, "-m", "quantkit", "--verbose", "eval", str(folder / "model.onnx")]
    command += ["--images", str(images), "--preset", str(preset(tmp_path)), "--cluster", "local:1", "--threads", "1"]
    # Where the tests run in the background, a shell lets them ignore the signal.
    process = subprocess.Popen(
        command,
        text=True,
        cwd=tmp_path,
        preexec_fn=heed_interrupts,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        lines.extend(process.stderr)

    reader = threading.Thread(target=read)
    reader.start()
    assert within(240, lambda: any("--cluster local:1" in line for line in lines))
    started = descendants(process.pid) - {process.pid}
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    reader.join()
    assert process.stdout is not None
    process.stdout.close()
    process.stderr.close()
    assert started
    assert within(60, lambda: not any(Path(f"/proc/{one}").exists() for one in started))


def heed_interrupts() -> None:
    """Undo that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Return whether something holds before so many seconds have gone."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        if holds():
            return True
        time.sleep(0.2)
    return holds()


def preset(folder: Path) -> Path:
    """Write a preset of 8 x 8 images."""
    path = folder / "preset.yaml"
    path.write_text("ops:\n- op: decode\n- op: to_tensor\n")
    return path
