"""A disk that is full or read-only: one line, exit code 12, and what was there is there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from interruption.commands import COMMANDS, Command, Server, prepare

from quantkit.errors import OutputError

# Bytes: less than any result has.
LARGEST_FILE = 256
CALIBRATE = COMMANDS[1].arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    made = tmp_path_factory.mktemp("full")
    prepare(made)
    assert [server.run(made, command)[0] for command in COMMANDS[:2]] == [[0], [0]]
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where one can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here: it needs root")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def refused(server: Server, folder: Path, *arguments: str, largest_file: int | None = None) -> str:
    """Run a command that cannot write; the one line that it says comes back."""
    codes, _ = server.run(folder, Command("refused", ("-q", *arguments), ()), largest_file=largest_file)
    said = (folder / "errors.0").read_text()
    assert codes == [OutputError.exit_code], said
    [line] = [line for line in said.splitlines() if line.strip()]
    return line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_full_disk_file_that_cannot_grow_is_refused(command: Command, folder: Path, server: Server) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "errors.0"}
    assert "file too large" in refused(server, folder, *command.arguments, largest_file=LARGEST_FILE)
    assert not list(folder.rglob("*.quantkit-tmp"))
    for file, content in before.items():
        assert file.read_bytes() == content, file


@pytest.mark.parametrize(
    "arguments",
    [("vamp", "inputs", "--images", "images", "--out", "npz"), (*CALIBRATE[:-1], "run")],
    ids=["vamp inputs", "calibrate"],
)
def test_full_disk_small_file_system_is_refused(
    arguments: tuple[str, ...], folder: Path, small_disk: Path, server: Server
) -> None:
    (small_disk / "filler").write_bytes(b"\0" * (40 << 10))
    *others, last = arguments
    assert "no space left on device" in refused(server, folder, *others, str(small_disk / last))
    assert not list(small_disk.rglob("*.quantkit-tmp"))


def test_read_only_disk_is_refused(folder: Path, small_disk: Path, server: Server) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for arguments in (
        ("calib-set", "build", "--images", "images", "--count", "8", "--out", str(small_disk / "c.csv")),
        ("quantize", "--run", "run", "--out", str(small_disk / "x.onnx")),
        ("eval", "fp32", "--run", "run", "--images", "images", "--out", str(small_disk / "e.npz")),
        ("vamp", "inputs", "--images", "images", "--out", str(small_disk / "npz")),
        (*CALIBRATE[:-1], str(small_disk / "run")),
    ):
        assert "read-only file system" in refused(server, folder, *arguments)
