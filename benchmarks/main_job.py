"""The whole job, as a user waits for it, beside the tools that people use: quantize a model and measure what it costs.

    python benchmarks/main_job.py [--models a,b] [--peers nncf,ort-minmax | none] [--rounds 3] [--markdown FILE]

A model and 500 labelled photographs come in; an int8 model and its top-1 accuracy with a 95 % interval come out. 200
of the photographs calibrate, 300 evaluate fp32 and int8; images are decoded in the job. Every job is a process of its
own, from its imports on, and the tools take turns, round by round. ``wall`` and ``CPU`` are medians, with the median of
the rounds' ratios to quantkit in brackets; ``memory`` is the largest peak of any round. On a busy machine, CPU seconds
(user and system) are the figure to look at. ``top-1`` and ``agreement`` with fp32 are measured afterwards, for all
tools by the same plain loop, on images that no job has seen for calibration; ``latency`` is one image on one thread.

quantkit runs as installed here: ``quantkit calibrate`` and ``quantkit compare``, with their defaults. Peers are
installed into environments of their own in ``--environments``, a temporary folder by default. torch from PyPI comes
with gigabytes of CUDA; a tool that would bring it is left out, unless ``--pip-options`` leads to a CPU build, e.g.
``--pip-options "--extra-index-url URL-OF-CPU-WHEELS"``.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from main_job_cases import ROOT, Case, Preprocessing, cases, in_classes, lay_out
from main_job_environments import Environment, NotInstalledError, environment, own_versions
from main_job_table import machine, markdown

# This process imports neither numpy nor quantkit: a child's peak memory would begin with its parent's.
OURS = "quantkit"
# Each peer, and the environment that it runs in.
PEERS = {
    "ort-minmax": "ort",
    "ort-percentile": "ort",
    "ort-entropy": "ort",
    "nncf": "nncf",
    "aimet": "aimet",
    "quark": "quark",
    "modelopt": "modelopt",
}


@dataclass(frozen=True)
class Cost:
    """What a job took: seconds, seconds of all processors, and peak resident memory in MB of its largest process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


class JobFailedError(Exception):
    """A tool's job ended without its result; the message is its last line."""


def commands_of(tool: str, job: Path, model: Path, out: Path, run: "Run") -> list[list[str]]:
    """Return the command lines of a tool's job on a model, which leaves its int8 model at ``out``."""
    if tool != OURS:
        python = run.environments[PEERS[tool]].python
        busy = ["--no-spinning"] if run.arguments.no_spinning else []
        script = ROOT / "benchmarks" / "main_job_peers.py"
        return [[str(python), str(script), tool, str(job), str(model), str(out), *busy]]
    folder, place = job.parent, str(out.parent)
    quantkit = [sys.executable, "-m", "quantkit"]
    images = ["--preset", str(folder / "preset.yaml"), "--run", place]
    calibration = ["--images", str(folder / "calibrate"), "--labels", str(folder / "calibrate.txt")]
    evaluation = ["--images", str(folder / "evaluate"), "--labels", str(folder / "evaluate.txt")]
    count = ["--count", str(len(list((folder / "calibrate").iterdir())))]
    return [
        [*quantkit, "calibrate", "--model", str(model), *calibration, *count, *images],
        [*quantkit, "compare", "fp32", "int8", *evaluation, *images],
    ]


def measured(commands: Sequence[list[str]], log: Path, arguments: argparse.Namespace) -> Cost:
    """Run commands one after the other.

    Raises:
        JobFailedError: one of them failed, or took too long.
    """
    cost = Cost(0, 0, 0)
    for command in commands:
        one = _measured(command, log, arguments)
        cost = Cost(cost.wall_s + one.wall_s, cost.cpu_s + one.cpu_s, max(cost.peak_mb, one.peak_mb))
    return cost


