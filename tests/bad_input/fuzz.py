"""Byte-level fuzzing with atheris: ``python tests/bad_input/fuzz.py KIND`` for one kind of input, without for all.

Each kind runs in a process of its own for some seconds, begins with the sound and bad files of the corpus, and keeps
what covers new code in ``.fuzz/KIND``, from where the next run goes on. Whatever is not one of `quantkit.errors`, takes
more than 10 s for one input, or needs more than 2 GB, ends the process, and the input that did it is kept beside.
"""

import argparse
import contextlib
import importlib
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

HOME = Path(".fuzz")
TIMEOUT_S, MEMORY_MB = 10, 2048
# Bytes; what is larger is tried as it stands in the corpus, and would only slow the search.
LARGEST = 8192


def seed(kind: str) -> Path:
    """Write the first inputs of a kind, and return their folder."""
    from bad_input.corpus import CORPUS
    from bad_input.sound import SOUND

    folder = HOME / kind.replace(" ", "_") / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    for item in (*SOUND, *CORPUS):
        if item.kind != kind:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            path = item.write(Path(scratch) / "x")
            if path.is_file() and path.stat().st_size <= LARGEST:
                shutil.copyfile(path, folder / item.name.replace("/", "_"))
    return folder


def fuzz(kind: str, seconds: int) -> None:
    """Fuzz one kind in this process; does not return."""
    import atheris

    # Numba compiles the kernel, which what atheris adds to it would prevent; ruamel would only become slow by it.
    importlib.import_module("quantkit.stats.observer")
    with atheris.instrument_imports(include=["quantkit"]):
        from bad_input.doors import FUZZED, input_folder, prepare

    from quantkit.errors import QuantkitError

    inputs = seed(kind)
    place = Path(tempfile.mkdtemp(prefix="quantkit-fuzz-"))
    prepare(place)
    names = {"project": "quantkit.yaml", "run record": "run.json"}
    names |= {suffix: f"fuzzed.{suffix}" for suffix in ("tar", "zip", "parquet")}
    path = input_folder(kind, place) / names.get(kind, "fuzzed")
    path.parent.mkdir(parents=True, exist_ok=True)

    def meet(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(QuantkitError):
            FUZZED[kind](path)

    warnings.simplefilter("ignore")
    limits = [f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    kept = [f"-max_len={LARGEST}", f"-artifact_prefix={inputs.parent}/", "-print_final_stats=1", str(inputs)]
    atheris.Setup([sys.argv[0], *limits, *kept], meet)
    atheris.Fuzz()


def fuzz_all(seconds: int) -> int:
    """Fuzz every kind in turn; the number of kinds with a fault comes back."""
    from bad_input.doors import FUZZED

    faults = 0
    for kind in FUZZED:
        start_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, kind, "--seconds", str(seconds)], capture_output=True, text=True, check=False
        )
        lines = (done.stdout + done.stderr).splitlines()
        runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
        fault = any(line.startswith("SUMMARY: libFuzzer") for line in lines) or runs == "?"
        faults += fault
        state = "no fault" if not fault else f"FAULT, see {HOME / kind.replace(' ', '_')}"
        print(f"{kind}: {runs} inputs in {time.monotonic() - start_s:.0f} s, {state}", flush=True)
        if fault:
            print("\n".join(line for line in lines if line.strip())[-3000:], flush=True)
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?")
    parser.add_argument("--seconds", type=int, default=60)
    chosen = parser.parse_args()
    if chosen.kind is None:
        sys.exit(1 if fuzz_all(chosen.seconds) else 0)
    fuzz(chosen.kind, chosen.seconds)
