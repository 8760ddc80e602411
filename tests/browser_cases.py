"""What a page looks like in a browser: Debian's chromium without a window, spoken to over its DevTools protocol.

`look(address)` gives what the console complains of, whether the page is wider than the window, what could not be
loaded, what was asked of other machines, the text that is seen, and a picture.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_S, LOOK_S = 60.0, 60.0
QUIET_S = 0.75
"""A page on which nothing was loaded or changed for so long is taken for whole."""
PENDING_S = 5.0
"""What has been loading for longer, such as a stream of news, is not waited for."""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")


@dataclass(frozen=True)
class Look:
    """A page as a browser has it.

    Attributes:
        console_errors: errors of the console and exceptions that nobody caught, a line each.
        overflow: whether the page is wider than the window.
        screenshot: PNG of the window, or of the whole page.
        failed_requests: addresses of what could not be loaded, each with the reason.
        outside: addresses that were asked of other machines.
        text: that is seen.
        too_wide: the elements that stand out of the window, described.
        grounds: colour behind the page, and behind its first drawing if it has one, as the browser computes them.
    """

    console_errors: list[str]
    overflow: bool
    screenshot: bytes
    failed_requests: list[str]
    outside: list[str]
    text: str
    too_wide: list[str]
    grounds: list[str]


def look(
    url_or_path: str | Path,
    width: int = 1280,
    height: int = 900,
    *,
    awaits: str | None = None,
    whole: bool = False,
    dark: bool = False,
    printed: bool = False,
) -> Look:
    """A page once it has loaded.

    Args:
        url_or_path: an address, or a file.
        width, height: of the window, in pixels.
        awaits: a text that has to be seen first (`LOOK_S` at most), for pages that fill themselves later.
        whole: the picture is of the whole page, however long.
        dark: the browser asks for dark pages.
        printed: the page is laid out as for paper.
    """
    url = url_or_path if "://" in str(url_or_path) else Path(url_or_path).absolute().as_uri()
    with _browser() as place:
        media = {
            "media": "print" if printed else "",
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        }
        seen = _look(place, str(url), width, height, awaits, whole, media)
        return asyncio.run(asyncio.wait_for(seen, LOOK_S + 30))


@contextmanager
def _browser() -> Iterator[str]:
    """A browser of its own, without anything remembered; the address of its DevTools."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="sage-browser-", ignore_cleanup_errors=True) as profile:
        words = [
            CHROMIUM,
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "--no-first-run",
        ]
        words += ["--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"]
        words += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--no-proxy-server"]
        words += ["--no-sandbox"] if os.getuid() == 0 else []
        process = subprocess.Popen(
            [*words, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield _place_of(Path(profile) / "DevToolsActivePort", process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _place_of(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the browser has ended"
        lines = file.read_text().split() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError("the browser did not start")


class _Tools:
    """DevTools of one page: commands with their answers, and what happens meanwhile."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        self.loading: dict[str, float] = {}
        """When each request began that has not ended."""

    async def listen(self) -> None:
        async for message in self._socket:
            tree = message.json()
            if "id" in tree:
                self._answers.pop(tree["id"]).set_result(tree)
                continue
            self.events.append(tree)
            if tree["method"] == "Network.requestWillBeSent":
                self.loading[tree["params"]["requestId"]] = time.monotonic()
            elif tree["method"] in ("Network.loadingFinished", "Network.loadingFailed"):
                self.loading.pop(tree["params"]["requestId"], None)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        where = {"sessionId": self.session} if self.session else {}
        await self._socket.send_json({"id": self._number, "method": method, "params": params, **where})
        tree = await asyncio.wait_for(answer, LOOK_S)
        assert "error" not in tree, (method, tree["error"])
        found: dict[str, Any] = tree["result"]
        return found

    async def value(self, expression: str) -> Any:
        found = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def happened(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]


@asynccontextmanager
async def _page(place: str, width: int, height: int) -> AsyncIterator[_Tools]:
    limit = aiohttp.ClientTimeout(total=LOOK_S + 30)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.ws_connect(place, max_msg_size=0) as socket,
    ):
        tools = _Tools(socket)
        listening = asyncio.create_task(tools.listen())
        try:
            target = await tools.ask("Target.createTarget", url="about:blank")
            attached = await tools.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            tools.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tools.ask(f"{domain}.enable")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            await tools.ask("Emulation.setDeviceMetricsOverride", **size)
            yield tools
        finally:
            listening.cancel()


async def _look(
    place: str, url: str, width: int, height: int, awaits: str | None, whole: bool, media: dict[str, Any]
) -> Look:
    async with _page(place, width, height) as tools:
        await tools.ask("Emulation.setEmulatedMedia", **media)
        await tools.ask("Page.navigate", url=url)
        await _settled(tools, awaits)
        picture = await tools.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return Look(
            console_errors=_errors(tools),
            overflow=bool(
                await tools.value("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            ),
            screenshot=base64.b64decode(picture["data"]),
            failed_requests=_failed(tools),
            outside=_outside(tools),
            text=str(await tools.value(_TEXT) or ""),
            too_wide=list(await tools.value(_TOO_WIDE) or []),
            grounds=list(await tools.value(_GROUNDS) or []),
        )


async def _settled(tools: _Tools, awaits: str | None) -> None:
    """Return when nothing has been loaded or changed for `QUIET_S` on a page that shows the text, or after `LOOK_S`."""
    deadline, since, before = time.monotonic() + LOOK_S, time.monotonic(), ""
    while time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        now = str(await tools.value(_STATE))
        loading = any(time.monotonic() - began < PENDING_S for began in tools.loading.values())
        if loading or now != before or not now.startswith("complete"):
            since, before = time.monotonic(), now
        seen = awaits is None or awaits in now
        if seen and time.monotonic() - since > QUIET_S:
            return


_STATE = "document.readyState + document.querySelectorAll('*').length + (document.body ? document.body.innerText : '')"
_TEXT = "document.body ? document.body.innerText : ''"
_GROUNDS = """
[document.body, document.querySelector('.drawn')].filter(Boolean).map((part) => getComputedStyle(part).backgroundColor)
"""
_IS_TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
_TOO_WIDE = """
(() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll('body *')]
    .filter((part) => part.getBoundingClientRect().right > width + 1)
    .slice(0, 10)
    .map((part) => `${part.tagName.toLowerCase()}.${part.className} "${(part.textContent || '').trim().slice(0, 40)}"`);
})()
"""


def _errors(tools: _Tools) -> list[str]:
    said = [
        " ".join(str(part.get("value", part.get("description", ""))) for part in call["args"])
        for call in tools.happened("Runtime.consoleAPICalled")
        if call["type"] in ("error", "assert")
    ]
    thrown = [
        str(event["exceptionDetails"].get("exception", {}).get("description") or event["exceptionDetails"]["text"])
        for event in tools.happened("Runtime.exceptionThrown")
    ]
    entries = [event["entry"] for event in tools.happened("Log.entryAdded")]
    logged = [f"{entry['text']} {entry.get('url', '')}".strip() for entry in entries if entry["level"] == "error"]
    return [" ".join(line.split()) for line in (*said, *thrown, *logged)]


def _failed(tools: _Tools) -> list[str]:
    asked = {event["requestId"]: event["request"]["url"] for event in tools.happened("Network.requestWillBeSent")}
    lost = [
        f"{asked.get(event['requestId'], '?')}: {event['errorText']}"
        for event in tools.happened("Network.loadingFailed")
        if not event.get("canceled")
    ]
    answers = [event["response"] for event in tools.happened("Network.responseReceived")]
    return lost + [f"{answer['url']}: status {answer['status']}" for answer in answers if answer["status"] >= 400]


def _outside(tools: _Tools) -> list[str]:
    urls = [event["request"]["url"] for event in tools.happened("Network.requestWillBeSent")]
    return [url for url in urls if urlsplit(url).hostname not in (None, "127.0.0.1", "localhost")]
