"""Help, completion and habits of other programs: what is shown, offered and understood."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from sdapp.cli import app
from sdapp.metadata.record import read_header
from sdapp.scheduler_table import TABLE

Sdapp = Callable[..., Result]
COMMANDS = [
    (name, *below)
    for name, command in typer.main.get_command(app).commands.items()
    for below in ([(each,) for each in getattr(command, "commands", ())] or [()])
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_the_terminal_and_names_no_type_of_python(command: tuple[str, ...]) -> None:
    for ask in ((*command, "-h"), ("help", *command)):
        shown = CliRunner().invoke(app, ask, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
        assert shown.exit_code == 0
        assert not re.search(r"<(bool|str|path|list|int|float)", shown.output)
        assert max(map(len, shown.output.splitlines())) <= 80


def test_help_is_in_groups_with_the_defaults() -> None:
    shown = CliRunner().invoke(app, ["generate", "-h"]).output
    assert re.findall(r"╭─ (\w+) ─", shown) == ["Arguments", "Image", "Model", "Output", "Run"]
    for default in ("20.", "7.5.", "dpm++2m-karras.", "outputs.", "postcards, which is built in."):
        assert f"default: {default}" in as_one_line(shown)
    shown = as_one_line(CliRunner().invoke(app, ["replay", "-h"]).output)
    assert "The seed of all images; default: that of each image." in shown


def as_one_line(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("generate a red house", "too many words: red house; quote the prompt"),
        (
            "generate cat --profile a1111",
            "too many words: a1111; --set profile=a1111; --profile measures times",
        ),
        ("generate x --cfg 7", "use --guidance-scale N"),
        ("generate x --sampler=ddim", "use --scheduler NAME"),
        ("generate x --width 64", "use --size WIDTHxHEIGHT"),
        ("generate x --vae y", "use --set vae=NAME"),
        ("generate x --clip-skip 1", "use --set clip_skip=VALUE"),
        ("generate x -q", "2>/dev/null hides the rest"),
        ("generate x -y", "nothing asks a question"),
        ("batch x.txt -y", "use --yes"),
        ("generate x --dtype fp16", "did you mean 'float16'?"),
        ("generate x --size 64", "such as 64x64"),
        ("generate x -o cat.jpeg", "write the suffix as one of .png, .jpg, .webp"),
        ("batch x.txt -o cat.png", "give the folder for all files"),
        ("compare x -o cat.png", "give the folder for all files"),
    ],
)
def test_habits_of_other_programs_get_the_right_word(arguments: str, word: str, sdapp: Sdapp) -> None:
    result = sdapp(*arguments.split())
    assert result.exit_code == 2
    assert word in result.stderr


@pytest.mark.model
def test_out_can_name_the_image(sdapp: Sdapp) -> None:
    for name, kind in (("cat.png", "PNG"), ("in/cat.webp", "WEBP"), ("cat.jpg", "JPEG")):
        assert sdapp("generate", "a cat", "-o", name, "--steps", 1, "--seed", -1).stdout == f"{Path(name)}\n"
        with Image.open(name) as image:
            assert image.format == kind
    assert read_header(Path("cat.png"))["job"]["seed"] >= 0
    again = sdapp("generate", "a cat", "-o", "cat.png", "--steps", 1)
    assert again.stdout == "cat-2.png\n"


def complete(*words: str) -> list[str]:
    """What the shell offers for the last word."""
    shell = {
        "_SDAPP_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    process = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'sdapp'; from sdapp.cli import app; app(prog_name='sdapp')",
    ]
    return subprocess.run(process, env=os.environ | shell, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("generate", "--scheduler", "dpm++2m-k"), ["dpm++2m-karras"]),
        (("compare", "--schedulers", "ddim,unipc-k"), ["ddim,unipc-karras"]),
        (("schedulers", "tc"), ["tcd"]),
        (("generate", "--dtype", "b"), ["bfloat16"]),
        (("generate", "--device", "m"), ["mps"]),
        (("generate", "--model", "postc"), ["postcards"]),
        (("generate", "--set", "guidance_s"), ["guidance_scale="]),
        (("compare", "--vary", "clip"), ["clip_skip="]),
        (("batch", "--config", "sdxl-t"), ["sdxl-turbo"]),
    ],
)
def test_values_are_completed(words: tuple[str, ...], offered: list[str]) -> None:
    assert complete("sdapp", *words) == offered


def test_schedulers_are_grouped_by_use_in_80_columns(sdapp: Sdapp) -> None:
    shown = sdapp("schedulers").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "start with dpm++2m-karras" in shown
    assert sorted(re.findall(r"^  (\S+) +\d +\d\d  ", shown, re.MULTILINE)) == sorted(
        row.name for row in TABLE
    )


def test_lists_come_as_json(sdapp: Sdapp) -> None:
    rows = [json.loads(line) for line in sdapp("schedulers", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == [row.name for row in TABLE]
    [row] = [
        json.loads(line) for line in sdapp("schedulers", "DPM++ 2M Karras", "--json").stdout.splitlines()
    ]
    assert row["options"]["use_karras_sigmas"] is True
    found = json.loads(sdapp("doctor", "--json").stdout)
    assert found["facts"]["python"] == [sys.version.split()[0]]
    assert isinstance(found["problems"], list)


def test_config_show_takes_the_options_of_a_run(sdapp: Sdapp) -> None:
    result = sdapp(
        "config", "show", "--config", "sd15", "--steps", 30, "--size", "64x64", "--changed", "--json"
    )
    shown = json.loads(result.stdout)
    assert shown["steps"] == {"value": 30, "from": "--steps"}
    assert shown["width"] == {"value": 64, "from": "--size"}
    assert shown["model"]["value"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert "seed" not in shown
    assert "seed: null" in sdapp("config", "show").stdout


@pytest.mark.parametrize("text", ["--config {}", "--set vae=x --config {}"])
def test_presets_are_found_by_name(text: str, sdapp: Sdapp) -> None:
    assert "stabilityai/sdxl-turbo" in sdapp("config", "show", *text.format("sdxl-turbo").split()).stdout
    wrong = sdapp("config", "show", *text.format("sdxl-turbp").split())
    assert wrong.exit_code == 66
    assert "sdxl-turbp: no such config, did you mean 'sdxl-turbo'?" in wrong.stderr


def test_a_config_extends_a_preset_but_a_file_of_that_name_wins(sdapp: Sdapp) -> None:
    Path("mine.yaml").write_text("extends: sd15\nsteps: 4\n")
    assert "stable-diffusion-v1-5/" in sdapp("config", "show", "--config", "mine.yaml").stdout
    Path("sd15").write_text("model: own\n")
    assert "model: own" in sdapp("config", "show", "--config", "mine.yaml").stdout
    Path("mine.yaml").write_text("extends: sd16\n")
    assert (
        "extends: sd16: no such config, did you mean 'sd15'?"
        in sdapp("config", "show", "-c", "mine.yaml").stderr
    )
