"""A real browser without a window: Chromium over the pipe of its DevTools protocol, as much of it as tests need."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--remote-debugging-pipe",
)  # fmt: skip
CODES = {
    "Enter": 13, "Backspace": 8, "Tab": 9, "Escape": 27, "Delete": 46, "ArrowLeft": 37, "ArrowUp": 38,
    "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
ALT, CONTROL, SHIFT = 1, 2, 8  # modifiers, to be added


def find_browser() -> str | None:
    """LLAVAKIT_BROWSER, or a Chromium on the path."""
    return os.environ.get("LLAVAKIT_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page."""

    def __init__(self) -> None:
        program = find_browser()
        assert program is not None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        reads, self._out = os.pipe()
        self._in, writes = os.pipe()
        flags = [
            *FLAGS,
            f"--user-data-dir={self._profile.name}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        self._process = subprocess.Popen(  # the browser reads from descriptor 3 and writes to 4
            ["bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}', program, *flags],
            pass_fds=(reads, writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(reads)
        os.close(writes)
        self._rest, self._number, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(
        self, url: str, *, width: int = 1200, height: int = 800, dark: bool = False, phone: bool = False
    ) -> None:
        """Go to an address, on a screen of this size; a phone has two pixels a point, and fingers."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1 + phone, "mobile": phone}
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone, maxTouchPoints=5)
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Page.navigate", url="about:blank"
        )  # an address that differs behind its # alone loads nothing
        self.call("Page.navigate", url=url)
        self.until("location.protocol == 'http:' && document.readyState == 'complete'")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                more = os.read(self._in, 1 << 16)
                assert more, "the browser has ended"
                self._rest += more
            line, _, self._rest = self._rest.partition(b"\0")
            said = json.loads(line)
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives on the page; of a promise, what it comes to."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 30.0) -> None:
        """Wait until an expression is true; while a page is loading nothing is."""
        end = time.monotonic() + seconds
        while not self.value(f"Boolean(document.body && ({expression}))"):
            assert time.monotonic() < end, f"not so: {expression}\n{self.value('document.body.innerText')}"
            time.sleep(0.03)

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Hit keys, one after the other."""
        for key in keys:
            text = "\r" if key == "Enter" else key if len(key) == 1 and not modifiers & CONTROL else ""
            named = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": CODES.get(key, 0)}
            self.call("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def write(self, text: str) -> None:
        """Put a text where the cursor is."""
        self.call("Input.insertText", text=text)

    def middle(self, selector: str) -> tuple[float, float]:
        """The middle of an element."""
        box = self.value(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        return box[0], box[1]

    def mouse(
        self, kind: str, x: float, y: float, modifiers: int = 0, pressed: bool = True, pen: bool = False
    ) -> None:
        """One event of a mouse or pen: Pressed, Moved or Released."""
        button = "left" if pressed else "none"
        self.call(
            "Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button=button, buttons=int(pressed),
            clickCount=int(kind != "Moved"), modifiers=modifiers, pointerType="pen" if pen else "mouse",
        )  # fmt: skip

    def drag(self, *points: tuple[float, float], modifiers: int = 0, steps: int = 8) -> None:
        """Press at the first point, go along the others, let go at the last."""
        self.mouse("Pressed", *points[0], modifiers)
        for (x0, y0), (x1, y1) in pairwise(points):
            for step in range(1, steps + 1):
                part = step / steps
                self.mouse("Moved", x0 + (x1 - x0) * part, y0 + (y1 - y0) * part, modifiers)
        self.mouse("Released", *points[-1], modifiers)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """One event of fingers: Start, Move or End."""
        at = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=at)

    def choose_file(self, selector: str, path: Path) -> None:
        """What choosing a file in the dialog of the system does."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y = self.middle(selector)
        self.mouse("Pressed", x, y)
        self.mouse("Released", x, y)

    def screenshot(self) -> bytes:
        """What is on the screen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def shoot(self, path: Path) -> None:
        """Keep what is on the screen as a PNG."""
        path.write_bytes(self.screenshot())
