"""Where a command runs its models: on the threads of this process, or on the workers of a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from quantkit.config.pipeline import Pipeline
from quantkit.data.parallel import available_cpus
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.cluster.address import ClusterAddress
from quantkit.engine.cluster.ray_engine import RayEngine
from quantkit.engine.cluster.scores import scores_on_cluster
from quantkit.engine.cluster.session import RaySession
from quantkit.engine.device import Device, as_device
from quantkit.engine.predict import Answer
from quantkit.errors import UsageError
from quantkit.progress import NoProgress, Progress, as_progress


@dataclass(frozen=True)
class Execution:
    """Where models run; use it in a ``with`` statement, at whose end a cluster is left.

    Attributes:
        device: of the workers, and of what runs in this process whether there is a cluster or not.
        threads: of this process.
        engine: the cluster, None without one; it is connected to when there is work for it.
        progress: receives the progress.
    """

    device: Device
    threads: int
    engine: RayEngine | None
    progress: Progress = field(default_factory=NoProgress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.engine is not None:
            self.engine.close()

    @property
    def start_s(self) -> float:
        """Seconds that the start of the cluster took, 0 without one."""
        return 0.0 if self.engine is None else self.engine.start_s

    def answer(self, files: Sequence[ClassifierFile], source: ImageSource, pipeline: Pipeline) -> Answer | None:
        """Return what runs models on the cluster, None without one."""
        if self.engine is None:
            return None
        return partial(scores_on_cluster, self.engine, files, source, pipeline, self.device)


def choose_execution(
    cluster: str | None,
    device: Device | str,
    threads: int | None,
    progress: Progress | None,
    *,
    workers_on_cpu: bool = False,
) -> Execution:
    """Return where models are to run.

    Args:
        cluster: ``auto``, ``ray://HOST:PORT`` or ``local:N``; None for this process.
        device: what they run on, there.
        threads: of this process, or of each worker.
        progress: receives the progress.
        workers_on_cpu: workers can do this work on the CPU only.

    Raises:
        UsageError: the address is malformed, Ray is not installed, or workers cannot use this device.
        DeviceError: the device is not there; with a cluster, this machine needs one too.
    """
    device, progress = as_device(device), as_progress(progress)
    if cluster is None:
        return Execution(device.resolved(), threads or available_cpus(), None, progress)
    if workers_on_cpu and not device.is_cpu:
        raise UsageError(
            "the workers of a cluster do this on the CPU only",
            where=f"--device {device.name}",
            fix="leave out --device, or --cluster",
        )
    session = RaySession(ClusterAddress.parse(cluster), device, threads)
    # The record says where models run by what this process opens, so it needs such a device too.
    return Execution(device.resolved(), available_cpus(), RayEngine(session, progress), progress)
