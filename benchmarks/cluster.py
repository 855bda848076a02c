"""``--cluster`` against the threads of one process: the same bits, what it costs, and memory.

    python benchmarks/cluster.py [--parts jobs,bits,overhead,memory,nodes] [--model FILE] [--images DIR] [--preset NAME]
                                 [--count 1000] [--set 300] [--kills 10] [--rounds 3] [--repeat 10] [--json FILE]

``jobs``: what a job costs beside its images. ``bits``: the digest of the statistics of a pass by threads, and by 1, 2
and 4 workers, and by 2 workers of which one is killed at random again and again. ``overhead``: `eval` by threads and by
as many workers, in turn; processor seconds of all processes, with those of Ray, from the moment the workers are there
to the last image; its start is told apart. Processor seconds are what other programs on the machine disturb least.
``memory``: the largest private memory of the driver and of a worker over so many images and over ``--repeat`` times as
many. ``nodes``: two nodes on this machine, through Ray's own cluster utility, of which one is removed half-way.
Everything listens on the loopback address only.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inputs import SHARED

from quantkit.config.method import MinMax
from quantkit.data.build_set import choose_images
from quantkit.data.folder import find_labelled_images
from quantkit.data.parallel import available_cpus
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.evaluate import evaluate
from quantkit.workflows.presets import load_preset
from quantkit.workflows.quantize_task import QuantizeOptions

# Ray is imported with these: nothing listens beyond the loopback address, and nothing is reported.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_TICKS = os.sysconf("SC_CLK_TCK")


def descendants() -> dict[int, str]:
    """Return the processes that this one started, directly or not, with what they call themselves."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    found, before = {os.getpid()}, 0
    while len(found) > before:
        before = len(found)
        found |= {process for process, parent in parents.items() if parent in found}
    return {process: names.get(process, "") for process in found - {os.getpid()}}


def workers() -> list[int]:
    """Return the processes of quantkit's workers."""
    return [process for process, name in descendants().items() if name.startswith("ray::Worker")]


def processor_seconds() -> float:
    """Return what this process and its descendants that run have used so far."""
    total = time.process_time()
    for process in descendants():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def private_mb(process: int) -> float:
    """Return the memory that a process shares with no other, 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


class Watch:
    """A progress that notes when work begins, behind the start of the cluster, and when the last image is done."""

    def __init__(self) -> None:
        self.begun = self.ended = (time.monotonic(), processor_seconds())
        self.messages: list[str] = []
        self.done = 0

    def task(self, name: str, unit: str) -> Callable[[int, int], None]:
        """Begin a task."""

        def count(done: int, total: int) -> None:
            self.done = done
            if done == total:
                self.ended = (time.monotonic(), processor_seconds())

        return count

    def message(self, text: str) -> None:
        """Remember a message; the cluster's first one says that the workers are there."""
        self.messages.append(text)
        if text.startswith("--cluster"):
            self.begun = (time.monotonic(), processor_seconds())

    @property
    def wall_s(self) -> float:
        """Seconds of the work."""
        return self.ended[0] - self.begun[0]

    @property
    def processor_s(self) -> float:
        """Processor seconds of the work, of all processes."""
        return self.ended[1] - self.begun[1]


