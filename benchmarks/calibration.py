"""The calibration pass against plain inference, and against onnxruntime's calibrators, in turn, in one run.

    python benchmarks/calibration.py [--models resnet50,mobilenet_v2] [--peers none|ort] [--json FILE]

Models are read from ``--model-dir`` (NAME.onnx) or beside the checkout, or exported with random weights where torch is
installed. Photographs come from ``--images``. The ratios are medians over
rounds in which everything is timed once, on images that are decoded beforehand; ``end_to_end`` includes decoding.
A pass over few images is mostly what it costs to begin and to end one; a second one, over a quarter of the images,
tells ``pass_fixed_ms`` from ``pass_ms_per_image`` and gives the ratio of long passes, ``ratio_per_image`` and, in
processor time, ``cpu_ratio_per_image``.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from inputs import SHARED, find_model, find_photographs, in_process, peak_mb

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile
from quantkit.config.pipeline import PRESETS
from quantkit.data.preprocess import preprocess
from quantkit.engine.observe import complete, observe
from quantkit.engine.session import open_session
from quantkit.engine.tap import TappedSession
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.taps import observed_tensors
from quantkit.graph.qdq.weights import WeightIntegers
from quantkit.graph.qdq.write import write_qdq
from quantkit.search.method_selection import CANDIDATES, MethodSelection, select_method
from quantkit.stats.kl import (
    RELAY_BINS,
    RELAY_LEVELS,
    TENSORRT_BINS,
    TENSORRT_LEVELS,
    symmetric_divergences,
    tensorrt_divergences,
)
from quantkit.stats.observed import Observed
from quantkit.stats.solve import solve, solve_all, solve_observed
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import ORT, TENSORRT, VACC

MODELS = ("resnet50", "mobilenet_v2", "squeezenet1_1", "iresnet50")
THREADS = 2
# Images that method auto compares methods on where a network is as large as ResNet-50.
AUTO_IMAGES = 12
PIPELINE = PRESETS["imagenet"]
SOLVED: dict[str, tuple[Method, Any]] = {
    "minmax": (MinMax(), ORT),
    "percentile": (Percentile(), ORT),
    "kl_tensorrt": (Kl(), TENSORRT),
    "kl_relay": (Kl(), VACC),
    "kl_ort": (Kl(definition="ort"), ORT),
    "mse_affine": (Mse(), ORT),
    "mse_symmetric": (Mse(), VACC),
}


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_pass(session: TappedSession, paths: list[Path], load: Any) -> dict[str, TensorStatistics]:
    *_, chunk = observe(session, paths, load, threads=THREADS)
    return chunk.observed().tensors


def observed_by(session: TappedSession, prepared: Any, paths: list[Path], load: Any) -> Observed:
    """Return what a pass observes of all tensors."""
    wanted = observed_tensors(prepared)
    *_, chunk = observe(session, paths, load, threads=THREADS)
    return complete(chunk.observed(), wanted)


def time_ours(model: Path, paths: list[Path], rounds: int) -> dict[str, Any]:
    """Time plain inference and the pass in turn, with and without decoding."""
    load = partial(preprocess, pipeline=PIPELINE)
    arrays = {path: load(path) for path in paths}
    prepared = prepare(read_model(model))
    names = observed_tensors(prepared.model).tapped
    session = TappedSession(prepared.model, names)
    plain, single = open_session(model, threads=THREADS), open_session(model)
    feed = plain.get_inputs()[0].name
    short = paths[: max(len(paths) // 4, 1)]

    def infer() -> None:
        for path in paths:
            plain.run(None, {feed: arrays[path][None]})

    def infer_decoding() -> None:
        for path in paths:
            plain.run(None, {feed: load(path)[None]})

    def infer_side_by_side() -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda path: single.run(None, {feed: arrays[path][None]})[0].shape, paths):
                pass

    work: dict[str, Callable[[], object]] = {
        "plain": infer,
        "pass": lambda: run_pass(session, paths, arrays.__getitem__),
        "short_pass": lambda: run_pass(session, short, arrays.__getitem__),
        "side_by_side": infer_side_by_side,
        "plain_decoding": infer_decoding,
        "pass_decoding": lambda: run_pass(session, paths, load),
    }
    for one in work.values():
        one()
    cpu_ratios = ratios_of_processor_time(work, len(short), len(paths), rounds)
    times = {key: [] for key in work}  # type: dict[str, list[float]]
    for _ in range(rounds):
        for key, one in work.items():
            times[key].append(timed(one))

    def ratio(key: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(times[key], times[base], strict=True))

    seen = run_pass(session, paths, arrays.__getitem__)
    return {
        "images": len(paths),
        "tensors": len(names),
        "values_per_image": sum(one.count for one in seen.values()) // len(paths),
        "plain_ms_per_image": 1000 * statistics.median(times["plain"]) / len(paths),
        "ratio_to_inference": ratio("pass", "plain"),
        **fixed_and_per_image(times, len(short), len(paths)),
        "ratio_to_side_by_side_inference": ratio("pass", "side_by_side"),
        **cpu_ratios,
        "ratio_end_to_end": ratio("pass_decoding", "plain_decoding"),
        **time_solving(seen),
        **time_auto(
            prepared.model,
            observed_by(session, prepared.model, paths, arrays.__getitem__),
            list(arrays.values()),
            statistics.median(cpu_seconds(work["pass"]) for _ in range(rounds)) / len(paths),
        ),
        "sketch": sketch_error(session, names, [arrays[path] for path in paths[:8]]),
    }


def time_auto(prepared: Any, observed: Observed, images: list[Any], pass_s: float) -> dict[str, float]:
    """Return the processor time of method auto, and its share of a pass over 1,000 images, from that of one image."""
    made = plan(prepared, ORT)

    def select() -> MethodSelection:
        weights = WeightIntegers()
        return select_method(
            prepared,
            CANDIDATES,
            lambda method: solve_observed(observed, method, ORT, needed=made.observed),
            lambda ranges: write_qdq(prepared, made, ranges, known_weights=weights),
            [image[None] for image in images[:AUTO_IMAGES]],
            corrected=True,
            threads=THREADS,
        )

    select()  # compile
    spent = cpu_seconds(select)
    return {"auto_cpu_seconds": spent, "auto_share_of_pass_over_1000": spent / (1000 * pass_s)}


def ratios_of_processor_time(
    work: dict[str, Callable[[], object]], few: int, many: int, rounds: int
) -> dict[str, float]:
    """Return the ratios of processor time, which other programs on the machine disturb least.

    Inference runs in threads of their own, because one that works for another waits in a spin.
    """
    times = [{key: cpu_seconds(work[key]) for key in ("side_by_side", "pass", "short_pass")} for _ in range(rounds)]
    ratios = {"cpu_ratio_to_inference": statistics.median(one["pass"] / one["side_by_side"] for one in times)}
    if few < many:
        scale = many / (many - few)
        each = [scale * (one["pass"] - one["short_pass"]) / one["side_by_side"] for one in times]
        ratios["cpu_ratio_per_image"] = statistics.median(each)
    return ratios


def fixed_and_per_image(times: dict[str, list[float]], few: int, many: int) -> dict[str, float]:
    """Return the line through a short and a long pass: what any pass costs, and each image of it."""
    if few == many:
        return {}
    per_image = [(b - a) / (many - few) for a, b in zip(times["short_pass"], times["pass"], strict=True)]
    slope = statistics.median(per_image)
    return {
        "pass_ms_per_image": 1000 * slope,
        "pass_fixed_ms": 1000 * (statistics.median(times["pass"]) - slope * many),
        "ratio_per_image": slope * many / statistics.median(times["plain"]),
    }


def time_solving(seen: dict[str, TensorStatistics]) -> dict[str, Any]:
    seconds = {}
    for name, (method, target) in SOLVED.items():
        solve_all(dict(list(seen.items())[:1]), method, target)  # compile
        seconds[name] = timed(partial(solve_all, seen, method, target, threads=THREADS))
    return {"solve_seconds": max(seconds.values()), "solve_seconds_by_method": seconds}


def sketch_error(session: TappedSession, names: tuple[str, ...], images: list[Any]) -> dict[str, Any]:
    """Compare what the sketch gives with what all activations give, sorted or counted in the bins of each definition.

    ``percentile_worst_relative_error`` is the greatest of any range. For each definition of KL, ``beyond_one_bin`` is
    how many tensors get a threshold further off than one of its bins, and ``worst_excess`` the greatest share by which
    the divergence of the raw activations at the candidate nearest to it is above the least: where the curve is flat,
    its least point may be anywhere. TensorRT's has a value only at thresholds whose last bin is not empty.
    """
    from quantkit.stats.observer import Observer

    values: dict[str, list[Any]] = {name: [] for name in names}
    for x in images:
        for name, value in session.run(x[None])[1]:
            values[name].append(value.ravel())
    worst, divergences = 0.0, {"kl_tensorrt": [], "kl_relay": []}  # type: float, dict[str, list[tuple[int, float]]]
    for name in names:
        x = np.concatenate(values.pop(name))
        observer = Observer()
        observer.observe(x)
        found = observer.statistics()
        exact = np.sort(np.abs(x))
        for fraction in (0.999, 0.9999, 0.99999):
            expected = float(exact[int(x.size * fraction)])
            threshold = solve(found, Percentile(fraction=fraction, of="magnitude"), VACC).threshold
            if expected > 0:
                worst = max(worst, abs(threshold / expected - 1))
        if exact[-1] > 0:
            divergences["kl_tensorrt"].append(tensorrt_error(exact, solve(found, *SOLVED["kl_tensorrt"]).threshold))
            divergences["kl_relay"].append(relay_error(x, solve(found, *SOLVED["kl_relay"]).threshold))
    kl = {
        key: {
            "tensors": len(found),
            "beyond_one_bin": sum(bins > 1 for bins, _ in found),
            "worst_excess": max(excess for _, excess in found),
        }
        for key, found in divergences.items()
    }
    return {"percentile_worst_relative_error": worst, **kl}


def tensorrt_error(magnitudes: Any, threshold: float) -> tuple[int, float]:
    """Return how many bins a threshold lies off that of the raw activations, and what it costs there."""
    counts, _ = np.histogram(magnitudes, bins=TENSORRT_BINS, range=(0.0, float(magnitudes[-1])))
    counts[0] = counts[1]
    curve = tensorrt_divergences(counts)
    best = curve.size - 1 - int(np.argmin(curve[::-1]))
    return off_and_excess(curve, best, round(threshold / float(magnitudes[-1]) * TENSORRT_BINS) - TENSORRT_LEVELS)


def relay_error(x: Any, threshold: float) -> tuple[int, float]:
    """Return the same for Relay's definition."""
    greatest = float(np.abs(x).max())
    counts, _ = np.histogram(x, bins=RELAY_BINS, range=(-greatest, greatest))
    curve = symmetric_divergences(counts, RELAY_LEVELS, True)
    upper_edge = round((threshold / greatest + 1.0) / 2.0 * RELAY_BINS)
    ours = min(upper_edge - 1 - RELAY_BINS // 2 - RELAY_LEVELS // 2, curve.size - 1)
    return off_and_excess(curve, int(np.argmin(curve)), ours)


def off_and_excess(curve: Any, best: int, ours: int) -> tuple[int, float]:
    candidates = np.flatnonzero(np.isfinite(curve))
    nearest = float(curve[candidates[np.argmin(np.abs(candidates - ours))]])
    return abs(ours - best), nearest / float(curve[best]) - 1.0 if curve[best] > 0 else 0.0


def _memory_job(model: Path, paths: list[Path], observing: bool) -> float:
    prepared = prepare(read_model(model))
    load = partial(preprocess, pipeline=PIPELINE)
    if observing:
        names = observed_tensors(prepared.model).tapped
        run_pass(TappedSession(prepared.model, names), paths, load)
    else:
        plain = open_session(model, threads=THREADS)
        feed = plain.get_inputs()[0].name
        for path in paths:
            plain.run(None, {feed: load(path)[None]})
    return peak_mb()


def measure_memory(model: Path, paths: list[Path], few: int, many: int) -> dict[str, Any]:
    """Return peaks of passes over the same photographs, seen more or less often.

    A decoded photograph takes 4 bytes a pixel, in each thread: one of 4 megapixels among small ones moves the peak of
    a small network by more than anything that depends on the count.
    """
    seen_by_all = paths[:few]

    def cycled(count: int) -> list[Path]:
        return [seen_by_all[i % len(seen_by_all)] for i in range(count)]

    plain = in_process(_memory_job, model, cycled(few), False)
    with_few = in_process(_memory_job, model, cycled(few), True)
    with_many = in_process(_memory_job, model, cycled(many), True)
    return {
        "extra_memory_mb": with_many - plain,
        f"peak_mb_{few}_images": with_few,
        f"peak_mb_{many}_images": with_many,
        "memory_growth": with_many / with_few - 1,
    }


def _ort_job(model: Path, paths: list[Path], method: str) -> tuple[float, float]:
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    load = partial(preprocess, pipeline=PIPELINE)
    arrays = [load(path)[None] for path in paths]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(arrays)

        def get_next(self) -> Any:
            x = next(self.left, None)
            return None if x is None else {feed: x}

    plain = open_session(model, threads=THREADS)
    feed = plain.get_inputs()[0].name
    plain.run(None, {feed: arrays[0]})
    plain_s = timed(lambda: [plain.run(None, {feed: x}) for x in arrays])
    kind = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}.get(
        method, CalibrationMethod.Entropy
    )
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            str(model), None, augmented_model_path=f"{folder}/augmented.onnx", calibrate_method=kind
        )

        def calibrate() -> None:
            calibrator.collect_data(Reader())
            calibrator.compute_data()

        peer_s = timed(calibrate)
    return peer_s / plain_s, peak_mb()


