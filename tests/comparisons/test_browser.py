"""The report in a real browser: opened from the disk, with the network cut off, worked by mouse, keys and touch."""

import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import SCREENS, Open, findings
from made_comparisons import HOSTILE, make
from sdapp.comparisons import statistics
from sdapp.comparisons.cells import read_comparison, write_comparison
from sdapp.comparisons.report import report
from sdapp.comparisons.verdict import verdict
from sdapp.pages import format
from sdapp.pages.page import SYMBOLS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparison")
    make(
        path,
        ("ddim", "unipc", "dpm++2m-karras", "euler-a"),
        (5, 10, 20),
        (11, 22, 33),
        varied={"guidance_scale": (5.0, 7.5)},
    )
    report.build_report(path)
    return path


@pytest.fixture
def page(visit: Open, folder: Path) -> Any:
    return visit(folder / "report.html")


def pixels(page: Any, selector: str) -> np.ndarray:
    """[height, width, 3] of what is to be seen of an element."""
    return np.asarray(Image.open(BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def cell(page: Any, scheduler: int, column: int) -> Any:
    return page.locator(f'button.cell[data-row="{scheduler}"][data-column="{column}"]')


def compare(page: Any, scheduler: int, column: int) -> None:
    """Open the viewer, and wait for the lossless images."""
    cell(page, scheduler, column).click()
    page.locator(".stage img:not([data-lossless=yes])").first.wait_for(state="detached")


def original(folder: Path, file: str) -> np.ndarray:
    return np.asarray(Image.open(folder / file)).astype(int)


def seen(page: Any) -> np.ndarray:
    """The image on the stage, brought back to 64 × 64 by taking one pixel of each block."""
    box = page.locator('.pane[data-of="a"] .layer.a img').bounding_box()
    shot = np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB")).astype(int)
    step = box["width"] / 64
    places = [int((number + 0.5) * step) for number in range(64)]
    return shot[
        np.ix_([int(box["y"]) + place for place in places], [int(box["x"]) + place for place in places])
    ]


def test_every_cell_of_the_first_combination_is_painted(page: Any) -> None:
    assert page.locator("#grid .cell").count() == 4 * 3
    assert page.evaluate(
        "[...document.querySelectorAll('img')].filter((one) => !one.closest('dialog')).every((one) => one.naturalWidth === 64)"
    )


def test_the_viewer_shows_the_lossless_images_and_blinks(page: Any, folder: Path) -> None:
    comparison = read_comparison(folder)
    painted, target = (
        original(folder, str(comparison.cells[0].file)),
        original(folder, str(comparison.references[0].file)),
    )
    compare(page, 0, 0)
    assert (seen(page)[8:] == painted[8:]).all()  # the badge lies in the corner
    page.keyboard.press("Space")
    assert (seen(page)[8:] == target[8:]).all()
    page.keyboard.press("Space")
    assert (seen(page)[8:] == painted[8:]).all()


def test_the_difference_is_eight_times_that_of_the_pixels(page: Any, folder: Path) -> None:
    comparison = read_comparison(folder)
    compare(page, 0, 0)
    page.keyboard.press("d")
    painted, target = (
        original(folder, str(comparison.cells[0].file)),
        original(folder, str(comparison.references[0].file)),
    )
    expected = np.minimum(8 * abs(painted - target), 255)
    assert abs(seen(page) - expected).max() <= 8
    page.locator("#other").select_option("0 0")  # of an image to itself there is none
    assert seen(page).max() == 0


def test_the_slider_shows_a_left_and_b_right(page: Any, folder: Path) -> None:
    comparison = read_comparison(folder)
    painted, target = (
        original(folder, str(comparison.cells[0].file)),
        original(folder, str(comparison.references[0].file)),
    )
    compare(page, 0, 0)
    page.get_by_role("button", name="Slider").click()
    assert (seen(page)[:, :30] == painted[:, :30]).all()
    assert (seen(page)[:, 34:] == target[:, 34:]).all()
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 300, steps=4)
    page.mouse.up()
    assert (seen(page) == painted).all()
    page.locator("#cut").focus()
    before = page.evaluate("Number(cut.value)")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("Number(cut.value)") == before - 1
    assert (
        page.locator("#name-a").inner_text() == "ddim, 5 UNet calls"
    )  # the slider's arrows move the slider alone


def test_side_by_side_zooms_and_moves_in_step(page: Any) -> None:
    compare(page, 0, 0)
    page.keyboard.press("x")
    matrices = "[...document.querySelectorAll('.pane')].map((pane) => [...pane.querySelectorAll('img')].at(-1).style.transform)"
    page.mouse.move(200, 300)
    page.mouse.wheel(0, -600)
    first, second = page.evaluate(matrices)
    assert first == second
    page.mouse.down()
    page.mouse.move(120, 240, steps=4)
    page.mouse.up()
    moved, also = page.evaluate(matrices)
    assert moved == also
    assert moved != first


def test_zooming_by_keys_and_back(page: Any) -> None:
    compare(page, 0, 0)
    percent = page.locator("#percent")
    assert percent.inner_text() == "1000 %"
    assert page.locator(".stage img.coarse").count() == 3  # every pixel to be seen from 200 % on
    page.keyboard.press("+")
    assert percent.inner_text() == "2000 %"
    page.keyboard.press("0")
    assert percent.inner_text() == "1000 %"


def test_the_wheel_keeps_what_is_under_the_pointer(page: Any) -> None:
    compare(page, 0, 0)
    image = page.locator('.pane[data-of="a"] .layer.a img')
    before = image.bounding_box()
    x, y = before["x"] + 0.25 * before["width"], before["y"] + 0.75 * before["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    after = image.bounding_box()
    assert after["width"] == pytest.approx(2 * before["width"], rel=0.01)
    assert (x - after["x"]) / after["width"] == pytest.approx(0.25, abs=0.01)
    assert (y - after["y"]) / after["height"] == pytest.approx(0.75, abs=0.01)


def test_keys_alone_reach_everything(page: Any, folder: Path) -> None:
    comparison = read_comparison(folder)
    order = statistics.rank(comparison, 10)
    page.keyboard.press("ArrowDown")  # enters the grid
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    name = page.locator("#name-a")
    assert name.inner_text() == f"{order[1]}, 10 UNet calls"
    for key, expected in (
        ("ArrowRight", f"{order[1]}, 20"),
        ("ArrowUp", f"{order[0]}, 20"),
        ("ArrowLeft", f"{order[0]}, 10"),
    ):
        page.keyboard.press(key)
        assert name.inner_text() == f"{expected} UNet calls"
    page.keyboard.press("b")
    page.keyboard.press("ArrowDown")
    assert page.locator("#other option:checked").inner_text() == f"{order[0]}, 10 UNet calls"
    page.keyboard.press("r")
    assert page.locator("#other option:checked").inner_text() == "Reference: DDIM, 999 steps"
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    page.wait_for_function(  # at the event of the dialog
        "label => document.activeElement.getAttribute('aria-label')?.startsWith(label)",
        arg=f"{order[1]}, 10 UNet calls",
    )


def test_seeds_prompts_and_varied_keys_choose_the_combination(page: Any, folder: Path) -> None:
    comparison = read_comparison(folder)

    def labels() -> list[str]:
        return page.locator("#grid tr[data-row='0'] .error").all_inner_texts()  # type: ignore[no-any-return]

    def expected(**same: Any) -> list[str]:
        cells = [one for one in comparison.cells if one.scheduler == "ddim"]
        cells = [
            one
            for one in cells
            if all((one.varied | {"seed": one.seed, "prompt": one.prompt})[k] == v for k, v in same.items())
        ]
        return [format.number(one.solver_error or 0) for one in cells]

    first, second = comparison.prompts
    assert labels() == expected(prompt=first, seed=11, guidance_scale=5.0)
    page.keyboard.press("3")
    assert labels() == expected(prompt=first, seed=33, guidance_scale=5.0)
    assert page.locator("fieldset input:checked + span").first.inner_text() == "33"
    page.get_by_text("7.5", exact=True).click()
    assert labels() == expected(prompt=first, seed=33, guidance_scale=7.5)
    page.locator("#prompt").select_option("1")
    assert labels() == expected(prompt=second, seed=33, guidance_scale=7.5)
    page.locator("h1").click()
    page.keyboard.press("[")
    assert labels() == expected(prompt=first, seed=33, guidance_scale=7.5)
    compare(page, 0, 0)
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    assert labels() == expected(prompt=first, seed=11, guidance_scale=7.5)


def test_sorting_by_another_column(page: Any, folder: Path) -> None:
    comparison = read_comparison(folder)
    for number, column in enumerate(comparison.columns):
        page.locator("thead .sort").nth(number).click()
        assert tuple(page.locator("tbody .name").all_inner_texts()) == statistics.rank(comparison, column)
        assert page.locator("th[aria-sort]").inner_text() == f"{column:g}"


def test_plot_and_grid_light_each_other_up(page: Any) -> None:
    cell(page, 1, 2).hover()
    lit = page.locator(".plot.shown .point.lit")
    assert (lit.get_attribute("data-row"), lit.get_attribute("data-column")) == ("1", "2")
    assert page.locator(".plot.shown .curve.lit").count() == 1
    assert page.locator(".readout").inner_text().startswith("unipc, 20 UNet calls: solver error 0.")
    page.locator('.plot.shown .point[data-row="0"][data-column="0"] .dot').hover()
    assert page.locator("#grid .cell.lit").get_attribute("data-row") == "0"
    page.mouse.move(640, 790)
    page.locator("h1").hover()
    assert page.locator(".lit").count() == 0
    assert page.locator(".readout").inner_text().startswith("Medians over 2 prompts × 3 seeds")
    cell(page, 1, 1).focus()  # by keys as well
    assert page.locator(".plot.shown .point.lit").count() == 1


def test_the_plot_turns_to_seconds(page: Any) -> None:
    page.locator(".chart").get_by_role("button", name="seconds").click()
    assert page.locator(".plot.shown").get_attribute("data-axis") == "seconds"
    assert page.locator(".plot:not(.shown)").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_nothing(visit: Open, folder: Path, axe: str, screen: str, scheme: str) -> None:
    page = visit(folder / "report.html", color_scheme=scheme, **SCREENS[screen])
    assert findings(page, axe) == []
    cell(page, 0, 0).click()
    assert findings(page, axe) == []


def test_the_verdict_is_the_one_of_the_terminal(page: Any, folder: Path) -> None:
    assert page.locator(".verdict").inner_text() == verdict(read_comparison(folder))
    assert page.locator("h1").bounding_box()["y"] < page.locator(".verdict").bounding_box()["y"] < 100


def test_the_difference_takes_other_factors_when_it_is_asked_for_again(page: Any, folder: Path) -> None:
    comparison = read_comparison(folder)
    compare(page, 0, 0)
    painted, target = (
        original(folder, str(comparison.cells[0].file)),
        original(folder, str(comparison.references[0].file)),
    )
    button = page.locator("#viewer [data-mode=difference]")
    page.keyboard.press("d")
    for factor in (2, 4, 8):
        button.click()
        assert button.inner_text() == f"Difference ×{factor}"
        assert abs(seen(page) - np.minimum(factor * abs(painted - target), 255)).max() <= factor


def test_buttons_on_a_phone_show_the_next_image(visit: Open, folder: Path) -> None:
    page = visit(folder / "report.html", **SCREENS["phone"])
    cell(page, 0, 0).tap()
    assert page.locator("#viewer .touch").is_visible()
    page.get_by_role("button", name="Next image").tap()
    assert page.locator("#name-a").inner_text() == "ddim, 10 UNet calls"
    page.get_by_role("button", name="Previous image").tap()
    assert page.locator("#name-a").inner_text() == "ddim, 5 UNet calls"


def test_dark_and_light(visit: Open, folder: Path) -> None:
    page = visit(folder / "report.html", color_scheme="dark")
    assert pixels(page, "main")[2, 2].max() < 60
    page.locator("#theme").click()
    assert pixels(page, "main")[2, 2].min() > 200
    page.reload()
    assert pixels(page, "main")[2, 2].min() > 200  # kept


def test_a_phone_shows_all_without_scrolling_the_page_sideways(visit: Open, folder: Path) -> None:
    page = visit(
        folder / "report.html", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".plot.shown").bounding_box()["width"] > 340
    names = page.locator("tbody th[scope=row]").first
    before = names.bounding_box()["x"]
    page.locator("main").evaluate("(main) => main.scrollTo(120, 0)")
    assert names.bounding_box()["x"] == before  # the names stay
    cell(page, 0, 1).tap()
    badge = page.locator('.pane[data-of="a"] .now')
    assert badge.inner_text() == "A"
    page.locator(".stage").tap()
    assert badge.inner_text() == "B"


def test_without_a_script_the_first_combination_is_there(visit: Open, folder: Path) -> None:
    page = visit(folder / "report.html", java_script_enabled=False)
    assert page.locator("#grid img").count() == 4 * 3
    assert page.locator("#prompt").is_hidden()
    assert page.locator(".plot").count() == page.locator(".plot:visible").count() == 2
    assert "the others need JavaScript" in page.locator("noscript").inner_text()


def test_hostile_texts_are_shown_as_they_are(visit: Open, tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "unipc"), (5,), (1,), HOSTILE, size=8)
    failed = replace(made.cells[0], status="failed", file=None, reason=HOSTILE[0])
    write_comparison(
        replace(made, title=HOSTILE[0], hardware=HOSTILE[0], cells=(failed, *made.cells[1:])), tmp_path
    )
    page = visit(report.build_report(tmp_path))
    assert page.title() == HOSTILE[0]
    assert cell(page, 0, 0).locator(".message").inner_text() == HOSTILE[0]
    assert page.locator("[onerror], [onmouseover]").count() == 0
    for number, prompt in enumerate(HOSTILE):
        page.locator("#prompt").select_option(str(number))
        assert page.locator("#words").evaluate("(words) => words.textContent") == prompt.translate(SYMBOLS)
    assert page.evaluate("document.querySelectorAll('script').length") == 2


def test_failed_and_missing_cells_can_be_visited(visit: Open, tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim",), (5, 10, 20), (1,), ("a house",))
    failed = replace(
        made.cells[0], status="failed", file=None, reason="the latents became NaN", solver_error=None
    )
    write_comparison(replace(made, cells=(failed, made.cells[2])), tmp_path)
    page = visit(report.build_report(tmp_path))
    cell(page, 0, 0).click()
    message = page.locator('.pane[data-of="a"] .layer.a .message')
    assert message.inner_text() == "the latents became NaN"
    page.keyboard.press("ArrowRight")
    assert message.inner_text() == "not painted yet"
    page.keyboard.press("ArrowRight")
    assert message.is_hidden()


def test_the_file_alone_is_enough(visit: Open, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "report.html", tmp_path / "sent.html")
    comparison = read_comparison(folder)
    page = visit(
        tmp_path / "sent.html", quiet=False
    )  # the browser says that the lossless files are not there
    cell(page, 0, 0).click()
    page.wait_for_function("document.querySelector('.stage img').naturalWidth === 64")
    assert (
        seen(page)[8:] == original(folder, str(comparison.cells[0].file))[8:]
    ).all()  # small images are inside as they are


def test_images_beside_the_file_are_shown_too(visit: Open, tmp_path: Path) -> None:
    make(tmp_path, ("ddim",), (5, 10), (1,), ("a house",))
    page = visit(report.build_report(tmp_path, max_inline=0))
    assert page.evaluate(
        "[...document.querySelectorAll('#grid img')].every((one) => one.naturalWidth === 64)"
    )
    compare(page, 0, 0)
