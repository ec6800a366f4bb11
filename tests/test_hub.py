"""`longloom export --push`: the real huggingface_hub against a server on this machine that plays a hub."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.cli import main
from pipelines import hub
from schemas.errors import UserError
from tests.test_export import snapshot

TOKEN = "hf_" + "s3cr3t" * 6
ROOT = Path(__file__).parent.parent


class Hub(BaseHTTPRequestHandler):
    """Creation, existence, upload by LFS and commits of datasets; all that was asked is in `server.asked`."""

    protocol_version = "HTTP/1.1"

    def _answer(self, value, code=200):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self):
        path = self.path.partition("?")[0]
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state = self.server.state
        state["asked"].append((self.command, path))
        if path.startswith("/lfs/"):  # a signed address: the token must not go there
            state["leaks"] += "Authorization" in self.headers
            state["blobs"][path.removeprefix("/lfs/")] = body
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            url = f"{state['url']}/datasets/org/name"
            if state["exists"]:
                return self._answer({"error": "You already created this dataset repo", "url": url}, 409)
            state.update(exists=True, private=wanted.get("visibility") == "private")
            return self._answer({"url": url})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path == "/api/datasets/org/name" or path == "/api/datasets/org/name/revision/main":
            return self._answer({"id": "org/name", "private": state["private"], "sha": "0" * 40, "siblings": []})
        if path.startswith("/api/datasets/org/name/tree/"):
            files = [{"type": "file", "path": one, "size": 1, "oid": "0" * 40} for one in sorted(state["files"])]
            return self._answer(files)
        if path == "/api/datasets/org/name/preupload/main":
            modes = [
                {"path": one["path"], "uploadMode": "regular" if one["path"].endswith(".md") else "lfs"}
                for one in json.loads(body)["files"]
            ]
            return self._answer({"files": [{**one, "shouldIgnore": False, "oid": None} for one in modes]})
        if path == "/datasets/org/name.git/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{state['url']}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        if path == "/api/datasets/org/name/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
            return self._answer({"commitOid": "1" * 40, "commitUrl": f"{state['url']}/datasets/org/name/commit/1"})
        return self._answer({"error": f"what is {path}?"}, 404)

    do_GET = do_POST = do_PUT = _handle

    def _commit(self, lines):
        state, files = self.server.state, self.server.state["files"]
        state["commits"].append(lines[0]["value"]["summary"])
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            if key == "deletedFile":
                del files[value["path"]]
            elif key == "lfsFile":
                files[value["path"]] = state["blobs"][value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    one = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    url = f"http://127.0.0.1:{one.server_address[1]}"
    one.state = {
        "url": url, "asked": [], "blobs": {}, "files": {}, "commits": [], "leaks": 0, "exists": False, "private": False,
    }  # fmt: skip
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield one.state
    one.shutdown()
    one.server_close()


def push(built, state, *options, token=TOKEN, name="org/name"):
    """(exit code, stdout, stderr) of the command in a process of its own: the hub's address is read at import."""
    environment = {**os.environ, "HF_ENDPOINT": state["url"], "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "flows", "export", "small/out", "--workspace", str(built.root), "--push", name]
    done = subprocess.run([*command, *options], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert token not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_push_is_one_commit_that_takes_old_shards_away(built, server):
    stale = "sft/train-00001-of-00002.parquet"
    server["files"] = {stale: b"old", "notes/mine.txt": b"mine", "README.md": b"old"}
    code, out, err = push(built, server)
    assert (code, out) == (0, f"{server['url']}/datasets/org/name/commit/1: out\n"), err
    assert server["files"] == {**snapshot(built.exports / "out"), "notes/mine.txt": b"mine"}
    assert server["commits"] == ["Longloom export out"] and server["blobs"] and server["leaks"] == 0
    assert not any(TOKEN.encode() in content for content in server["files"].values())


def test_private_is_private_or_nothing_is_sent(built, server):
    assert push(built, server, "--private")[0] == 0 and server["private"]
    server.update(private=False, files={})
    code, _, err = push(built, server, "--private")
    assert (code, server["files"]) == (2, {}), err
    assert err.strip().endswith("longloom: org/name: is a public dataset already, and --private was asked for")


def test_a_token_that_is_refused_and_a_hub_that_is_away(built, server):
    code, _, err = push(built, server, token="hf_wrong")
    assert code == 2 and "longloom: org/name: the hub said: " in err and "401" in err
    code, _, err = push(built, {"url": "http://127.0.0.1:9"})
    assert code == 1 and "longloom: org/name: the hub cannot be reached" in err and "Traceback" not in err


def test_pushes_that_cannot_be_meant(built, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match="needs a token that may write, in the environment variable HF_TOKEN"):
        hub.push(built.exports / "out", "org/name", False)
    command = ["export", "small/out", "--workspace", str(built.root)]
    assert main(command) == main([*command, "--to", str(tmp_path / "a"), "--private"]) == 2
    assert capsys.readouterr().err == (
        "longloom: say where the export goes: --to DIR, or --push ORG/NAME\n"
        "longloom: --private is for --push ORG/NAME\n"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main([*command, "--push", "no name"]) == 2
    assert "longloom: 'no name' is no name of a dataset, ORG/NAME: " in capsys.readouterr().err
