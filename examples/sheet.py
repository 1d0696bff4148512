"""The image at the top of the README, by the Python API: python examples/sheet.py docs/postcards.png"""

import sys

from PIL import Image

import sdapp

SKIES = ("by day", "in sunshine", "at sunset", "at night", "in space")
SCENES = (
    "a red house on a beach",
    "a white ship on the ocean",
    "a green palm tree on a beach",
    "an orange cat in a meadow",
    "a pink tree in the mountains",
    "a yellow hot-air balloon in the desert",
    "a black castle in the snow",
    "an oil painting of a blue house in a meadow",
)
COLUMNS, ZOOM, GAP = 8, 2, 6

prompts = [f"{scene} {SKIES[(row + column) % 5]}" for row in range(3) for column, scene in enumerate(SCENES)]
side = 64 * ZOOM
page = Image.new("RGB", (COLUMNS * (side + GAP) - GAP, 3 * (side + GAP) - GAP), "white")
sd = sdapp.load("postcards")
for number, prompt in enumerate(prompts):
    image = sd.generate(prompt, seed=number + 1).image.resize((side, side), Image.Resampling.NEAREST)
    page.paste(image, (number % COLUMNS * (side + GAP), number // COLUMNS * (side + GAP)))
page.save(sys.argv[1])
