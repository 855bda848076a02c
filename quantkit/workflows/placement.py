"""Where a command runs its models: on the threads of this process, or on the workers of a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from quantkit.config.pipeline import Pipeline
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.cluster.address import ClusterAddress
from quantkit.engine.cluster.ray_engine import RayEngine
from quantkit.engine.cluster.scores import scores_on_cluster
from quantkit.engine.cluster.session import RaySession
from quantkit.engine.device import Device
from quantkit.engine.predict import Answer
from quantkit.engine.session import default_threads
from quantkit.progress import Progress


@dataclass(frozen=True)
class Placement:
    """Where models run; use it in a ``with`` statement, at whose end a cluster is left.

    Attributes:
        device: what scores and statistics are recorded to have been computed on.
        threads: of this process.
        engine: the cluster, None without one; it is connected to when there is work for it.
    """

    device: Device
    threads: int
    engine: RayEngine | None

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


def place_work(cluster: str | None, device: Device, threads: int | None, progress: Progress) -> Placement:
    """Return where models are to run.

    Args:
        cluster: ``auto``, ``ray://HOST:PORT`` or ``local:N``; None for this process.
        device: what they run on, there.
        threads: of this process, or of each worker.
        progress: is told of the cluster.

    Raises:
        UsageError: the address is malformed, Ray is not installed, or workers cannot use this device.
        DeviceError: the device is not here; on a cluster, this process runs some images on it too.
    """
    if cluster is None:
        return Placement(device.resolved(), threads or default_threads(), None)
    session = RaySession(ClusterAddress.parse(cluster), device, threads)
    return Placement(device.resolved(), default_threads(), RayEngine(session, progress))
