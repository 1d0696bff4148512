"""Measure the time that sdapp adds to the plain pipeline call: python benchmarks/overhead.py [--rounds 20]

Both sides paint the same job with the same loaded weights and save a PNG; each round has another prompt.
"""

import argparse
import tempfile
from pathlib import Path

from sdapp.jobs import Job, LoadKey
from sdapp.models.locate import locate
from sdapp.outputs.writer import save
from sdapp.pipelines import load
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.settings.output import Output
from sdapp.validation import validate
from sides import by_hand, flags, furthest, in_turns, report, rounds, settings, tell_machine


def main(asked: argparse.Namespace) -> None:
    both = settings(asked) | {"steps": asked.steps}
    config = validate(Layer(both | {"prompt": "a red house on a beach", "seed": 7}))
    model = locate(config.model)
    painter, bare, [first] = load(LoadKey.of(config, model)), by_hand(both), plan(config, model)

    def job(folder: Path) -> Job:
        return first.model_copy(update={"prompt": f"{first.prompt} {folder.name}"})

    def ours(folder: Path) -> None:
        for result in painter.paint([job(folder)]):
            save(result, Output(dir=str(folder), name="{id}"))

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        report(
            in_turns({"bare": lambda folder: bare([job(folder)], folder), "sdapp": ours}, asked.rounds, root),
            images=1,
        )
        print(f"pixels at most {furthest(root / 'sdapp', root / 'bare' / str(asked.rounds))} of 255 apart")
    tell_machine(both)


if __name__ == "__main__":
    parser = flags(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    rounds(parser, default=20)
    main(parser.parse_args())
