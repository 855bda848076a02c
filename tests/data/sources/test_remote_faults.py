"""URLs that do not answer, stop half-way, or report wrong sizes; servers on this machine's loopback address only."""

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from source_forms import Pictures, labels_of, pictures, write_folder, write_parquet, write_tar, write_zip

from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import find_labelled_images
from quantkit.data.sources import blob
from quantkit.data.sources.open import open_source
from quantkit.errors import CalibrationSetError, ImageError, UsageError

PICTURES = pictures(2)


class Handler(http.server.SimpleHTTPRequestHandler):
    """A file server that answers ranges, and fails as set."""

    fault = ""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        wanted = self.headers.get("Range")
        if wanted is None or self.fault == "no ranges":
            self._send(200, data)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        if self.fault == "error" and int(first) > 0:
            self.send_error(503)
        elif self.fault == "half" and int(first) > 0:
            self._send(206, part, len(part) // 2)
        else:
            self._send(206, part)

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def _send(self, status: int, data: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])
        if sent is not None:
            self.close_connection = True


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the test's folder."""
    monkeypatch.setattr(blob, "PAUSE_S", 0.01)
    monkeypatch.setattr(Handler, "fault", "")
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()
        thread.join()


def _large(path: Path) -> Path:
    """Write a tar that an index does not read whole."""
    return write_tar(path, {**PICTURES, "x/pad.png": bytes(3 << 20), "z/last.png": next(iter(PICTURES.values()))})


@pytest.mark.parametrize("form", ["a.tar", "a.zip", "a.parquet"])
def test_remote_archives_are_read_by_ranges(form: str, server: str, tmp_path: Path) -> None:
    writers: dict[str, Callable[[Path, Pictures], Path]] = {
        ".tar": write_tar,
        ".zip": write_zip,
        ".parquet": write_parquet,
    }
    writers[Path(form).suffix](tmp_path / form, PICTURES)
    found = find_labelled_images(f"{server}/{form}")
    assert [item.read() for item in found.items] == list(PICTURES.values())
    assert found.labels is not None
    assert found.labels.tolist() == labels_of(PICTURES)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("error", r"z/last\.png: reading stopped at byte \d+ \(.*3 attempts\); run the same command again"),
        ("half", r"z/last\.png: reading stopped at byte \d+ \(.*3 attempts\)"),
        ("no ranges", r"the server does not support range requests"),
    ],
)
def test_remote_server_that_stops_half_way_is_named(
    fault: str, message: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _large(tmp_path / "a.tar")
    item = open_source(f"{server}/a.tar").by_name["z/last.png"]
    monkeypatch.setattr(Handler, "fault", fault)
    with pytest.raises(ImageError, match=message):
        item.read()


def test_remote_read_that_fails_once_is_tried_again(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = open_source(f"{server}/{_large(tmp_path / 'a.tar').name}").by_name["z/last.png"]
    answer, failures = Handler.do_GET, iter(["fails"])

    def once(self: Handler) -> None:
        if next(failures, None):
            self.send_error(503)
        else:
            answer(self)

    monkeypatch.setattr(Handler, "do_GET", once)
    assert item.read() == next(iter(PICTURES.values()))


def test_remote_index_cut_short_is_named(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _large(tmp_path / "a.tar")
    monkeypatch.setattr(Handler, "fault", "half")
    with pytest.raises(CalibrationSetError, match=r"a\.tar: reading stopped at byte \d+"):
        open_source(f"{server}/a.tar")
    rest = open_source(f"{server}/a.tar", skip_damaged=True)
    assert rest.names[:6] == tuple(PICTURES)


def test_remote_server_that_does_not_answer_is_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = open_source(f"{server}/{_large(tmp_path / 'a.tar').name}").by_name["z/last.png"]
    released = threading.Event()
    monkeypatch.setattr(blob, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(blob, "ATTEMPTS", 1)
    monkeypatch.setattr(Handler, "do_GET", lambda _: released.wait(20))
    with pytest.raises(ImageError, match=r"z/last\.png: reading stopped at byte \d+ \(.*1 attempts\)"):
        item.read()
    released.set()


@pytest.mark.parametrize("url", ["{server}/none.tar", "{server}/none.parquet", "memory://none/a.zip"])
def test_remote_url_of_nothing_is_named(url: str, server: str) -> None:
    with pytest.raises(CalibrationSetError, match=r"none.*: cannot be read"):
        open_source(url.format(server=server))


@pytest.mark.parametrize(
    "url", ["ftp://a/b.tar", "simplecache::memory://a.tar", "python://x/a.tar", "reference://a.tar"]
)
def test_remote_unknown_protocol_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not supported; give one of abfs"):
        open_source(url)


def test_remote_empty_folder_is_named() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/empty-zoo/readme.txt", b"x")
    with pytest.raises(CalibrationSetError, match=r"memory://empty-zoo: no images found \(.*there is 1 \.txt\)"):
        open_source("memory://empty-zoo")


def test_remote_missing_shard_is_named_and_rest_used_if_asked() -> None:
    fs = fsspec.filesystem("memory")
    for shard in (0, 2):
        fs.pipe(f"/gap/data-{shard}.tar", b"")
    with pytest.raises(CalibrationSetError, match=r"gap/data-1\.tar: the shard is missing"):
        open_source("memory://gap/data-{0..2}.tar")


def test_remote_set_is_loaded_by_its_manifest(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(write_folder(tmp_path / "zoo", PICTURES)), "/manifest-zoo", recursive=True)
    chosen = build_calibration_set("memory://manifest-zoo", count=3)
    chosen.save(tmp_path / "set.csv")
    assert "# images: memory://manifest-zoo\n" in (tmp_path / "set.csv").read_text()
    assert CalibrationSet.load(tmp_path / "set.csv").verify() == ()


def test_remote_url_given_as_path_is_refused() -> None:
    with pytest.raises(CalibrationSetError, match="there is no such folder; give a URL as a string, not as a Path"):
        open_source(Path("s3://bucket/val.tar"))
