"""Killed at any moment, every long command loses nothing: run again, it ends in the bits of an uninterrupted run.

``QUANTKIT_KILLS`` sets how often each command is killed; ``make kill`` kills often, and prints what it did.
"""

import os
import random
from pathlib import Path

import onnx
import pytest
from interruption.commands import COMMANDS, Command, Server, Snapshot, prepare, results

KILLS = int(os.environ.get("QUANTKIT_KILLS", "1"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("interrupted") / "work"
    made.mkdir()
    prepare(made)
    return made


def said(folder: Path, index: int = 0) -> str:
    return (folder / f"errors.{index}").read_text()


def test_kill_anywhere_and_repeat_gives_same_bits(server: Server, folder: Path) -> None:
    draw = random.Random(9)
    for command in COMMANDS:
        before = Snapshot(folder)
        older = results(folder, command)
        codes, seconds = server.run(folder, command)
        assert codes == [0], said(folder)
        whole = results(folder, command)
        assert whole
        hit = 0
        for _ in range(KILLS):
            before.restore()
            # Some runs are killed more than once before they are let through.
            for _ in range(draw.choice((1, 1, 2, 3))):
                codes, _ = server.run(folder, command, kill_after_s=draw.uniform(0.05, 1.0) * seconds)
                hit += codes == [-9]
                refuse_partitions(folder, command, older, whole)
            codes, _ = server.run(folder, command)
            assert codes == [0], f"{command.name}: {said(folder)}"
            assert results(folder, command) == whole, command.name
        print(f"{command.name}: killed {hit} times in {KILLS} runs, the same {len(whole)} files each time")


def refuse_partitions(folder: Path, command: Command, older: dict[str, bytes], whole: dict[str, bytes]) -> None:
    """See that every result is whole: the new one, or the one that was there before the command."""
    for name, content in results(folder, command).items():
        if name.endswith("run.json") or command.name == "vamp inputs":
            continue  # entries are added one by one; pictures are looked at again before they count
        if command.name == "tune" and name.endswith(".onnx"):
            onnx.load_model_from_string(content)  # the best model so far, whole
            continue
        if command.name == "tune":
            continue
        assert content in (older.get(name), whole[name]), f"{command.name} left a piece of {name}"


@pytest.mark.parametrize(("name", "earlier"), [("calibrate", 1), ("quantize", 2), ("eval", 0), ("vamp inputs", 0)])
def test_concurrent_processes_do_no_damage(name: str, earlier: int, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    prepare(folder)
    command = next(command for command in COMMANDS if command.name == name)
    for needed in COMMANDS[:earlier]:
        assert server.run(folder, needed)[0] == [0], said(folder)
    before = Snapshot(folder)
    assert server.run(folder, command)[0] == [0]
    whole = results(folder, command)
    before.restore()
    codes, _ = server.run(folder, command, command)
    assert 0 in codes
    for index, code in enumerate(codes):
        # Two that write inputs sweep each other's temporary files away, and say so.
        assert code in ((0, 12) if name == "vamp inputs" else (0, 2)), said(folder, index)
        if code == 2:
            assert "another quantkit process" in said(folder, index)
    assert server.run(folder, command)[0] == [0]
    assert results(folder, command) == whole