def time_peers(model: Path, paths: list[Path]) -> dict[str, Any]:
    """Time onnxruntime's calibrators, each beside plain inference in a process of its own."""
    result: dict[str, Any] = {}
    for method in ("minmax", "percentile", "entropy"):
        try:
            ratio, peak = in_process(_ort_job, model, paths, method)
        except RuntimeError as error:
            print(f"onnxruntime's {method} calibrator failed: {error}")
            continue
        result[f"ort_{method}"] = {"ratio_to_inference": ratio, "peak_mb": peak, "images": len(paths)}
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--peers", choices=("none", "ort"), default="ort")
    parser.add_argument("--model-dir", type=Path, default=Path("benchmarks/models"))
    parser.add_argument("--images", type=Path, default=SHARED / "imagenet_samples")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--peer-count", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-counts", default="100,1000")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    paths = find_photographs(options.images, options.count)
    if not paths:
        print(f"skipped: no photographs in {options.images}; give --images")
        return
    few, many = map(int, options.memory_counts.split(","))
    models: dict[str, Any] = {}
    for name in options.models.split(","):
        model = find_model(name, options.model_dir)
        if isinstance(model, str):
            print(f"{name}: skipped, {model}")
            continue
        result = time_ours(model, paths, options.rounds)
        result |= measure_memory(model, paths, few, many)
        if options.peers == "ort":
            result["peers"] = time_peers(model, paths[: options.peer_count])
        models[name] = result
        print(f"{name}: {json.dumps(result, indent=2)}")
    if options.json:
        options.json.write_text(json.dumps({"threads": THREADS, "models": models}, indent=2) + "\n")


if __name__ == "__main__":
    main()
