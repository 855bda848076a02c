"""A connection to Ray: the user's own, or one that is started on this machine's loopback address for the work."""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from quantkit.data.parallel import available_cpus
from quantkit.engine.cluster.address import OPTION, ClusterAddress
from quantkit.engine.cluster.worker import Worker
from quantkit.engine.device import AUTO, Device
from quantkit.engine.session import first_line
from quantkit.errors import ClusterError, UsageError

# Threads of a worker on a cluster: they share a model's weights, and more of them would wait for the interpreter.
_THREADS = 4
# How often Ray starts a worker again.
_RESTARTS = 50
_LOOPBACK = "127.0.0.1"
# A Ray of our own reports nothing to anyone, and uses the loopback address, as Ray does by itself on other systems.
_OWN_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_STORE_BYTES = 1 << 30


class RaySession:
    """Ray, connected to when work begins, with a worker on as many processors as it has threads.

    Args:
        address: of the cluster.
        device: where workers run models: each has a GPU of its own where it is one.
        threads: of each worker. Absent: of a local cluster, the processors divided by the workers; else up to 4.

    Attributes:
        workers: how many there are.
        threads: of each.

    Raises:
        UsageError: Ray is not installed, or this device cannot be used on a cluster.
    """

    def __init__(self, address: ClusterAddress, device: Device, threads: int | None) -> None:
        if device.kind == AUTO or device.index:
            raise UsageError(
                f"workers of a cluster cannot run on the device {device.name}",
                where="--device",
                fix="name one kind of device; Ray gives each worker a GPU of its own",
            )
        self.name = f"{OPTION} {address.url}" + (f":{address.workers}" if address.is_local else "")
        self.workers, self.threads = address.workers or 0, threads or 0
        self._address, self._device = address, device
        self._actors: list[Any] = []
        self._connected = False
        self.ray = _import_ray()

    @property
    def losses(self) -> tuple[type[Exception], ...]:
        """What Ray raises for a job whose worker or node is gone."""
        known = self.ray.exceptions
        return known.RayActorError, known.ObjectLostError, known.NodeDiedError, known.OutOfMemoryError

    def start(self) -> list[Any]:
        """Connect, and return the actors.

        Raises:
            ClusterError: there is no such cluster, or it has no room for a worker.
        """
        self._connect()
        uses_gpus = self._device.kind in ("cuda", "tensorrt")
        if not self._address.is_local:
            self._fill_nodes("GPU" if uses_gpus else "CPU")
        # A worker does as many jobs at once as it has threads; with a device it decodes for one while another runs.
        together = self.threads if self._device.is_cpu else max(2, self.threads)
        actor = self.ray.remote(Worker).options(
            num_cpus=self.threads,
            num_gpus=1 if uses_gpus else 0,
            max_restarts=_RESTARTS,
            max_concurrency=together,
            scheduling_strategy="SPREAD",
        )
        self._actors = [actor.remote(self.threads) for _ in range(self.workers)]
        return self._actors

    def cancel(self, reference: Any) -> None:
        """Drop a job that is not needed any more, if it has not begun."""
        with contextlib.suppress(Exception):  # of whatever kind: the worker may be gone, or Ray itself
            self.ray.cancel(reference)

    def close(self) -> None:
        """Stop the workers, and Ray itself where it was started or connected to here."""
        for actor in self._actors:
            with contextlib.suppress(Exception):
                self.ray.kill(actor, no_restart=True)
        self._actors = []
        if self._connected:
            self.ray.shutdown()
            _print_again()
            self._connected = False

    def _connect(self) -> None:
        if self._address.is_local:
            if self.ray.is_initialized():
                raise ClusterError(
                    "this process is connected to a Ray already", where=self.name, fix="use it with the cluster auto"
                )
            self.threads = self.threads or max(1, available_cpus() // self.workers)
            with _own_ray():
                self._init(
                    address="local",
                    num_cpus=self.workers * self.threads,
                    object_store_memory=_STORE_BYTES,
                    include_dashboard=False,
                    _node_ip_address=_LOOPBACK,
                )
            self._check_loopback()
        elif self._address.url != "auto":
            self._init(address=self._address.url)
        elif not self.ray.is_initialized():
            self._init(address="auto")

    def _init(self, **options: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Ray about its own future
                self.ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except BaseException as error:  # Ray raises many kinds, among them those of the operating system
            with contextlib.suppress(Exception):
                self.ray.shutdown()  # what was started before the error or the interruption
            if not isinstance(error, Exception):
                raise
            raise ClusterError(
                f"Ray cannot be connected to ({first_line(error)})",
                where=self.name,
                fix="start one with ray start --head, or give local:N for this machine alone",
            ) from error
        self._connected = True
        _do_not_print()

    def _check_loopback(self) -> None:
        """Check that Ray took the loopback address.

        Raises:
            ClusterError: it listens on another one.
        """
        addresses = {str(node["NodeManagerAddress"]) for node in self.ray.nodes()}
        if addresses != {_LOOPBACK}:
            self.close()
            raise ClusterError(
                f"Ray listens on {' and '.join(addresses)} where {_LOOPBACK} was asked for",
                where=self.name,
                fix="start Ray as you want it with ray start, and give auto",
            )

    def _fill_nodes(self, resource: str) -> None:
        """Set how many workers there are, and their threads, from what the nodes of a cluster have."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        self.threads = self.threads or min(_THREADS, max(cpus, default=1)) or 1
        fit = [count // self.threads for count in cpus]
        if resource == "GPU":
            fit = [min(room, int(node.get("GPU", 0))) for room, node in zip(fit, nodes, strict=True)]
        self.workers = sum(fit)
        if not self.workers:
            raise ClusterError(
                f"no node has {self.threads} processors" + (" and a GPU" if resource == "GPU" else ""),
                where=self.name,
                fix="give fewer --threads, or start more nodes",
            )


def _import_ray() -> Any:
    """Return Ray's module.

    Raises:
        UsageError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray about packages that it may use
            return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("the package ray is not installed", where=OPTION, fix="install quantkit[ray]") from error


@contextlib.contextmanager
def _own_ray() -> Iterator[None]:
    """Let a Ray that is started meanwhile use the loopback address and report to nobody.

    Ray does the first by itself on other systems than Linux. It reads the variable when it is imported, which may have
    been long ago; what it starts reads it again.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before, clusters = dict(os.environ), constants.ENABLE_RAY_CLUSTER
    os.environ.update(_OWN_RAY)
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        for name in _OWN_RAY:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


_printing: list[Any] = []


def _do_not_print() -> None:
    """Keep Ray from printing deaths of workers to standard output, where results go; they are told as progress."""
    worker: Any = importlib.import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream") and not _printing:
        _printing.append(worker.print_to_stdstream)
        worker.print_to_stdstream = lambda *values, **named: None


def _print_again() -> None:
    if _printing:
        worker: Any = importlib.import_module("ray._private.worker")
        worker.print_to_stdstream = _printing.pop()