@contextlib.contextmanager
def repeatedly(do: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do something at intervals while the block runs."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def statistics_digest(options: argparse.Namespace, cluster: str | None, progress: Any = None) -> str:
    """Return the digest of the statistics file of a pass."""
    chosen = choose_images(find_labelled_images(options.images), count=options.set)
    with tempfile.TemporaryDirectory() as folder:
        calibrate(
            options.model,
            chosen,
            load_preset(options.preset),
            run=folder,
            method=MinMax(),
            options=QuantizeOptions(bias_correction=False),
            cluster=cluster,
            progress=progress,
        )
        return hashlib.sha256((Path(folder) / "statistics.safetensors").read_bytes()).hexdigest()


def measure_bits(options: argparse.Namespace) -> dict[str, Any]:
    """Return the digests of the statistics, by how they were made."""
    digests = {"threads": statistics_digest(options, None)}
    print(f"threads                      {digests['threads'][:16]}", flush=True)
    for count in (1, 2, 4):
        digests[f"local:{count}"] = statistics_digest(options, f"local:{count}")
        print(f"{count} workers                    {digests[f'local:{count}'][:16]}", flush=True)
    rng, killed, watch = random.Random(0), list[int](), Watch()

    def kill() -> None:
        alive = workers()
        if alive and len(killed) < options.kills and any(text.startswith("--cluster") for text in watch.messages):
            killed.append(rng.choice(alive))
            with contextlib.suppress(ProcessLookupError):
                os.kill(killed[-1], signal.SIGKILL)

    with repeatedly(kill, options.kill_every):
        digests["killed"] = statistics_digest(options, "local:2", watch)
    print(f"2 workers, {len(killed)} killed          {digests['killed'][:16]}", flush=True)
    return {"digests": digests, "killed": len(killed), "same": len(set(digests.values())) == 1}


def run_eval(options: argparse.Namespace, images: Any, cluster: str | None) -> tuple[Watch, float]:
    """Evaluate with nothing cached; return when what happened, and top-1."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as cache:
        pipeline = load_preset(options.preset)
        done = evaluate(options.model, images=images, pipeline=pipeline, cache=cache, cluster=cluster, progress=watch)
    return watch, done.accuracy.top1


def measure_overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of eval by threads and by workers, in turn."""
    images = find_labelled_images(options.images)
    images = images.only(range(min(options.count, len(images))))
    run_eval(options, images.only(range(min(8, len(images)))), None)  # code is compiled and read for the first time
    cluster, rounds = f"local:{available_cpus()}", []
    for _ in range(options.rounds):
        local, expected = run_eval(options, images, None)
        spread, found = run_eval(options, images, cluster)
        assert found == expected
        row = {
            "threads_cpu_s": local.processor_s,
            "cluster_cpu_s": spread.processor_s,
            "cpu_ratio": spread.processor_s / max(local.processor_s, 1e-9),
            "threads_s": local.wall_s,
            "cluster_s": spread.wall_s,
        }
        rounds.append(row)
        print(
            f"{len(images)} images   threads {local.wall_s:6.1f} s, {local.processor_s:6.1f} processor s   {cluster} "
            f"{spread.wall_s:6.1f} s, {spread.processor_s:6.1f} processor s   ratio {row['cpu_ratio']:.3f}   "
            f"{spread.messages[0]}",
            flush=True,
        )
    ratio = statistics.median(row["cpu_ratio"] for row in rounds)
    print(f"median ratio of processor seconds {ratio:.3f}")
    return {"rounds": rounds, "cpu_ratio": ratio}


def repeated(images: Path, times: int, folder: Path) -> Path:
    """Return a folder that holds links to the images, so many times."""
    for source in find_labelled_images(images).items:
        for turn in range(times):
            link = folder / source.id.replace(".", f"-{turn}.", 1)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(str(source.where)).resolve())
    return folder


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Return the largest private memory of driver and workers over few and over many images."""
    found = {}
    for times in (1, options.repeat):
        with tempfile.TemporaryDirectory() as folder:
            images = find_labelled_images(repeated(options.images, times, Path(folder)))
            peaks = {"driver": 0.0, "worker": 0.0}

            def look(peaks: dict[str, float] = peaks) -> None:
                peaks["driver"] = max(peaks["driver"], private_mb(os.getpid()))
                peaks["worker"] = max([peaks["worker"], *map(private_mb, workers())])

            with repeatedly(look, 0.5):
                run_eval(options, images, f"local:{available_cpus()}")
        found[len(images)] = peaks
        print(
            f"{len(images):6} images   driver {peaks['driver']:.0f} MB   a worker at most {peaks['worker']:.0f} MB",
            flush=True,
        )
    return {"peaks_mb": found}


def measure_nodes(options: argparse.Namespace) -> dict[str, Any]:
    """Return whether two nodes, one of which is removed half-way, give the statistics of threads."""
    import ray
    from ray.cluster_utils import Cluster

    expected = statistics_digest(options, None)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second, removed = nodes.add_node(num_cpus=1), list[int]()
    ray.init(address=nodes.address, log_to_driver=False)
    watch = Watch()

    def remove() -> None:
        if not removed and watch.done >= options.set // 4:
            removed.append(watch.done)
            nodes.remove_node(second, allow_graceful=False)

    try:
        with repeatedly(remove, 0.1):
            found = statistics_digest(options, "auto", watch)
    finally:
        ray.shutdown()
        nodes.shutdown()
    where = f"after {removed[0]} images" if removed else "never"
    print(f"2 nodes, one removed {where}: {found[:16]}, threads {expected[:16]}   {watch.messages}", flush=True)
    return {"same": found == expected, "removed_after": removed}


class NoWork:
    """Takes a job as eval has it, 16 images, and returns scores of 1,000 classes without computing anything."""

    runs_jobs_together = True

    def open(self, fetch: Any, threads: int) -> Callable[[Any], Any]:
        """Return what does a job."""
        import numpy

        return lambda job: numpy.zeros((len(job), 1000), numpy.float32)


def measure_jobs(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a job costs beside its images: processor time of the driver and of all processes, and its rate."""
    from quantkit.engine.cluster.address import ClusterAddress
    from quantkit.engine.cluster.ray_engine import RayEngine
    from quantkit.engine.cluster.session import RaySession
    from quantkit.engine.device import CPU

    engine = RayEngine(RaySession(ClusterAddress.parse(f"local:{available_cpus()}"), CPU, 1), Watch())
    try:
        return cost_of_jobs(engine, options.jobs)
    finally:
        engine.close()


