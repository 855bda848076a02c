"""A page in headless chromium, driven through its debugging pipe: messages are JSON, each ended by a zero byte."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
           "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
           "--remote-debugging-pipe")  # fmt: skip
# Chromium reads messages from descriptor 3 and writes them to 4.
START = "import os, sys; a, b, *c = sys.argv[1:]; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execv(c[0], c)"


def find_chromium():
    return next((path for path in map(shutil.which, NAMES) if path is not None), None)


class Browser:
    """One chromium for many pages; ``troubles`` gathers errors of the script and requests that leave the file."""

    def __init__(self, program):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Above 10, so that putting them at 3 and 4 in the child does not overwrite one of them.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, ends), program, *OPTIONS, f"--user-data-dir={self.profile.name}",
             "about:blank"],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self.out, self.inp = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self.buffer, self.number, self.session, self.troubles, self.loaded = b"", 0, None, [], False

    def close(self):
        self.out.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.inp.close()
        self.profile.cleanup()

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        self.out.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def open(self, path: Path, *, width=1280, height=900, dark=False, fragment=""):
        """Open a file in a fresh page and wait until it has loaded."""
        self.session, self.troubles, self.loaded = None, [], False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri() + fragment)
        while not self.loaded:
            self._note(self._read())
        return self

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", expression))
        return answer["result"].get("value")

    def click(self, selector, *, along=0.5):
        """Click with the mouse on an element, at a share of its width."""
        box = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"
        )
        at = {"x": box[0] + box[2] * along, "y": box[1] + box[3] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def _read(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.inp.fileno(), 1 << 16)
            if not piece:
                raise RuntimeError("chromium ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event):
        method, given = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.troubles.append(given["exceptionDetails"]["exception"].get("description", "exception"))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.troubles.append(given["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning"):
            self.troubles.append(str(given["args"]))
        elif method == "Network.requestWillBeSent" and not given["request"]["url"].startswith(
            ("file:", "data:", "about:")
        ):
            self.troubles.append(f"asked for {given['request']['url']}")
