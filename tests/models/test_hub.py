"""Downloads from a Hub that is played by a server on this machine: what is asked for, and what errors say."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import POSTCARDS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = Mapping[str, bytes]


class Hub:
    """Serves the files of one model, `org/model`, and remembers which were downloaded."""

    def __init__(self, files: Files) -> None:
        self.files, self.downloaded = files, set[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if path.startswith("/org/model/resolve/"):
            name = path.split("/", 5)[5]
            if request.command == "GET":
                self.downloaded.add(name)
            tag = hashlib.sha1(self.files[name]).hexdigest()
            send(request, self.files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'})
        elif path.startswith(f"/api/models/org/model/tree/{COMMIT}"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            send(request, json.dumps(entries).encode())
        elif path in ("/api/models/org/model", "/api/models/org/model/revision/main"):
            siblings = [{"rfilename": name} for name in self.files]
            send(request, json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode())
        else:
            is_model = path.startswith("/api/models/org/model/")
            reason = "RevisionNotFound" if is_model else "RepoNotFound"
            send(request, b"{}", {"X-Error-Code": reason}, 404)


def send(
    request: BaseHTTPRequestHandler, content: bytes, headers: Mapping[str, str] | None = None, code: int = 200
) -> None:
    request.send_response(code)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(content)


@pytest.fixture
def files() -> dict[str, bytes]:
    """The built-in model as the Hub would have it; files that are not needed lie beside it."""
    paths = [path for path in POSTCARDS.rglob("*") if path.is_file()]
    return {path.relative_to(POSTCARDS).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    server = Hub(files)
    yield server
    server.server.shutdown()
    server.server.server_close()


def locate(hub: Hub, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Let a dry run look for the model, which downloads it; torch is not imported."""
    (folder / "prompts.txt").write_text("a cat\n")
    cache = {"HF_HOME": str(folder / "home"), "HF_HUB_CACHE": str(folder / "hub")}
    return subprocess.run(
        [sys.executable, "-m", "sdapp.cli", "batch", "prompts.txt", "--dry-run", *flags],
        cwd=folder,
        env=os.environ
        | cache
        | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_part_is_downloaded_in_one_variant(files: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = b"not needed"
    files["unet/diffusion_pytorch_model.bin"] = b"not read"
    files["text_encoder/model.fp16.safetensors"] = files.pop("text_encoder/model.safetensors")
    run = locate(hub, tmp_path, "--model", "org/model")
    assert run.returncode == 0, run.stderr
    assert {name for name in hub.downloaded if not name.endswith((".json", ".txt"))} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
    }


def test_what_is_not_supported_is_refused_before_its_weights_are_downloaded(
    files: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    config = json.loads(files["unet/config.json"]) | {"in_channels": 8}
    files["unet/config.json"] = json.dumps(config).encode()
    run = locate(hub, tmp_path, "--model", "org/model")
    assert (run.returncode, run.stderr.count("\n")) == (69, 1)
    assert run.stderr.startswith("error: model: org/model is InstructPix2Pix")
    assert not [name for name in hub.downloaded if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "org/model", "--set", "revision=v9"), "model: org/model has no revision 'v9'"),
        (("--model", "org/other"), "model: org/other is not on the Hub, or private"),
        (("--set", "vae=org/other"), "vae: org/other is not on the Hub, or private"),
    ],
)
def test_what_the_hub_does_not_have_is_said_in_one_line(
    flags: tuple[str, ...], message: str, hub: Hub, tmp_path: Path
) -> None:
    run = locate(hub, tmp_path, *flags)
    assert (run.returncode, run.stderr.count("\n")) == (69, 1), run.stderr
    assert run.stderr.startswith(f"error: {message}")


def test_a_safety_checker_is_downloaded_only_if_it_is_asked_for(
    files: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    files["safety_checker/config.json"] = b'{"architectures": ["StableDiffusionSafetyChecker"]}'
    files["safety_checker/model.safetensors"] = b"no weights"
    files["safety_checker/pytorch_model.bin"] = b"not read"
    assert locate(hub, tmp_path, "--model", "org/model").returncode == 0
    assert "safety_checker/model.safetensors" not in hub.downloaded
    cache = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    run = subprocess.run(
        [sys.executable, "-m", "sdapp.cli", "generate", "a cat", "--model", "org/model",
         "--set", "safety_checker=on"],
        cwd=tmp_path, env=os.environ | cache | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 69, run.stderr
    assert "error: safety_checker: " in run.stderr
    assert {name for name in hub.downloaded if "safety" in name} == {
        "safety_checker/config.json", "safety_checker/model.safetensors",
    }  # fmt: skip
