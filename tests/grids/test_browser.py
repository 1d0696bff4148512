"""The page of a grid in a real browser."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import SCREENS, Open, findings
from made_comparisons import HOSTILE
from sdapp.grids.axes import read_axes
from sdapp.grids.folder import AxisFacts, GridCell, ImageGrid
from sdapp.grids.page import build_page
from sdapp.grids.sheets import draw_grid, plan_grid_sheets


def made(
    folder: Path, *axes: str, prompt: str = "a castle", missing: Sequence[int] = (), size: int = 16
) -> ImageGrid:
    """A grid in a folder, each image of another colour."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    read = read_axes(dict(zip("xyz", axes, strict=False)))
    places = product(*(range(len(axis.values)) for axis in read))
    cells = []
    for number, place in enumerate(places):
        file = f"images/{number}.png"
        colour = (number * 37 % 256, number * 91 % 256, number * 5 % 256)
        Image.new("RGB", (size, size), colour).save(folder / file)
        is_there = number not in missing
        cells.append(
            GridCell(f"{number:012x}", place, "done" if is_there else "missing", file if is_there else None)
        )
    facts = tuple(AxisFacts.of(axis) for axis in read)
    return ImageGrid(facts, tuple(cells), prompt, 7, "postcards", "sdapp grid", "2026-11-21T12:00:00+00:00")


@pytest.fixture(scope="module")
def grid_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    grid = made(folder, "guidance_scale=1-5", "scheduler=ddim,unipc", "seed=1-3", missing=(1,))
    return build_page(grid, folder)


def name_a(page: Any) -> str:
    return str(page.locator("#name-a").inner_text())


def test_rows_columns_and_the_third_axis(visit: Open, grid_page: Path) -> None:
    page = visit(grid_page)
    assert page.locator("#grid .cell").count() == 5 * 2
    assert page.locator("thead .value").all_inner_texts() == ["1", "2", "3", "4", "5"]
    assert page.locator("tbody .name").all_inner_texts() == ["ddim", "unipc"]
    first = page.locator("#grid img").first
    before = first.get_attribute("src")
    page.keyboard.press("3")
    assert first.get_attribute("src") != before
    assert page.locator("fieldset input:checked + span").inner_text() == "3"
    assert "29 of 30 images are there" in page.locator(".prompt").inner_text()


def test_any_two_images_are_compared(visit: Open, grid_page: Path) -> None:
    page = visit(grid_page)
    page.locator('button.cell[data-row="1"][data-column="2"]').click()
    assert name_a(page) == "guidance_scale 3, scheduler unipc, seed 1"
    other = page.locator("#other option:checked")
    assert other.inner_text() == "guidance_scale 2, scheduler unipc, seed 1"  # the neighbour
    page.keyboard.press("b")
    page.keyboard.press("ArrowUp")
    assert name_a(page) == "guidance_scale 3, scheduler ddim, seed 1"
    assert other.inner_text() == "guidance_scale 3, scheduler unipc, seed 1"
    page.keyboard.press("2")
    assert name_a(page) == "guidance_scale 3, scheduler ddim, seed 2"
    page.locator("#other").select_option("0 4")
    assert other.inner_text() == "guidance_scale 5, scheduler ddim, seed 2"
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()


def test_a_single_axis_is_wrapped_with_its_values_below(visit: Open, tmp_path: Path) -> None:
    page = visit(build_page(made(tmp_path, "guidance_scale=1-20"), tmp_path))
    assert page.locator("#grid .note").all_inner_texts() == [str(value) for value in range(1, 21)]
    assert page.evaluate(
        "document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth"
    )
    heights = {round(page.locator("#grid .cell").nth(index).bounding_box()["y"]) for index in range(20)}
    assert len(heights) > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_nothing(visit: Open, grid_page: Path, axe: str, screen: str, scheme: str) -> None:
    page = visit(grid_page, color_scheme=scheme, **SCREENS[screen])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert findings(page, axe) == []
    page.locator("#grid .cell").first.click()
    assert findings(page, axe) == []


def test_hostile_texts_are_shown_as_they_are(visit: Open, tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        grid = made(tmp_path / str(number), "steps=1-2", "seed=1-2", prompt=text)
        page = visit(build_page(grid, tmp_path / str(number)))
        assert page.locator("[onerror], [onmouseover]").count() == 0
        assert page.evaluate("document.querySelectorAll('script').length") == 2
        assert len(draw_grid(grid, tmp_path / str(number))) == 1


def test_without_a_script_the_first_table_is_there(visit: Open, grid_page: Path) -> None:
    page = visit(grid_page, java_script_enabled=False)
    assert page.locator("#grid img:visible").count() == 5 * 2
    assert "the others need JavaScript" in page.locator("noscript").inner_text()


def test_large_grids_are_split_into_sheets_that_open_everywhere(tmp_path: Path) -> None:
    grid = made(tmp_path, "guidance_scale=1-100", "steps=1-60", size=1)
    sizes = plan_grid_sheets(grid, (1024, 512))
    assert len(sizes) > 20
    assert all(max(size) <= 16_384 and size[0] * size[1] <= 80_000_000 for size in sizes)
    small = made(tmp_path / "small", "guidance_scale=1-70", "steps=1-3", size=512)
    drawn = draw_grid(small, tmp_path / "small")
    assert [Image.open(path).size for path in drawn] == plan_grid_sheets(small, (512, 512))
    assert [path.name for path in drawn][:2] == ["grid.png", "grid-2.png"]
