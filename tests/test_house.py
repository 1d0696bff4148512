"""The layout of the package, as CONTRIBUTING.md describes it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from house import House, Room

PACKAGE = Path(__file__).parents[1] / "sdapp"
HOUSE = House.read(PACKAGE)


def test_every_module_is_listed() -> None:
    assert HOUSE.unlisted() == []


def test_imports_go_down_the_lists_only() -> None:
    assert HOUSE.upward() == []


def test_the_measure_sees_an_import_that_goes_up() -> None:
    rooms = {
        name: Room(name, text)
        for name, text in (
            ("images", "from sdapp.commands.batch import batch\n"),
            ("commands/batch", "from sdapp import odd\n"),
        )
    }
    assert House(rooms).upward() == ["images imports commands/batch"]
    assert House(rooms | {"odd": Room("odd", "")}).unlisted() == ["odd"]


def test_functions_are_short_and_lines_narrow() -> None:
    functions = [each for room in HOUSE.rooms.values() for each in room.functions]
    assert [each for each in functions if each.lines > 45] == []
    assert HOUSE.wide() == []
    assert HOUSE.skips() == []


def test_a_top_level_name_means_one_thing() -> None:
    # A command is called like the function of the API that it runs; `sdapp.load` loads a Painter with `pipelines.load`.
    assert HOUSE.shared_names().keys() <= {
        "generate",
        "batch",
        "compare",
        "grid",
        "explain",
        "replay",
        "upscale",
        "load",
    }


def test_the_measure_sees_long_functions_wide_lines_twins_and_skips() -> None:
    long = "def f():\n" + "    x = 1\n" * 60
    wide = f"TEXT = '{'x' * 120}'\nf = 1  # fmt: skip\n"
    house = House({"images": Room("images", long), "errors": Room("errors", wide)})
    assert [each.lines for each in house.rooms["images"].functions] == [61]
    assert house.wide() == ["errors.py:1"]
    assert house.skips() == ["errors.py:2"]
    assert house.shared_names() == {"f": ["images", "errors"]}


@pytest.mark.parametrize("module", ["sdapp", "sdapp.cli", "sdapp.outputs.files", "sdapp.commands.doctor"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "scipy", "numpy")
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("room", HOUSE.rooms.values(), ids=lambda room: room.name)
def test_every_module_and_every_public_name_says_what_it_is_for(room: Room) -> None:
    public = [
        node
        for node in room.tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and "overload" not in map(ast.unparse, node.decorator_list)
    ]
    assert ast.get_docstring(room.tree)
    assert [node.name for node in public if not ast.get_docstring(node)] == []
