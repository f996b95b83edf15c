"""Opens a report in headless Chromium; fails if it logs an error, asks for anything on the network or draws nothing.

    python tests/browser/check_report.py report.html --screenshot report.png [--width 1280] [--dark]

Standard library only. The browser is driven over its DevTools pipe, so that no port is opened. Exit status 0: clean;
1: something was found, and is printed; 2: the browser could not be run.
"""

import argparse
import base64
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-dev-shm-usage",
    ),
    *("--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe"),
)
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")


class Browser:
    """A Chromium whose commands go out on descriptor 3 and whose events come back on 4."""

    def __init__(self, program: str, profile: str):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def connect() -> None:
            # Copies above 4 first: one of the ends may be 3 or 4 itself.
            ends = os.dup(to_browser), os.dup(from_browser)
            high = [os.dup2(end, 50 + i) for i, end in enumerate(ends)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect,
            close_fds=False,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.events: list[dict] = []
        self._messages: queue.Queue[dict | None] = queue.Queue()
        self._number = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        waiting = b""
        while part := os.read(self._in, 1 << 16):
            *whole, waiting = (waiting + part).split(b"\0")
            for message in whole:
                self._messages.put(json.loads(message))
        self._messages.put(None)

    def call(self, method: str, session: str | None = None, *, timeout: float = 60, **params: object) -> dict:
        """The result of a DevTools command; events that come meanwhile are kept."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        os.write(self._out, json.dumps(command | ({"sessionId": session} if session else {})).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            message = self._messages.get(timeout=max(0.01, deadline - time.monotonic()))
            if message is None:
                raise RuntimeError("the browser closed the connection")
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def close(self) -> None:
        """Ends the browser."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def look(browser: Browser, arguments: argparse.Namespace) -> list[str]:
    """Loads the page, writes the screenshot, and returns what is wrong."""
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable", session)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}]
    browser.call("Emulation.setEmulatedMedia", session, features=scheme)
    size = {"width": arguments.width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", session, **size)
    browser.call("Page.navigate", session, url=arguments.report.resolve().as_uri())

    def value(expression: str) -> object:
        return browser.call("Runtime.evaluate", session, expression=expression, returnByValue=True)["result"].get(
            "value"
        )

    deadline = time.monotonic() + arguments.timeout
    while not value("document.readyState === 'complete' && document.documentElement.dataset.drawn"):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if arguments.run:
        value(arguments.run)
        time.sleep(0.5)
    problems = []
    if not value("document.documentElement.dataset.drawn"):
        problems.append(f"the charts were not drawn within {arguments.timeout} s")
    empty = "[...document.querySelectorAll('figure[data-chart]')].filter(f => !f.querySelector('svg .mark-rect path,"
    empty += " svg .mark-line path, svg .mark-symbol path')).map(f => f.dataset.chart).join(' ')"
    if names := value(empty):
        problems.append(f"charts without a mark: {names}")
    overflow = value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if overflow:
        problems.append(f"the page is {overflow} px wider than the window")
    if arguments.screenshot:
        height = value("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": arguments.width, "height": height, "scale": 1}
        image = browser.call("Page.captureScreenshot", session, captureBeyondViewport=True, clip=clip)["data"]
        arguments.screenshot.write_bytes(base64.b64decode(image))
    if arguments.pdf:
        pdf = browser.call("Page.printToPDF", session, printBackground=True)["data"]
        arguments.pdf.write_bytes(base64.b64decode(pdf))
    return problems + [problem for event in browser.events if (problem := trouble(event))]


def trouble(event: dict) -> str | None:
    """What an event tells that should not have happened."""
    params = event.get("params", {})
    match event.get("method"):
        case "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            return f"exception: {details.get('exception', {}).get('description', details['text'])}"
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
            return (
                f"console {params['type']}: {[item.get('value', item.get('description')) for item in params['args']]}"
            )
        case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
            return f"log {params['entry']['level']}: {params['entry']['text']}"
        case "Network.requestWillBeSent" if not params["request"]["url"].startswith(LOCAL):
            return f"network request: {params['request']['url'][:200]}"
        case "Network.webSocketCreated":
            return f"web socket: {params['url'][:200]}"
    return None


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--screenshot", type=Path, help="PNG of the whole page")
    parser.add_argument("--pdf", type=Path, help="the page as it would be printed")
    parser.add_argument("--width", type=int, default=1280, help="of the window, CSS pixels")
    parser.add_argument("--dark", action="store_true", help="prefer a dark colour scheme")
    parser.add_argument("--run", help="JavaScript to run before the screenshot")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for the charts to appear")
    parser.add_argument("--browser", default="chromium", help="program")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        try:
            browser = Browser(arguments.browser, profile)
        except OSError as error:
            print(f"{arguments.browser}: {error.strerror}; give its path with --browser", file=sys.stderr)
            return 2
        try:
            problems = look(browser, arguments)
        except (RuntimeError, queue.Empty, OSError) as error:
            print(f"the browser could not be driven: {error or 'no answer'}", file=sys.stderr)
            return 2
        finally:
            browser.close()
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
