"""Every command of the README, the configs and the help is one that exists; those of the built-in model are run."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^sdapp .+$", "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)), re.MULTILINE
)
HEADERS = [
    path.read_text(encoding="utf-8").splitlines() for path in sorted((ROOT / "configs").rglob("*.yaml"))
]
# Commands with files that are not here → their exit code, and what they say.
MISSING = {
    "stable-diffusion-v1-5/": (69, "the Hub cannot be reached"),
    "~/models/": (69, "no folder or file"),
    "<lora:ink": (2, "there is no ink.safetensors"),
}


@pytest.fixture
def readme_folder(tmp_path: Path) -> None:
    for folder in ("configs", "docs", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)


@pytest.mark.usefixtures("readme_folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_readmes_commands_run(command: str, sdapp: Callable[..., Result]) -> None:
    result = sdapp(*shlex.split(command)[1:])
    code, text = next((said for file, said in MISSING.items() if file in command), (0, ""))
    assert result.exit_code == code, result.stderr
    assert text in result.stderr


def test_every_command_is_named_in_the_readme() -> None:
    from sdapp.cli import app
    from sdapp.commands.config import config_app

    for command in app.registered_commands:
        assert f"sdapp {command.name or command.callback.__name__}" in README, command.callback
    for command in config_app.registered_commands:
        assert f"config {command.name}" in README


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ship-7.png", "ship-8.png"]
    assert "DPMSolverMultistepScheduler 20" in capsys.readouterr().out


@pytest.mark.usefixtures("readme_folder")
@pytest.mark.parametrize("lines", HEADERS)
def test_a_config_begins_with_its_schema_and_the_command_that_runs_it(
    lines: list[str], sdapp: Callable[..., Result]
) -> None:
    assert lines[0] == "# yaml-language-server: $schema=sdapp.schema.json"
    assert lines[1].startswith("# sdapp ")
    arguments = shlex.split(lines[1][2:])
    config = arguments[arguments.index("--config") + 1]
    assert sdapp("config", "check", config).exit_code == 0


@pytest.mark.usefixtures("readme_folder")
def test_the_readmes_yaml_is_a_good_config(sdapp: Callable[..., Result]) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
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
