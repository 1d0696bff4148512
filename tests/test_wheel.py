"""The wheel: built, installed into a fresh environment, and used in an empty folder."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; it shares only the packages that sdapp needs, not sdapp."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "fresh"], check=True)
    [wheel] = folder.glob("*.whl")
    python = folder / "fresh" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    pydantic = importlib.util.find_spec("pydantic")
    assert pydantic
    assert pydantic.origin
    (packages_of(python) / "shared.pth").write_text(f"{Path(pydantic.origin).parents[1]}\n")
    return python.parent


def packages_of(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(
        subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    )


@pytest.fixture(scope="module")
def metadata(environment: Path) -> Distribution:
    return PathDistribution(next(packages_of(environment / "python").glob("sdapp-*.dist-info")))


def test_it_works_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sdapp, python = str(environment / "sdapp"), str(environment / "python")
    where = run(python, "-c", "import sdapp; print(sdapp.__file__)")
    assert Path(where.strip()).is_relative_to(environment.parent)
    made = run(sdapp, "generate", "a red house", "--config", "postcard", "--steps", "2", "--seed", "7")
    assert made == f"{Path('outputs') / 'a-red-house-7.png'}\n"
    assert "a red house" in run(python, "-m", "sdapp", "show", made.strip())
    assert "stabilityai/sdxl-turbo" in run(sdapp, "config", "show", "--config", "sdxl-turbo")
    assert run(sdapp, "config", "schema") == (ROOT / "configs" / "sdapp.schema.json").read_text("utf-8")


def test_it_has_every_file_of_the_package(environment: Path) -> None:
    def files(folder: Path) -> set[str]:
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in paths if path.suffix != ".pyc"}

    presets = {f"configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert files(packages_of(environment / "python") / "sdapp") == files(ROOT / "sdapp") | presets


def test_pypi_gets_absolute_links(metadata: Distribution) -> None:
    urls = dict(url.split(", ") for url in metadata.metadata.get_all("Project-URL") or [])
    path = urls["Homepage"].removeprefix("https://github.com/")
    raw, blob = f"https://raw.githubusercontent.com/{path}/main/", f"{urls['Homepage']}/blob/main/"
    for mark, link in re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", str(metadata.metadata.get_payload())):
        here = link.removeprefix(raw if mark else blob).partition("#")[0]
        assert link.startswith("https://")
        assert (here == link and not link.startswith(urls["Homepage"])) or (ROOT / here).exists(), link


def test_it_says_what_it_is(metadata: Distribution) -> None:
    fields = metadata.metadata
    assert set(map(str.casefold, (fields["Keywords"] or "").split(","))) >= {"stable-diffusion", "cli"}
    assert {"Documentation", "Changelog", "Issues"} <= {
        url.split(",")[0] for url in fields.get_all("Project-URL") or []
    }
    assert "Programming Language :: Python :: 3.11" in (fields.get_all("Classifier") or [])
