"""README, docs and configs: every command in them is run, every link leads somewhere."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")),
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in LINKING}
HEADERS = [
    path.read_text(encoding="utf-8").splitlines() for path in sorted((ROOT / "configs").rglob("*.yaml"))
]
# Commands with files that are not here → their exit code, and what they say.
MISSING = {
    "sdapp shell": (2, "needs a terminal"),
    "stable-diffusion-v1-5/": (69, "you are offline"),
    "sdapp show ~/models/": (66, "there is no file"),
    "sdapp pull": (69, "you are offline"),
    "config set model ": (69, "no folder or file"),
    "--model ~/models/": (69, "no folder or file"),
    "(my-style:0.8)": (66, "there is no folder"),
    "--embedding": (66, "no such file"),
    "<lora:ink": (2, "there is no ink.safetensors"),
}
# A comparison of hours and a grid of minutes, which are only planned here.
LONG = ("pndm,ddim,lms,dpm++2m,dpm++2m-karras", "guidance_scale=1-20")
TESTED_ELSEWHERE = "--truth"  # tests/comparisons/test_analytic.py


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The code blocks of all pages in a language, with the names of their pages."""
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", TEXTS[page], re.DOTALL):
            yield page.name, block


def commands() -> Iterator[tuple[str, ...]]:
    """The commands of each block; not those of a block that is contained in another one."""
    found = [
        tuple(re.findall(r"^sdapp .+$", block.replace("\\\n", " "), re.MULTILINE))
        for _, block in blocks("sh")
    ]
    for number, block in enumerate(found):
        others = [*found[:number], *(other for other in found[number + 1 :] if set(other) != set(block))]
        if not any(set(block) <= set(other) for other in others):
            yield block


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def repository(tmp_path: Path) -> None:
    for folder in ("configs", "docs", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("block", list(commands()), ids=" && ".join)
def test_the_commands_run(block: tuple[str, ...], sdapp: Callable[..., Result]) -> None:
    for command in block:
        if TESTED_ELSEWHERE in command:
            continue
        result = sdapp(
            *shlex.split(command)[1:], *(["--dry-run"] if any(part in command for part in LONG) else [])
        )
        code, text = next((said for part, said in MISSING.items() if part in command), (0, ""))
        assert result.exit_code == code, f"{command}\n{result.stderr}"
        assert text in result.stderr


def test_every_command_is_named() -> None:
    from sdapp.cli import app
    from sdapp.commands.config import config_app

    text = "\n".join(TEXTS[page] for page in PAGES)
    for command in app.registered_commands:
        assert f"sdapp {command.name or command.callback.__name__}" in text, command.callback
    for command in config_app.registered_commands:
        assert f"config {command.name}" in text


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", TEXTS[page], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_in_the_sites_menu() -> None:
    menu = re.findall(r"^(?:reference/)?[\w-]+$", TEXTS[ROOT / "docs" / "index.md"], re.MULTILINE)
    assert sorted(menu) == sorted([
        *(page.stem for page in PAGES[1:] if page.stem != "index"), "reference/commands", "reference/settings",
    ])  # fmt: skip


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    [(page, code)] = blocks("python")
    exec(compile(code, page, "exec"), {})
    names = ["house-0.png", "house-1.png", "night.png", "ship.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    assert "UniPCMultistepScheduler 15" in capsys.readouterr().out


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("lines", HEADERS)
def test_a_config_begins_with_its_schema_and_the_command_that_runs_it(
    lines: list[str], sdapp: Callable[..., Result]
) -> None:
    assert lines[0] == "# yaml-language-server: $schema=sdapp.schema.json"
    assert lines[1].startswith("# sdapp ")
    arguments = shlex.split(lines[1][2:])
    config = arguments[arguments.index("--config") + 1]
    assert sdapp("config", "check", config).exit_code == 0


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("text", [block for _, block in blocks("yaml")])
def test_the_yaml_is_a_good_config(text: str, sdapp: Callable[..., Result]) -> None:
    Path("mine.yaml").write_text(text, encoding="utf-8")
    assert sdapp("config", "check", "mine.yaml").exit_code == 0


@pytest.mark.usefixtures("sdapp")  # for its empty folder
def test_the_example_ranks_schedulers_in_under_15_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "examples" / "compare_schedulers.py"
    code = path.read_text(encoding="utf-8")
    assert len(code.splitlines()) < 15
    monkeypatch.setattr(
        "sys.argv", [path.name, "ddim,euler-a,dpm++2m-karras", "dpm++2m-karras@40", "heun@20"]
    )
    exec(compile(code, path.name, "exec"), {})
    ranked = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert ranked == ["dpm++2m-karras", "ddim", "euler-a"]
