"""Time a comparison of schedulers, and a loop over the pipeline for the same: python benchmarks/grid.py

Both sides paint only the cells, with loaded models; sdapp also keeps their latents. `--whole` times all of
`sdapp.compare` instead: it loads the model, and makes the references, the report and the sheets.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import sdapp
from sdapp.batches.executors import LocalExecutor
from sdapp.batches.run import Batch
from sdapp.comparisons.folder import keep_latents
from sdapp.comparisons.plan import ComparisonPlan
from sdapp.jobs import Work
from sdapp.settings.layers import Layer
from sides import (
    Settings,
    Side,
    batch_size,
    by_hand,
    flags,
    furthest,
    in_turns,
    report,
    rounds,
    settings,
    tell_machine,
)

PROMPT = "a castle on a beach at night"


def cells_of(both: Settings, grid: Settings, folder: Path) -> Batch:
    """The cells of a comparison, without its references, as a batch."""
    settings = both | {"compare": grid | {"prompts": [PROMPT]}, "output": {"dir": str(folder)}}
    plan = ComparisonPlan([Layer(settings)])
    cells = {cell.id for cell in plan.comparison.cells}
    items = [item for item in plan.items() if item.job.id in cells]
    keep = partial(keep_latents, plan.folder)
    return Batch(lambda: items, plan.config, plan.load, keep=keep)


def main(asked: argparse.Namespace) -> None:
    both = settings(asked) | {"batch_size": asked.batch_size}
    grid = {"schedulers": asked.schedulers, "steps": asked.steps, "seeds": asked.seeds, "match": "steps"}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        cells = cells_of(both, grid, root / "jobs")
        jobs = [item.job for item in cells.items()]
        bare, executor = by_hand(both), LocalExecutor()
        if not asked.whole:
            executor.painter(Work(cells.load, jobs))

        def loop(folder: Path) -> None:
            for job in sorted(jobs, key=lambda job: job.scheduler.name):
                bare([job], folder)

        def ours(folder: Path) -> None:
            if asked.whole:
                sdapp.compare(PROMPT, out=folder, **both, **grid)
                return
            batch = cells_of(both, grid, folder)
            batch.begin()
            for result in batch.paint(executor, batch.survey()):
                assert result.path, result.error

        sides: dict[str, Side] = {"loop": loop, "sdapp.compare" if asked.whole else "sdapp": ours}
        report(in_turns(sides, asked.rounds, root), len(jobs))
        theirs, mine = (root / name / str(asked.rounds) for name in sides)
        print(f"{len(jobs)} cells, pixels at most {furthest(mine, theirs)} of 255 apart")
    tell_machine(both)


if __name__ == "__main__":
    parser = flags(__doc__)
    parser.add_argument("--schedulers", nargs="+", default=["pndm", "ddim", "euler", "dpm++2m"])
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--batch-size", type=batch_size, default=4)
    parser.add_argument("--whole", action="store_true")
    rounds(parser)
    main(parser.parse_args())
