"""Measure the layout of the package: `python tests/house.py [FOLDER]` prints the figures that test_house.py bounds."""

import ast
import io
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Imports go down this list only: each name may import those after it. Folders have a list of their own below.
TOP = (
    "__main__",
    "cli", "commands",
    "warm", "api", "arguments", "keywords",
    "comparisons", "grids", "gallery", "explanations", "upscales", "replays", "batches", "notes", "pipelines", "stages", "diffusion", "pages", "outputs", "records",
    "prompts", "metadata", "planning", "jobs", "models", "validation", "config", "settings", "profiles", "schedulers", "scheduler_table", "images", "markup", "errors",
    "profiling",
)  # fmt: skip
INSIDE = {
    "commands": (
        "shell", "explain", "generate", "upscale", "batch", "compare", "grid", "gallery", "replay", "show", "models", "tokens", "config", "schedulers", "doctor",
        "running", "options",
        "completion", "estimates", "terminal",
    ),
    "comparisons": ("run", "report", "measure", "plan", "pace", "folder", "verdict", "statistics", "cells", "metrics", "analytic"),
    "gallery": ("gallery",),
    "explanations": ("run", "page", "views", "charts"),
    "comparisons/report": ("report", "plots", "sheets"),
    "batches": ("prune", "stream", "run", "prompt_file", "cluster", "executors", "items", "finished", "ledger", "seed_state", "leases"),
    "diffusion": (
        "safety", "clip_score", "upscale_pipelines", "control", "process", "masks", "loading", "startup", "batch_size", "placement", "memory", "loras", "unet", "solvers", "sigmas", "watch", "preview", "upscalers", "upscale", "shortcuts",
        "decode",
        "task_inputs", "outpaint", "text_encoder", "noise",
        "devices",
    ),
    "stages": ("finish", "details", "upscale", "outpaint", "passes", "painting", "loaded_model"),
    "pages": ("sources", "page", "sheet", "format"),
    "grids": ("run", "page", "sheets", "plan", "folder", "axes"),
    "outputs": ("writer", "painted", "films", "encode", "naming", "files"),
    "metadata": (
        "read", "comfyui", "infotext_read", "infotext_write", "infotext", "adetailer", "named", "carry", "samplers", "record", "containers",
    ),
    "prompts": ("variants", "files", "txt", "columns", "templates", "lines", "seeds", "tokens"),
    "models": (
        "words", "catalog", "upscalers", "clip", "lora_files", "embedding_files", "control_files", "mask_models", "safety", "vae", "locate", "checks", "model", "kinds", "hub", "families",
        "originals", "checksums", "files",
    ),
    "settings": ("stages", "additions", "tasks", "sampling", "hardware", "output", "grid", "messages", "files", "layers", "ranges", "types"),
}  # fmt: skip
WIDTH = 110
TABLES = ("scheduler_table.py", "samplers.py")


@dataclass(frozen=True)
class Function:
    """A function or method: where it is and how many lines it has, its docstring and its signature included."""

    place: str
    name: str
    lines: int


