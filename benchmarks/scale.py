"""How time and memory grow with the size of a task, and where the time of a run goes.

python benchmarks/scale.py sizes [--upto 10000] [--only resume gallery] [--root FOLDER]
python benchmarks/scale.py jobs [--model quarter] [--picture docs/where-time-goes.svg]

`sizes` paints nothing: each image is a copy of the same 64x64 one, so only the cost of everything else is
left. Each step runs in a process of its own, on the files that the steps before it left.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

import sdapp
from sdapp.batches.executors import Pack
from sdapp.batches.items import Item
from sdapp.comparisons.plan import ComparisonPlan
from sdapp.comparisons.run import finish, paint_comparison
from sdapp.gallery.gallery import build_gallery
from sdapp.grids.axes import read_axes
from sdapp.grids.plan import GridPlan
from sdapp.grids.run import finish_grid, paint_grid
from sdapp.jobs import Work
from sdapp.records import OnStep, Record, Result
from sdapp.settings.layers import Layer

SETTINGS: dict[str, Any] = {"width": 64, "height": 64, "seed": 7}
CREATED = "2026-11-27T04:00:00+00:00"
SCHEDULERS, STEPS = ["ddim", "euler", "dpm++2m", "unipc", "heun"], [5, 10, 20, 40]
LARGEST = {"grid": 10_000, "compare": 10_000, "report": 10_000}  # cells of a page


class Latents:
    """As the painter gives them, but without torch."""

    values = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32)

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.values


class Copies:
    """An executor that gives the same image for every job."""

    image = Image.effect_noise((64, 64), 50).convert("RGB")
    latents = Latents()

    def together(self, _work: Work) -> int:
        return 16

    def paint(self, work: Work, _on_step: OnStep | None = None) -> Iterator[Result]:
        for index, job in enumerate(work.jobs):
            record = Record(
                job.id, "", {}, "none", "float32", job.unet_calls, 16, 0.01, CREATED, {"torch": ""}
            )
            yield Result(job, index, record, self.image.copy(), latents=self.latents)

    def paint_packs(
        self, packs: Iterator[Pack], _on_step: OnStep | None = None
    ) -> Iterator[tuple[Item, Result]]:
        for pack in packs:
            for result in self.paint(pack.work):
                yield pack.items[result.index], result


# --- steps: each is given how many images, and a folder -----------------------------------------------------


def plan(number: int, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "prompts.txt").write_text("".join(f"a red house number {each}\n" for each in range(number)))
    sdapp.batch(
        root / "prompts.txt", executor=Copies(), output={"dir": str(root / "new")}, **SETTINGS
    ).close()


def paint(_number: int, root: Path) -> None:
    output = {"dir": str(root / "out")}
    for _ in sdapp.batch(root / "prompts.txt", executor=Copies(), output=output, **SETTINGS):
        pass


def gallery(_number: int, root: Path) -> None:
    build_gallery(root / "out")


def grid(number: int, root: Path) -> None:
    side = round(number**0.5)
    axes = {
        "x": f"guidance_scale={','.join(f'{1 + each / 10:g}' for each in range(side))}",
        "y": f"seed=1-{side}",
    }
    folder = root / "grid"
    settings = {**SETTINGS, "prompt": "a castle", "output": {"dir": str(folder)}}
    for _ in paint_grid(GridPlan([Layer(settings)], read_axes(axes)), Copies()):
        pass
    finish_grid(folder)


def compare(number: int, root: Path) -> None:
    seeds = [*range(number // (len(SCHEDULERS) * len(STEPS)))]
    asked = {"prompts": ["a castle"], "schedulers": SCHEDULERS, "steps": STEPS, "seeds": seeds}
    size = {key: SETTINGS[key] for key in ("width", "height")}
    layer = Layer({**size, "compare": asked, "output": {"dir": str(root / "comparison")}})
    for _ in paint_comparison(ComparisonPlan([layer]), Copies()):
        pass


def report(_number: int, root: Path) -> None:
    finish(root / "comparison")


WORK: dict[str, Callable[[int, Path], None]] = {
    "plan": plan,
    "paint": paint,
    "resume": paint,
    "gallery": gallery,
    "gallery-again": gallery,
    "grid": grid,
    "compare": compare,
    "report": report,
}


def step(name: str, number: int, root: Path) -> None:
    """Run one step, and print its seconds, those of the processor, and the megabytes that memory grew by."""
    before, begun, spent = psutil.Process().memory_info().rss, time.perf_counter(), time.process_time()
    WORK[name](number, root)
    wall, processor = time.perf_counter() - begun, time.process_time() - spent
    print(json.dumps([wall, processor, (_peak() - before) / 1e6]))


def _peak() -> int:
    """The peak memory of this process in bytes; not that of its parent, which `ru_maxrss` would include."""
    status = Path("/proc/self/status")
    if status.exists() and (high := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(high[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def sizes(upto: int, only: list[str], root: Path | None) -> None:
    """Print a row for each step and size."""
    from sides import tell_machine

    with tempfile.TemporaryDirectory() as temporary:
        _table(upto, only or [*WORK], root or Path(temporary))
    tell_machine({})


def _table(upto: int, names: list[str], root: Path) -> None:
    print(f"{'step':<14} {'images':>7} {'seconds':>9} {'processor':>10} {'MB':>7}", flush=True)
    for name in names:
        number = 100
        while number <= min(upto, LARGEST.get(name, upto)):
            command = [sys.executable, __file__, "step", name, str(number), str(root / str(number))]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
            wall, processor, grown = json.loads(told)
            print(f"{name:<14} {number:>7} {wall:>9.2f} {processor:>10.2f} {grown:>7.0f}", flush=True)
            number *= 10


# --- where the time of a run goes ---------------------------------------------------------------------------

JOBS = {
    "generate": 'generate "a castle on a beach" --seed 7 --steps 20',
    "batch": "batch prompts.txt --seed 7 --steps 20",
    "compare": 'compare "a castle on a beach" --schedulers ddim,euler --steps 5,10 --seeds 7 '
    '--set "compare.references=[dpm++2m-karras@20, heun@20]"',
}
PROMPTS = 8
# The parts of the picture: what `--profile` calls them, and a colour for light and dark pages.
PARTS = {
    "import": (("start", "import"), "#efb118"),
    "load": (("load",), "#ff725c"),
    "text encoder": (("encode",), "#6cc5b0"),
    "UNet": (("UNet",), "#4269d0"),
    "VAE": (("decode",), "#3ca951"),
    "save": (("convert", "save", "waiting"), "#a463f2"),
    "plan, measure, report": (("the rest",), "#9498a0"),
}
WIDTH, BAR, GAP, LEFT, TOP = 720, 26, 16, 90, 14


def jobs(model: str, picture: Path | None) -> None:
    """Print which share of the time each part takes, and draw it."""
    import torch

    from models import folder
    from sides import tell_machine

    found = {}
    for name, command in JOBS.items():
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "prompts.txt").write_text(
                "".join(f"a castle {each}\n" for each in range(PROMPTS))
            )
            found[name] = _profile(f"{command} --model {folder(model, torch.float32)}", Path(temporary))
        seconds = sum(found[name].values())
        shares = ", ".join(f"{part} {100 * each / seconds:.1f} %" for part, each in found[name].items())
        print(f"{name}: {seconds:.1f} s: {shares}", flush=True)
    if picture:
        picture.write_text(draw(found))
    tell_machine({"model": model})


def _profile(arguments: str, folder: Path) -> dict[str, float]:
    """Run a command of sdapp, and return the seconds of each part."""
    program = f"{sys.executable} -c 'from sdapp.cli import run; run()'"
    begun = time.perf_counter()
    command = f"{program} {arguments} --device cpu --size 256x256 --profile"
    run = subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True, text=True)
    wall = time.perf_counter() - begun
    told = {
        part: float(each) for part, each in re.findall(r"^(\w[\w ]*?) +([\d.]+) s", run.stderr, re.MULTILINE)
    }
    told["start"] = wall - told["in all"]
    return {part: sum(told.get(name, 0.0) for name in names) for part, (names, _) in PARTS.items()}


def draw(found: dict[str, dict[str, float]]) -> str:
    """An SVG with a bar for each job, as wide for each part as its share of the time."""
    rows = []
    for row, (name, parts) in enumerate(found.items()):
        y, x, seconds = TOP + row * (BAR + GAP), float(LEFT), sum(parts.values())
        rows.append(f'<text x="{LEFT - 10}" y="{y + 18}" text-anchor="end">{name}</text>')
        for part, each in parts.items():
            width, title = (WIDTH - LEFT - 70) * each / seconds, f"{part}: {each:.1f} s"
            box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{PARTS[part][1]}"'
            rows.append(f"<rect {box}><title>{title}</title></rect>")
            x += width
        rows.append(f'<text x="{x + 8:.0f}" y="{y + 18}">{seconds:.0f} s</text>')
    y = TOP + len(found) * (BAR + GAP) + 4
    for place, (part, (_, colour)) in enumerate(PARTS.items()):
        x, line = LEFT + 150 * (place % 4), y + 24 * (place // 4)
        rows.append(f'<rect x="{x}" y="{line}" width="12" height="12" fill="{colour}"/>')
        rows.append(f'<text x="{x + 18}" y="{line + 11}">{part}</text>')
    return SVG.format(width=WIDTH, height=y + 44, rows="\n".join(rows))


SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<title>Where the time of a run goes: generate, batch and compare</title>
<style>text {{ font: 13px system-ui, sans-serif; fill: #1f2328 }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}</style>
{rows}
</svg>
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("sizes")
    command.add_argument("--upto", type=int, default=10_000)
    command.add_argument("--only", nargs="+", choices=WORK, default=[])
    command.add_argument("--root", type=Path, help="keep the files in this folder")
    command = commands.add_parser("jobs")
    command.add_argument("--model", default="quarter")
    command.add_argument("--picture", type=Path)
    command = commands.add_parser("step")
    command.add_argument("name", choices=WORK)
    command.add_argument("number", type=int)
    command.add_argument("root", type=Path)
    chosen = vars(parser.parse_args())
    {"sizes": sizes, "jobs": jobs, "step": step}[chosen.pop("command")](**chosen)


if __name__ == "__main__":
    main()
