"""How progress reaches the user: lines where output is piped, JSON events, a log file, nothing with --quiet."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress as RichBar

from quantkit.cli import progress as display
from quantkit.cli.progress import BarProgress, EventProgress, LineProgress
from quantkit.cli.terminal import Session, session
from quantkit.progress import resumed_task


class _Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_lines_are_written_at_intervals_and_at_the_end() -> None:
    clock, lines = _Clock(), list[str]()
    count = LineProgress(lines.append, clock, 10.0).task("evaluating", "images")
    for second in range(1, 26):
        clock.now_s = float(second)
        count(second * 4, 100)
    assert lines == [
        "evaluating: 40 of 100 images, 4.0 images/s, 10 s elapsed, 15 s left",
        "evaluating: 80 of 100 images, 4.0 images/s, 20 s elapsed, 5 s left",
        "evaluating: 100 of 100 images, 4.0 images/s, 25 s elapsed",
    ]


def test_lines_resumed_task_counts_only_what_is_done_now() -> None:
    clock, lines = _Clock(), list[str]()
    progress = LineProgress(lines.append, clock, 10.0)
    count = resumed_task(progress, "evaluating", "images", done=1000, total=1100, source="runs/a/cache")
    for second in range(1, 26):
        clock.now_s = float(second)
        count(1000 + second * 4, 1100)
    assert lines == [
        "resumed: 1,000 of 1,100 images from runs/a/cache",
        "evaluating: 1040 of 1100 images, 4.0 images/s, 10 s elapsed, 15 s left",
        "evaluating: 1080 of 1100 images, 4.0 images/s, 20 s elapsed, 5 s left",
        "evaluating: 1100 of 1100 images, 4.0 images/s, 25 s elapsed",
    ]
    progress.task("comparing", "images")(10, 100)
    clock.now_s = 35.0
    progress.task("again", "images")(10, 100)
    assert lines[-1] == "again", "the next task resumes nothing"


@pytest.mark.parametrize("done", [0, 1100])
def test_lines_task_with_nothing_or_all_known_is_not_resumed(done: int) -> None:
    lines: list[str] = []
    progress = LineProgress(lines.append, _Clock(), 10.0)
    resumed_task(progress, "evaluating", "images", done=done, total=1100, source="runs/a/cache")
    assert lines == []


def test_bar_resumed_task_says_so_and_has_the_rate_of_the_rest() -> None:
    text, clock = io.StringIO(), _Clock()
    console = Console(file=text, force_terminal=True, width=140, highlight=False)
    with RichBar(display._Rate(), console=console, get_time=clock) as bar:
        count = resumed_task(BarProgress(bar), "evaluating", "images", done=1000, total=1100, source="runs/a/cache")
        for second in range(1, 11):
            clock.now_s = float(second)
            count(1000 + second * 4, 1100)
        assert bar.tasks[0].speed == pytest.approx(4.0)
    assert "resumed: 1,000 of 1,100 images from runs/a/cache" in text.getvalue()


def test_lines_short_task_writes_nothing() -> None:
    lines: list[str] = []
    count = LineProgress(lines.append, _Clock(), 10.0).task("evaluating", "images")
    count(1, 2)
    count(2, 2)
    assert lines == []


def test_lines_many_short_tasks_are_announced() -> None:
    clock, lines = _Clock(), list[str]()
    progress = LineProgress(lines.append, clock, 10.0)
    for second in range(0, 35, 5):
        clock.now_s = float(second)
        progress.task(f"trial {second}", "steps")
    assert lines == ["trial 10", "trial 20", "trial 30"]


@pytest.mark.parametrize(("verbose", "expected"), [(True, ["ranges settled"]), (False, [])])
def test_lines_messages_need_verbose(verbose: bool, expected: list[str]) -> None:
    lines: list[str] = []
    LineProgress(lines.append, _Clock(), verbose=verbose).message("ranges settled")
    assert lines == expected


def test_bar_shows_unit_rate_and_message() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=140)
    columns = (*RichBar.get_default_columns(), display._Rate())
    with RichBar(*columns, console=console) as bar:
        progress = BarProgress(bar)
        progress.task("old [task]", "images")(1, 2)
        count = progress.task("calibrating", "images")
        count(3, 4)
        progress.message("ranges [settled]")
        assert [task.description for task in bar.tasks] == ["calibrating [dim]ranges \\[settled][/]"]
        assert [(task.completed, task.total) for task in bar.tasks] == [(3, 4)]
    assert "ranges [settled]" in text.getvalue()


def test_events_are_limited_in_rate_and_hold_first_and_last(tmp_path: Path) -> None:
    clock, to = _Clock(), Session()
    to.clock = clock
    to.open_events(tmp_path / "events.jsonl")
    count = EventProgress(to, 1.0).task("evaluating", "images")
    for done in range(1, 101):
        clock.now_s = done / 50.0
        count(done, 100)
    to.reset()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["done"] for event in events] == [1, 51, 100]
    assert {(event["event"], event["task"], event["unit"], event["total"]) for event in events} == {
        ("progress", "evaluating", "images", 100)
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model, images and a project file."""
    from models import tiny_model, write_images

    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images", per_class=4)
    (tmp_path / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    (tmp_path / "quantkit.yaml").write_text("model: tiny.onnx\npreset: pipeline.yaml\nimages: images\n")
    return tmp_path


Command = Callable[..., tuple[str, str]]
CALIBRATE = ("calibrate", "--images", "images", "--count", "8")


def test_json_events_give_progress_and_outcome(project: Path, command: Command) -> None:
    command(*CALIBRATE, "--json-events", "events.jsonl")
    events = [json.loads(line) for line in (project / "events.jsonl").read_text().splitlines()]
    last = {event["task"]: (event["done"], event["total"]) for event in events if event["event"] == "progress"}
    assert last["calibrating"] == (8, 8)
    assert last["decoding"] == (8, 8)
    assert events[-1]["event"] == "end"
    assert events[-1]["exit_code"] == 0
    [result] = [event["result"] for event in events if event["event"] == "result"]
    assert (result["model"], result["images"], result["coverage"]["int8_layers"]) == ("int8", 8, 3)


@pytest.mark.parametrize(
    ("line", "figure"),
    [
        ("quantize --method kl", "method"),
        ("eval fp32", "top1"),
        ("compare fp32 int8", "models"),
        ("report", "models"),
        ("sensitivity --count 2", "layers"),
        ("plan eval fp32", "images"),
        ("tune --max-drop 50", "best"),
        ("preprocess guess tiny.onnx --images images --limit 16", "tried"),
    ],
)
def test_json_events_hold_the_result(project: Path, command: Command, line: str, figure: str) -> None:
    command("calibrate", "--images", "images", "--count", "12")
    command(*line.split(), "--json-events", "events.jsonl")

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    lines = (project / "events.jsonl").read_text().splitlines()
    events = [json.loads(line, parse_constant=refuse) for line in lines]
    [result] = [event["result"] for event in events if event["event"] == "result"]
    assert figure in result


def test_output_folder_made_is_named(project: Path, command: Command) -> None:
    command(*CALIBRATE)
    out, _ = command("compare", "fp32", "int8", "--json", "figures/today/a.json")
    assert "wrote figures/today/a.json (new: figures/today/)" in out
    out, _ = command("compare", "fp32", "int8", "--json", "figures/today/a.json")
    assert "wrote figures/today/a.json\n" in out


def test_json_events_on_stderr_are_alone_there(project: Path, command: Command) -> None:
    _, err = command("--json-events", "-", "compare", "fp32", "nothing", "--run", "none", code=2)
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["error", "end"]
    assert "this is not a run folder" in events[0]["text"]
    assert [event["exit_code"] for event in events] == [2, 2]


def test_log_file_holds_what_is_printed_and_errors(project: Path, command: Command) -> None:
    out, _ = command(*CALIBRATE, "--log-file", "log.txt")
    command("-q", "--log-file", "log.txt", "quantize", "--method", "kli", code=2)
    log = (project / "log.txt").read_text()
    assert "begin: calibrating" in log
    assert next(line for line in out.splitlines() if line.startswith("wrote")) in log
    assert "kli" in log
    assert all(line[:2] == "20" for line in log.splitlines() if "begin:" in line)


def test_log_file_that_cannot_be_written_is_refused(project: Path, command: Command) -> None:
    _, err = command(*CALIBRATE, "--log-file", "images", code=12)
    assert "the log file cannot be written" in err


@pytest.mark.parametrize("arguments", [("-q", *CALIBRATE), (*CALIBRATE, "--quiet")])
def test_quiet_hides_notes_and_keeps_the_result(project: Path, command: Command, arguments: tuple[str, ...]) -> None:
    out, err = command(*arguments)
    assert "note:" not in out + err
    assert "int8: " in out


def test_session_is_reset_after_each_command(project: Path, command: Command) -> None:
    command("-q", "-v", "--log-file", "log.txt", "init")
    assert (session.quiet, session.verbose, session.logging) == (False, False, False)
