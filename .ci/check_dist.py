"""Install a built wheel into an empty environment and use it there; compare wheel and sdist.

    python .ci/check_dist.py [dist]

Nothing of the checkout is on the path: commands run in a temporary folder. The sdist must give a wheel with the same
files as the wheel that was built.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

# Files that the program reads at run time, by pattern; at least so many of each.
DATA = {
    "quantkit/py.typed": 1,
    "quantkit/demo/*.npz": 1,
    "quantkit/demo/*.onnx": 1,
    "quantkit/configs/*.yaml": 14,
    "quantkit/data/*.txt": 1,
    "quantkit/report/*.html": 1,
    "quantkit/report/*.css": 1,
    "quantkit/report/*.js": 3,
}
METADATA = ("Version", "Summary", "Requires-Python", "License-Expression", "Keywords", "Description-Content-Type")


def only(folder: Path, pattern: str) -> Path:
    """Return the one file of a pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"{folder}: {len(found)} files {pattern}, expected one; remove the folder and run make dist")
    return found[0]


def check_wheel(wheel: Path) -> list[str]:
    """Return what is missing from a wheel or superfluous in it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist()]
        metadata = message_from_bytes(archive.read(str(next(name for name in names if name.name == "METADATA"))))
    faults = [
        f"{pattern}: {found} files, expected {least} or more"
        for pattern, least in DATA.items()
        if (found := sum(name.match(pattern) for name in names)) < least
    ]
    faults += [f"no metadata {key}" for key in METADATA if not metadata[key]]
    tops = {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")}
    return faults + [f"{top} is not of the package" for top in sorted(tops - {"quantkit"})]


def check_sdist(sdist: Path) -> list[str]:
    """Return what an sdist lacks: all that builds and tests the package."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("pyproject.toml", "README.md", "LICENSE", "Makefile", "tests/conftest.py", "docs/numerics.md")
    return [f"the sdist has no {name}" for name in wanted if name not in names]


def run(*command: str | Path, folder: Path) -> str:
    """Run a command without the checkout on its path; return its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel into an empty environment and run the commands of the README's first screen."""
    venv.create(folder / "env", with_pip=True)
    python, script = folder / "env/bin/python", folder / "env/bin/quantkit"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, folder=folder)
    version = wheel.name.split("-")[1]
    for command in ((script, "--version"), (python, "-m", "quantkit", "--version")):
        assert run(*command, folder=folder).strip() == f"quantkit {version}", command
    assert run(python, "-c", "import quantkit; print(quantkit.__file__)", folder=folder).startswith(str(folder))
    assert "99.14" in run(script, "demo", "--out", "demo", folder=folder)
    run(script, "init", "resnet50", folder=folder)
    run(script, "compare", "fp32", "minmax", "--html", "report.html", folder=folder / "demo")
    assert (folder / "demo/report.html").stat().st_size > 50_000
    run(python, "-m", "pip", "check", folder=folder)


def main() -> None:
    """Check the only wheel and the only sdist of a folder."""
    dist = Path(sys.argv[1] if len(sys.argv) > 1 else "dist").resolve()
    wheel, sdist = only(dist, "*.whl"), only(dist, "*.tar.gz")
    faults = check_wheel(wheel) + check_sdist(sdist)
    if faults:
        sys.exit("\n".join(faults))
    with tempfile.TemporaryDirectory() as temporary:
        use(wheel, Path(temporary).resolve())
    print(f"{wheel.name} and {sdist.name}: complete; installed into an empty environment and used")


if __name__ == "__main__":
    main()