def _environment() -> dict[str, str]:
    """Return this process's environment, with compiled Python kept: an installed tool has it, the checkout must too."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _measured(command: list[str], log: Path, arguments: argparse.Namespace) -> Cost:
    limit = round(arguments.memory_gb * 1e9)
    late = threading.Event()
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}" if command[0] == sys.executable else ""
    with log.open("a") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env=_environment() | {"PYTHONPATH": path, "NNCF_TELEMETRY": "0"},
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        )

        def end() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(arguments.timeout, end)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if late.is_set():
        raise JobFailedError(f"took more than {arguments.timeout:g} s")
    if process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise JobFailedError(lines[-1][:300] if lines else f"ended with code {process.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(name: str, case: Case, folder: Path, run: "Run") -> dict[str, Any]:
    """Return the figures of one model: each tool's costs and results, and why a tool has none."""
    job = lay_out(case, folder, run.arguments)
    costs: dict[str, list[Cost | None]] = {tool: [] for tool in run.tools}
    failed: dict[str, str] = {}
    files = {}
    for turn in range(run.arguments.rounds):
        # There and back, so that no tool always follows the same other one.
        for tool in run.tools[:: -1 if turn % 2 else 1]:
            if tool in failed:
                costs[tool].append(None)
                continue
            place = folder / tool / str(turn)
            place.mkdir(parents=True)
            # A copy for every job: ModelOpt writes inferred shapes into the file that it is given.
            model = Path(shutil.copyfile(case.model, place / "model.onnx"))
            out = place / "int8.onnx"
            try:
                cost = measured(commands_of(tool, job, model, out, run), place / "log.txt", run.arguments)
            except JobFailedError as error:
                failed[tool] = str(error)
                costs[tool].append(None)
                print(f"{name}: {tool} failed: {error}", flush=True)
                continue
            costs[tool].append(cost)
            files[tool] = out
            print(f"{name}: {tool} {cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s, {cost.peak_mb:.0f} MB", flush=True)
    results = results_of(job, case.model, files)
    ours = costs[OURS]
    figures = {tool: summary(costs[tool], ours) | results[tool] for tool in run.tools if tool in files}
    return {"fp32": results["fp32"], "tools": figures, "failed": failed}


def summary(costs: Sequence[Cost | None], ours: Sequence[Cost | None]) -> dict[str, Any]:
    """Return medians of a tool's rounds, and of their ratios to quantkit's."""
    done = [one for one in costs if one is not None]
    pairs = [(a, b) for a, b in zip(costs, ours, strict=True) if a is not None and b is not None]
    found: dict[str, Any] = {"rounds": [asdict(one) for one in done], "peak_mb": max(one.peak_mb for one in done)}
    for key in ("wall_s", "cpu_s"):
        found[key] = statistics.median(getattr(one, key) for one in done)
        if pairs:
            found[f"{key}_ratio"] = statistics.median(getattr(a, key) / getattr(b, key) for a, b in pairs)
    return found


