"""One protocol of progress, for every workflow."""

import pytest
from progress_log import ProgressLog

from quantkit.errors import UsageError
from quantkit.progress import NamedProgress, NoProgress, Progress, as_progress, begun_when_called


def test_as_progress_none_ignores_everything() -> None:
    progress = as_progress(None)
    progress.message("nothing")
    progress.task("calibrating", "images")(1, 2)
    assert isinstance(progress, NoProgress)


def test_as_progress_own_object_is_used() -> None:
    log = ProgressLog()
    assert isinstance(log, Progress)
    assert as_progress(log) is log


@pytest.mark.parametrize("wrong", [lambda done, total: None, 3, ProgressLog])
def test_as_progress_other_object_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match="progress: takes an object with the methods task and message, not "):
        as_progress(wrong)  # type: ignore[arg-type]


def test_begun_when_called_without_work_begins_no_task() -> None:
    log = ProgressLog()
    count = begun_when_called(log, "correcting biases", "layers")
    assert log.tasks == []
    count(1, 3)
    count(2, 3)
    assert (log.tasks, log.counts) == ([("correcting biases", "layers")], [(1, 3), (2, 3)])


def test_named_progress_renames_tasks_and_keeps_units() -> None:
    log = ProgressLog()
    named = NamedProgress(log, "evaluating int8")
    named.task("comparing", "images")(4, 5)
    named.message("half done")
    assert (log.tasks, log.counts, log.messages) == ([("evaluating int8", "images")], [(4, 5)], ["half done"])
