"""Headless Chromium over its DevTools protocol, with what a page does written down: requests, console, dialogs."""

import asyncio
import base64
import contextlib
import json
import re
import shutil
import tempfile

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
          "--disable-background-networking", "--remote-debugging-port=0", "--hide-scrollbars"]  # fmt: skip


class Page:
    """One tab. `requests`: URLs beside the page's own; `said`: console messages, log entries, exceptions; `dialogs`."""

    def __init__(self, socket):
        self._socket, self._count, self._waiting = socket, 0, {}
        self.requests, self.said, self.dialogs = [], [], []
        self._loaded = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._waiting.pop(event["id"]).set_result(event)
                continue
            match event["method"], event["params"]:
                case "Page.loadEventFired", _:
                    self._loaded.set()
                case "Network.requestWillBeSent", params:
                    self.requests.append(params["request"]["url"])
                case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded", params:
                    self.said.append(params)
                case "Page.javascriptDialogOpening", params:
                    self.dialogs.append(params["message"])
                    asyncio.create_task(self.call("Page.handleJavaScriptDialog", accept=True))  # noqa: RUF006

    async def call(self, method, **params):
        self._count += 1
        self._waiting[self._count] = done = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        answer = await asyncio.wait_for(done, 60)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def open(self, path, width=1280, height=900, dark=False):
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._loaded.clear()
        await self.call("Page.navigate", url=path.as_uri())
        await asyncio.wait_for(self._loaded.wait(), 60)
        await asyncio.sleep(0.3)  # what a script would do after the load
        self.requests = [url for url in self.requests if url != path.as_uri()]

    async def ask(self, expression):
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def picture(self, path, whole=False):
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"clip": {**size, "x": 0, "y": 0, "scale": 1}, "captureBeyondViewport": True} if whole else {}
        data = await self.call("Page.captureScreenshot", format="png", **clip)
        path.write_bytes(base64.b64decode(data["data"]))

    async def pdf(self, path):
        path.write_bytes(base64.b64decode((await self.call("Page.printToPDF", preferCSSPageSize=True))["data"]))


@contextlib.asynccontextmanager
async def browser():
    """A function that opens a new tab; the browser is gone at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        try:
            port = ""
            while not port:  # it says on which port it listens
                line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
                assert line, "Chromium ended at once"
                port = "".join(re.findall(r"listening on ws://127.0.0.1:(\d+)/", line))
            async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:

                async def tab():
                    async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                        url = (await answer.json(content_type=None))["webSocketDebuggerUrl"]
                    socket = await stack.enter_async_context(session.ws_connect(url, max_msg_size=0))
                    return Page(socket)

                yield tab
        finally:
            process.kill()
            await process.wait()
