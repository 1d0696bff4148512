"""How busy the model is while a batch is painted and published: python benchmarks/busy.py [--prompts 16] [--batch-size 4]

The shares of the time after loading, as `sdapp batch --profile` prints them: UNet, encode and decode should have nearly all,
and waiting, which is for the publishing, nearly nothing. On a GPU each part is waited for while it is measured.
"""

import argparse
import re
import tempfile
from pathlib import Path

from sides import batch_size, begin, flags, prompt_file, settings, tell_machine

from sdapp.loading import load
from sdapp.models import locate
from sdapp.stopwatch import profiled

BUSY = ("encode", "UNet", "decode")


def main(asked: argparse.Namespace) -> None:
    both = settings(asked) | {"steps": asked.steps, "batch_size": asked.batch_size}
    with tempfile.TemporaryDirectory() as temporary:
        folder, said = Path(temporary), list[str]()
        batch = begin(prompt_file(folder / "prompts.txt", asked.prompts), both, folder)
        painter = load(locate(both["model"]), batch.config)
        with profiled(said.append):
            for result in batch.paint(painter):
                assert result.path, result.error
    print(said[0])
    share = dict(re.findall(r"^(\w+) .* ([\d.]+)%$", said[0], re.MULTILINE))
    print(f"busy: {sum(float(share[part]) for part in BUSY):.1f}% ({', '.join(BUSY)}); waiting: {share['waiting']}%")
    print(f"{asked.prompts} pictures")
    tell_machine(both)


if __name__ == "__main__":
    parser = flags(__doc__, model="quarter")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=batch_size, default="auto")
    main(parser.parse_args())
