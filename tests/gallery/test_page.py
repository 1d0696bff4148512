"""The gallery in a real browser: opened from the disk, with the network cut off, worked by mouse and keys."""

from pathlib import Path
from typing import Any

import pytest

from browser import SCREENS, Open, findings
from made_batches import FAILED, make_batch
from sdapp.gallery.gallery import build_gallery

LINES = 400


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    lines = [f"a {'red' if number % 4 else 'blue'} house {number} --steps {10 + number % 2 * 10} --seed {number}"
             for number in range(1, LINES + 1)]  # fmt: skip
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n")
    make_batch(folder / "prompts.txt", folder / "night", failing=[3])
    build_gallery(folder / "night")
    return folder / "night"


@pytest.fixture
def page(visit: Open, night: Path) -> Any:
    return visit(night / "gallery.html")


def first_words(page: Any) -> str:
    return page.locator('.tile[data-place="0"] .words').inner_text()  # type: ignore[no-any-return]


def test_only_what_is_on_the_screen_is_in_the_page(page: Any) -> None:
    assert page.locator("#count").inner_text() == "399 images, 1 failed"
    assert 0 < page.locator(".tile").count() < 80
    assert first_words(page) == "a red house 1"
    page.keyboard.press("End")
    last = page.locator(f'.tile[data-place="{LINES - 1}"]')
    assert last.locator(".words").inner_text() == f"a blue house {LINES}"
    page.wait_for_function(
        "[...document.querySelectorAll('.tile img[src]')].every((one) => one.naturalWidth === 64)"
    )
    assert page.locator(".tile").count() < 80
    assert page.evaluate("document.activeElement.closest('.tile').dataset.place") == str(LINES - 1)


def test_a_failed_line_stands_in_its_place_and_says_why(page: Any) -> None:
    tile = page.locator('.tile[data-place="2"]')
    assert tile.get_attribute("data-status") == "failed"
    assert tile.locator(".message").inner_text() == FAILED


def test_filters_by_words_settings_and_state(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("blue HOUSE")
    assert page.locator("#count").inner_text() == "100 of 400 images"
    page.get_by_label("steps").select_option("=10")
    assert page.locator("#count").inner_text() == "100 of 400 images"  # every fourth has an even number
    page.get_by_label("steps").select_option("=20")
    assert page.locator("#nothing").is_visible()
    page.locator("#words").fill("")
    page.get_by_label("steps").select_option("")
    page.locator("#marked").select_option("failed")
    assert page.locator("#count").inner_text() == "0 of 400 images, 1 failed"


def test_stars_are_kept_and_saved_as_a_list(visit: Open, night: Path, tmp_path: Path) -> None:
    page = visit(night / "gallery.html")
    assert page.locator("#save-star").is_hidden()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("f")
    page.locator('.tile[data-place="1"]').hover()
    page.locator('.tile[data-place="1"] [data-mark="star"]').click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    assert page.locator("#save-reject").inner_text() == "Save rejected.txt (1)"
    page.reload()
    assert page.locator('.tile[data-place="0"]').get_attribute("data-mark") == "star"
    with page.expect_download() as download:
        page.locator("#save-star").click()
    download.value.save_as(tmp_path / "starred.txt")
    head, *paths = (tmp_path / "starred.txt").read_text().splitlines()
    assert head.startswith("# 2 starred images.")
    assert [Path(path) for path in paths] == sorted(night.glob("000[12]-*.png"))
    page.locator("#marked").select_option("star")
    assert page.locator("#count").inner_text() == "2 of 400 images"
    page.evaluate("localStorage.clear()")


def test_the_viewer_compares_any_two_images(page: Any) -> None:
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")  # keeps the second as B
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    name, other = page.locator("#name-a"), page.locator("#other option:checked")
    assert (name.inner_text(), other.inner_text()) == ("0001-a-red-house-1-1.png", "0002-a-red-house-2-2.png")
    assert "steps 20 · guidance scale 7.5" in page.locator("#facts-a").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator('.pane[data-of="a"] .layer.a .message').inner_text() == FAILED
    page.keyboard.press("ArrowRight")
    assert (name.inner_text(), other.inner_text()) == (
        "0004-a-blue-house-4-4.png",
        "0002-a-red-house-2-2.png",
    )
    page.wait_for_function(
        "[...document.querySelectorAll('.pane[data-of=a] img')].every((one) => one.dataset.lossless === 'yes')"
    )
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    page.wait_for_function(
        "document.activeElement.closest('.tile')?.dataset.place === '3'"
    )  # at the event of the dialog


def test_what_is_copied(visit: Open, night: Path) -> None:
    page = visit(night / "gallery.html", permissions=["clipboard-read", "clipboard-write"])
    page.locator('.tile[data-place="0"] .open').click()
    page.get_by_role("button", name="Copy command").click()
    page.wait_for_function("document.querySelector('#copied').textContent === 'copied'")
    assert page.evaluate("navigator.clipboard.readText()") == f"sdapp replay {night}/0001-a-red-house-1-1.png"
    page.get_by_role("button", name="Copy line").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('a red')")
    copied = page.evaluate("navigator.clipboard.readText()")
    settings = "--steps 20 --guidance-scale 7.5 --seed 1 --size 64x64 --scheduler dpm++2m-karras"
    assert copied == f"a red house 1 {settings}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_is_wider_than_the_screen_and_axe_finds_nothing(
    screen: str, scheme: str, visit: Open, axe: str, night: Path
) -> None:
    page = visit(night / "gallery.html", color_scheme=scheme, bypass_csp=True, **SCREENS[screen])
    assert page.evaluate("document.documentElement.scrollWidth") == SCREENS[screen]["viewport"]["width"]
    assert findings(page, axe) == []
    page.locator('.tile[data-place="0"] .open').click()
    assert findings(page, axe) == []