def cost_of_jobs(engine: Any, jobs: int) -> dict[str, Any]:
    """Return what a job costs on the workers of an engine."""
    job = tuple((f"class/image-{index:08d}.JPEG", 100_000) for index in range(16))
    list(engine.map(NoWork(), [job] * 50))
    start = (time.monotonic(), time.process_time(), processor_seconds())
    done = sum(1 for _ in engine.map(NoWork(), [job] * jobs))
    end = (time.monotonic(), time.process_time(), processor_seconds())
    wall, driver, all_ = ((after - before) / done for before, after in zip(start, end, strict=True))
    print(
        f"{done} empty jobs: {1000 * driver:.2f} ms of the driver and {1000 * all_:.2f} ms of all processes each, "
        f"{1 / wall:.0f} jobs/s; started in {engine.start_s:.1f} s",
        flush=True,
    )
    return {"driver_s": driver, "all_s": all_, "jobs_per_s": 1 / wall, "start_s": engine.start_s}


PARTS = {
    "jobs": measure_jobs,
    "bits": measure_bits,
    "overhead": measure_overhead,
    "memory": measure_memory,
    "nodes": measure_nodes,
}


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--model", type=Path, default=SHARED / "squeezenet1_1.onnx")
    parser.add_argument("--images", type=Path, default=SHARED / "imagenet_samples")
    parser.add_argument("--preset", default="imagenet")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--set", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kill-every", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.model.is_file() or not options.images.is_dir():
        print("skipped: needs a classifier (--model) and labelled images (--images)")
        return 0
    try:
        import ray
    except ImportError:
        print("skipped: needs quantkit[ray]")
        return 0
    print(f"{options.model.name}, ray {ray.__version__}, {available_cpus()} processors", flush=True)
    figures = {name: PARTS[name](options) for name in options.parts.split(",")}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(part.get("same", True) for part in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
