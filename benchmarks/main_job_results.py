"""Evaluate int8 models of any tool alike, on images that none of them has seen, in plain numpy and onnxruntime.

    python main_job_results.py JOB.json NAME=MODEL.onnx ...

The first model is the fp32 one that the others are compared with. Prints JSON: agreement with fp32, top-1, the paired
difference with its 95 % interval, all in percent, and the time of one image on one thread in onnxruntime and, where it
is installed, in OpenVINO, all models in turn. It is processor time: other programs on the machine disturb it least.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from main_job_peers import load

Runner = Callable[[np.ndarray], Any]
ROUNDS = 31
# A turn is long enough for the clock, and short enough that all models meet the same machine.
TURN_S = 0.03


def answers_of(models: dict[str, str], job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the class that each model gives to each image."""
    runners = in_onnxruntime(models, job)

    def answer(image: tuple[str, int]) -> list[int]:
        x = load(image[0], job["preprocessing"])
        return [int(run(x)[0].argmax()) for run in runners.values()]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = np.asarray(list(pool.map(answer, job["held_out"])))
    return dict(zip(models, answers.T, strict=True))


def accuracy(found: np.ndarray, fp32: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return agreement and accuracy in percent; the interval of the difference is the normal one of paired answers."""
    difference = (found == labels).astype(float) - (fp32 == labels)
    agreement = float((found == fp32).mean())
    half = 1.96 * difference.std() / len(labels) ** 0.5
    return {
        "agreement": 100 * agreement,
        "agreement_se": 100 * (agreement * (1 - agreement) / len(labels)) ** 0.5,
        "top1": 100 * float((found == labels).mean()),
        "difference": 100 * float(difference.mean()),
        "lo": 100 * float(difference.mean() - half),
        "hi": 100 * float(difference.mean() + half),
    }


def in_onnxruntime(models: dict[str, str], job: dict[str, Any]) -> dict[str, Runner]:
    """Return what runs each model on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1

    def runner(file: str) -> Runner:
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {job["input"]: x})

    return {name: runner(file) for name, file in models.items()}


def in_openvino(models: dict[str, str], image: np.ndarray) -> dict[str, Runner]:
    """Return what runs each model on one thread, none without OpenVINO; a model that it refuses is left out."""
    try:
        import openvino
    except ImportError:
        return {}
    core, runners = openvino.Core(), {}
    for name, file in models.items():
        try:
            model = core.read_model(file)
            model.reshape(list(image.shape))
            request = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1}).create_infer_request()
        except Exception as error:
            print(f"OpenVINO refuses {name}: {error}", file=sys.stderr)
            continue
        runners[name] = lambda x, request=request: request.infer([x])
    return runners


def in_turn(runners: dict[str, Runner], image: np.ndarray) -> dict[str, float]:
    """Return the milliseconds of one image, the median of the rounds."""
    once = {}
    for name, run in runners.items():
        run(image)
        start = time.process_time()
        run(image)
        once[name] = time.process_time() - start
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(ROUNDS):
        # There and back, so that no model always runs in the wake of the same other one.
        for name, run in list(runners.items())[:: 1 if turn % 2 else -1]:
            repeats = max(1, round(TURN_S / once[name]))
            start = time.process_time()
            for _ in range(repeats):
                run(image)
            times[name].append((time.process_time() - start) / repeats)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Evaluate the models of the command line."""
    job = json.loads(Path(sys.argv[1]).read_text())
    models = dict(argument.split("=", 1) for argument in sys.argv[2:])
    image = load(job["held_out"][0][0], job["preprocessing"])
    figures: dict[str, dict[str, float]] = {name: {} for name in models}
    if job["trained"]:
        answers = answers_of(models, job)
        labels = np.asarray([label for _, label in job["held_out"]])
        for name, found in answers.items():
            figures[name] = accuracy(found, next(iter(answers.values())), labels)
    for runtime, runners in {
        "onnxruntime_ms": in_onnxruntime(models, job),
        "openvino_ms": in_openvino(models, image),
    }.items():
        for name, ms in in_turn(runners, image).items():
            figures[name][runtime] = ms
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