def results_of(job: Path, fp32: Path, files: dict[str, Path]) -> dict[str, Any]:
    """Return what the int8 models are worth, measured alike for all."""
    models = {"fp32": fp32, **files}
    command = [sys.executable, str(ROOT / "benchmarks" / "main_job_results.py"), str(job)]
    command += [f"{name}={file}" for name, file in models.items()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Run:
    """What all models have in common: the command line, the tools, and the environments they run in."""

    arguments: argparse.Namespace
    tools: tuple[str, ...]
    environments: dict[str, Environment]


def ready(arguments: argparse.Namespace, folder: Path) -> tuple[Run, dict[str, str]]:
    """Install the peers; return what can run, and why the others cannot."""
    environments: dict[str, Environment] = {}
    missing: dict[str, str] = {}
    for kind in dict.fromkeys(PEERS[peer] for peer in arguments.peers):
        try:
            print(f"installing {kind}", flush=True)
            environments[kind] = environment(kind, folder, arguments.pip_options)
        except NotInstalledError as error:
            missing[kind] = str(error)
            print(f"{kind} is left out: {error}")
    tools = (OURS, *(peer for peer in arguments.peers if PEERS[peer] in environments))
    return Run(arguments, tools, environments), missing


def warm_up(folder: Path) -> None:
    """Compile what quantkit compiles once an installation: its kernels, and its Python as pip does."""
    environment = _environment() | {"PYTHONPATH": str(ROOT)}
    for command in (["-m", "quantkit", "demo", "--out", str(folder / "demo")], ["-m", "compileall", "-q", "quantkit"]):
        place = folder if "demo" in command else ROOT
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment, cwd=place)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(cases(Path(), Path()))
    parser.add_argument("--models", default=",".join(known), help="models to measure (default: all)")
    parser.add_argument("--model-dir", type=Path, default=Path("benchmarks/models"), help="where iresnet50.onnx is")
    parser.add_argument("--peers", default=",".join(PEERS), help="tools beside quantkit, or none (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every tool (default: 3)")
    parser.add_argument("--calibrate", type=int, default=200, help="images that calibrate (default: 200)")
    parser.add_argument("--evaluate", type=int, default=300, help="images that evaluate within the job (default: 300)")
    parser.add_argument(
        "--histogram-images",
        type=int,
        default=100,
        help="most images for the percentile and entropy of onnxruntime, which keep all activations (default: 100)",
    )
    parser.add_argument("--held-out", type=int, default=2000, help="most images for the agreement (default: 2000)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a command may take (default: 1800)")
    parser.add_argument("--memory-gb", type=float, default=16, help="memory a process may take (default: 16)")
    parser.add_argument(
        "--no-spinning",
        action="store_true",
        help="for a busy machine: the peers' onnxruntime does not wait in loops, which would count as CPU seconds",
    )
    parser.add_argument("--environments", type=Path, help="folder of the peers' environments (default: temporary)")
    parser.add_argument("--keep-environments", action="store_true", help="leave them, for the next run")
    parser.add_argument("--pip-options", default="", help="options of pip install, e.g. a constraints file")
    parser.add_argument("--cold", action="store_true", help="let the first round compile quantkit's kernels if it must")
    parser.add_argument("--work", type=Path, help="folder to leave the jobs in, with their models and logs")
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    parser.add_argument("--json", type=Path, help="write all figures there")
    own = parser.add_argument_group("a model of your own, with the preprocessing of ImageNet")
    own.add_argument("--model", type=Path, help="ONNX classifier")
    own.add_argument("--images", type=Path, help="class folders of labelled images")
    own.add_argument("--input", default="input", help="name of its input (default: input)")
    arguments = parser.parse_args()
    arguments.peers = [] if arguments.peers == "none" else arguments.peers.split(",")
    arguments.models = arguments.models.split(",")
    for asked, there in ((arguments.peers, PEERS), (arguments.models, known)):
        if unknown := set(asked) - set(there):
            parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    if (arguments.model is None) != (arguments.images is None):
        parser.error("--model needs --images, and the other way round")
    if arguments.environments is not None and arguments.environments.resolve().is_relative_to(ROOT):
        parser.error("--environments must be outside the checkout")
    return arguments


def chosen_cases(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield the models that are there; name the others."""
    if arguments.model is not None:
        images = in_classes(arguments.images)
        yield arguments.model.stem, Case(arguments.model, Preprocessing(), images, images, input=arguments.input)
        return
    for name in arguments.models:
        try:
            case = cases(folder, arguments.model_dir)[name]()
        except FileNotFoundError as error:
            print(f"{name}: skipped, needs {error.filename}")
            continue
        if not case.model.is_file():
            hint = "; quantkit export iresnet50 --random-weights makes it" if name == "iresnet50" else ""
            print(f"{name}: skipped, needs {case.model}{hint}")
            continue
        yield name, replace(case, model=case.model.resolve())


def main() -> int:
    """Measure, print and write."""
    arguments = parse()
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantkit-main-job-")))
        work = arguments.work or temporary / "work"
        work.mkdir(parents=True, exist_ok=True)
        found_cases = dict(chosen_cases(arguments, work))
        if not found_cases:
            return 0
        kept = (arguments.environments or temporary / "environments").resolve()
        run, missing = ready(arguments, kept)
        if not arguments.keep_environments and arguments.environments is not None:
            for kind in run.environments:
                stack.callback(shutil.rmtree, kept / kind, ignore_errors=True)
        if not arguments.cold:
            warm_up(temporary)
        found: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "load": _load(),
            "own": own_versions(),
            "environments": {kind: one.versions for kind, one in run.environments.items()},
            "missing": missing,
            "command": " ".join(["python benchmarks/main_job.py", *sys.argv[1:]]),
            "models": {},
        }
        for name, case in found_cases.items():
            found["models"][name] = measure(name, case, work / name, run)
            found["load"] = f"{found['load'].split(' to ')[0]} to {_load()}"
            write(found, arguments)
        print(markdown(found))
    return 0


def _load() -> str:
    return f"{os.getloadavg()[1]:.1f}"


def write(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write what is there so far."""
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(found))


if __name__ == "__main__":
    sys.exit(main())
