import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sdapp"
ROOMS = [
    "errors", "stopwatch", "scheduler_table", "schedulers", "truth", "distance", "ranges", "strict", "grid", "layers",
    "config", "config_text", "models", "autoencoders", "starting", "images", "dialects", "infotext", "foreign", "jobs",
    "fields", "lines", "prompt_line", "prompts", "templates", "variants", "names", "outputs", "publishing", "history", "tokens",
    "leases", "ledger", "orders", "batch", "replay", "results", "figures", "plots", "report", "sheets", "latents",
    "comparing", "measuring", "canvas", "text", "batch_sizes", "noise", "decoding", "denoiser", "shortcuts", "pipelines",
    "loading", "doctor", "flags", "console", "painting", "cli_config", "cli_batch", "cli_replay", "cli_compare", "cli",
]  # fmt: skip
FILES = sorted(PACKAGE.glob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def rooms_entered(tree: ast.Module) -> Iterator[str]:
    """The rooms of sdapp that a module imports, also inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sdapp":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from [node.module.removeprefix("sdapp.")] if (node.module or "").startswith("sdapp.") else []
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("sdapp.") for alias in node.names if alias.name.startswith("sdapp."))


def test_every_room_stands_in_the_list() -> None:
    assert {path.stem for path in FILES} == {"__init__", *ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    above = ROOMS[: ROOMS.index(room)]
    assert set(rooms_entered(parse(PACKAGE / f"{room}.py"))) <= set(above)


@pytest.mark.parametrize("module", ["sdapp", "sdapp.cli", "sdapp.outputs", "sdapp.doctor"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "scipy", "numpy")
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_module_and_every_public_name_says_what_it_is_for(path: Path) -> None:
    tree = parse(path)
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]  # fmt: skip
    assert ast.get_docstring(tree)
    assert [node.name for node in public if not ast.get_docstring(node)] == []