@dataclass(frozen=True)
class Room:
    """One module; `name` is its path below the package without `.py`, such as `batches/run`."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(
                    f"{self.name}.py:{node.lineno}", node.name, (node.end_lineno or 0) - node.lineno + 1
                )

    @property
    def public_names(self) -> Iterator[str]:
        """Top-level names, private ones too, that a reader meets: functions, classes and constants."""
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))


@dataclass(frozen=True)
class House:
    """All modules of the package and what they import of each other."""

    rooms: dict[str, Room]

    @classmethod
    def read(cls, package: Path) -> "House":
        names = {
            path.relative_to(package).with_suffix("").as_posix(): path
            for path in sorted(package.rglob("*.py"))
        }
        return cls({name: Room(name, path.read_text(encoding="utf-8")) for name, path in names.items()})

    def imports(self, room: Room) -> Iterator[str]:
        """The rooms that one imports, inside functions too."""
        for node in ast.walk(room.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sdapp":
                path = "/".join((node.module or "").split(".")[1:])
                for alias in node.names:
                    inner = f"{path}/{alias.name}".lstrip("/")
                    if inner in self.rooms:
                        yield inner
                    elif path in self.rooms:
                        yield path
            elif isinstance(node, ast.Import):
                yield from (
                    "/".join(alias.name.split(".")[1:])
                    for alias in node.names
                    if alias.name.startswith("sdapp.")
                )

    @cached_property
    def arrows(self) -> Counter[tuple[str, str]]:
        """Imports between the names of TOP, counted by importing and imported module."""
        found = {(room.name, other) for room in self.rooms.values() for other in self.imports(room)}
        return Counter(
            (ours, theirs)
            for ours, theirs in ((one.split("/")[0], other.split("/")[0]) for one, other in found)
            if ours != theirs and "__init__" not in (ours, theirs)
        )

    def upward(self) -> list[str]:
        """Imports against the order of TOP and of INSIDE."""
        wrong = []
        for room in self.rooms.values():
            for other in sorted(set(self.imports(room))):
                if room.name.endswith("__init__"):
                    continue
                if (order := _order(room.name, other)) and order[0] >= order[1]:
                    wrong.append(f"{room.name} imports {other}")
        return wrong

    def unlisted(self) -> list[str]:
        """Modules that stand in no list."""
        return [
            name
            for name in self.rooms
            if not name.endswith("__init__")
            and not any(_places(name, part) for part in range(name.count("/") + 1))
        ]

    def shared_names(self) -> dict[str, list[str]]:
        """Top-level names that several rooms define, with those rooms."""
        owners = defaultdict(list)
        for room in self.rooms.values():
            for name in dict.fromkeys(room.public_names):
                if not name.startswith("__"):
                    owners[name].append(room.name)
        return {name: rooms for name, rooms in sorted(owners.items()) if len(rooms) > 1}

    def skips(self) -> list[str]:
        """`# fmt: skip` on anything but a table: a literal of at least four rows, or a row of a table's file."""
        found = []
        for room in self.rooms.values():
            comments = [
                token.start[0]
                for token in tokenize.generate_tokens(io.StringIO(room.text).readline)
                if token.type == tokenize.COMMENT and "fmt: skip" in token.string
            ]
            found += [f"{room.name}.py:{line}" for line in comments if not _ends_table(room, line)]
        return found

    def wide(self) -> list[str]:
        """Lines of more than 110 columns."""
        return [
            f"{room.name}.py:{number}"
            for room in self.rooms.values()
            for number, line in enumerate(room.text.split("\n"), 1)
            if len(line) > WIDTH
        ]


def _places(name: str, part: int) -> bool:
    parts = name.split("/")
    order = TOP if part == 0 else INSIDE.get("/".join(parts[:part]), ())
    return parts[part] in order and (part == len(parts) - 1 or "/".join(parts[: part + 1]) in INSIDE)


def _order(one: str, other: str) -> tuple[int, int] | None:
    """Where the two stand in the list of the folder in which they part."""
    ours, theirs = one.split("/"), other.split("/")
    depth = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if depth is None:
        return None
    order = TOP if depth == 0 else INSIDE.get("/".join(ours[:depth]), ())
    if not {ours[depth], theirs[depth]} <= set(order):
        return None  # `unlisted` names it
    return order.index(ours[depth]), order.index(theirs[depth])


def _ends_table(room: Room, line: int) -> bool:
    if room.name.rpartition("/")[2] + ".py" in TABLES:
        return True
    return any(
        isinstance(node, ast.Dict | ast.Tuple | ast.List | ast.Set)
        and node.end_lineno == line
        and line - node.lineno >= 1
        for node in ast.walk(room.tree)
    )


def main(package: Path) -> None:
    """Print the figures."""
    house = House.read(package)
    folders = defaultdict(list)
    for room in house.rooms.values():
        folders[room.folder or "."].append(room)
    for folder, rooms in folders.items():
        print(f"{folder:<22}{len(rooms):3} files {sum(room.text.count(chr(10)) for room in rooms):6} lines")
    functions = [each for room in house.rooms.values() for each in room.functions]
    longest = max(functions, key=lambda each: each.lines)
    print(f"lines in all {sum(room.text.count(chr(10)) for room in house.rooms.values())}")
    modules = sum(
        len(set(house.imports(room))) for room in house.rooms.values() if not room.name.endswith("__init__")
    )
    print(
        f"arrows between modules {modules}, between folders {sum(house.arrows.values())}, against the order {len(house.upward())}"
    )
    print(f"longest function {longest.lines} lines: {longest.place} {longest.name}")
    long = sorted((each for each in functions if each.lines > 30), key=lambda each: -each.lines)
    print(f"functions over 30 lines {len(long)}: " + ", ".join(f"{each.name} {each.lines}" for each in long))
    shared = house.shared_names()
    print(
        f"names defined twice {len(shared)}: "
        + "; ".join(f"{name} ({', '.join(rooms)})" for name, rooms in shared.items())
    )
    print(f"fmt: skip outside tables {len(house.skips())}, lines over {WIDTH} columns {len(house.wide())}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "sdapp")
