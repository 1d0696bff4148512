import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from made_comparisons import HOSTILE, SOLVERS, make
from peak_memory import LINUX, peak_memory
from sdapp.comparisons import analytic, statistics
from sdapp.comparisons.cells import read_comparison, write_comparison
from sdapp.comparisons.report import plots, report
from sdapp.errors import MissingInputError
from sdapp.pages import format
from sdapp.pages.page import SYMBOLS


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, the data, and the text of what has an id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = ""
        self.data: dict[str, Any] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    @property
    def images(self) -> list[str]:
        """The addresses of all cells' images, those of the first combination as the page has them."""
        first = [found["src"] for found in self.all("img", decoding="async") if found.get("src")][
            1:
        ]  # but the reference
        return [
            *map(str, first),
            *(cell["src"] for view in self.data["views"][1:] for row in view["cells"] for cell in row),
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.inside == "data":
            self.data = json.loads(data)
            self.inside = ""

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    @property
    def cells(self) -> list[dict[str, str | None]]:
        return [found for found in self.all("button", **{"class": "cell"}) if "data-row" in found]


def test_one_file_holds_the_whole_comparison(tmp_path: Path) -> None:
    made = make(tmp_path, varied={"guidance_scale": (5.0, 7.5)})
    path = report.build_report(tmp_path)
    page = Page(path)
    assert path == tmp_path / "report.html"
    assert len(page.cells) == len(SOLVERS) * 4  # of the first combination; the others are data
    assert len(page.data["views"]) == 2 * 2 * 2
    assert len(page.images) == len(made.cells)
    assert all(source.startswith("data:image/webp;base64,") for source in page.images)
    assert {tuple(attributes) for tag, attributes in page.elements if tag in ("link", "iframe", "base")} <= {
        ("rel", "href")
    }
    assert not [
        name
        for _, attributes in page.elements
        for name in attributes
        if name == "style" or name.startswith("on")
    ]


def test_the_policy_allows_nothing_but_its_own_script_and_style(tmp_path: Path) -> None:
    make(tmp_path, ("ddim",), (5,), size=8)
    [policy] = Page(report.build_report(tmp_path)).all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in str(policy["content"])
    assert "unsafe" not in str(policy["content"])


def test_rows_stand_in_the_order_of_their_error(tmp_path: Path) -> None:
    made = make(tmp_path)
    page = Page(report.build_report(tmp_path))
    rows = [made.schedulers[int(str(row["data-row"]))] for row in page.all("tr") if "data-row" in row]
    assert rows == list(statistics.rank(made, 20))
    assert rows[-3:] == ["dpm++2m-sde-karras", "euler-a", "lcm"]


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim",), (5,), (1,), HOSTILE, size=8)
    nasty = "</script><img src=x onerror=alert(1)>"
    failed = replace(made.cells[0], status="failed", file=None, reason=nasty)
    write_comparison(replace(made, title=nasty, model=nasty, hardware=nasty, command=nasty, versions={nasty: nasty},
                          cells=(failed, *made.cells[1:])), tmp_path)  # fmt: skip
    page = Page(report.build_report(tmp_path))
    assert not [
        attributes
        for _, attributes in page.elements
        if "onerror" in attributes or "onmouseover" in attributes
    ]
    assert len(page.all("script")) == 2
    assert page.data["prompts"] == [prompt.translate(SYMBOLS) for prompt in HOSTILE]
    assert page.texts.count(nasty) >= 5
    assert "null␀byte␛escape␡" in page.texts


@pytest.mark.parametrize("command", ["sdapp compare grid.yaml", ""])
def test_the_command_is_shown_only_if_there_was_one(tmp_path: Path, command: str) -> None:
    made = make(tmp_path, ("ddim",), (5,), (1,), ("a house",), size=8)
    write_comparison(replace(made, command=command), tmp_path)
    page = Page(report.build_report(tmp_path))
    assert ("Command" in page.texts) == bool(command)
    assert len(page.all("code")) == bool(command)


def test_failed_missing_and_unreadable_cells_say_so(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "unipc"), (5, 20), (1,), ("a house",))
    one, two, three, four = made.cells
    failed = replace(one, status="failed", file=None, solver_error=None, reason="the latents became NaN")
    endless = replace(four, solver_error=math.nan)
    (tmp_path / str(three.file)).write_bytes(b"broken")
    write_comparison(replace(made, cells=(failed, three, endless), references=()), tmp_path)
    page = Page(report.build_report(tmp_path))
    assert [cell["data-status"] for cell in page.cells].count("done") == 1
    labels = " ".join(str(cell["aria-label"]) for cell in page.cells)
    assert "the latents became NaN" in labels
    assert f"{two.scheduler}, 20 UNet calls, seed 1: not painted yet" in labels
    assert "not an image" in labels
    assert "solver error not finite" in labels
    assert page.data["views"][0]["reference"]["message"] == "not painted yet"


def test_a_comparison_of_which_nothing_is_painted_yet(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "euler-a"), (5, 20))
    write_comparison(replace(made, cells=(), references=()), tmp_path)
    assert {cell["data-status"] for cell in Page(report.build_report(tmp_path)).cells} == {"missing"}


def test_stochastic_schedulers_have_images_and_times_but_no_curve(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "euler-a"), (5, 20))
    plot = plots.convergence(made, "unet_calls")
    assert [made.schedulers[curve.scheduler] for curve in plot.curves] == ["ddim"]
    page = Page(report.build_report(tmp_path))
    assert "stochastic: not ranked, judge by eye" in page.texts
    random = [cell for row in page.data["views"][0]["cells"][1:] for cell in row]
    assert all(cell["note"] and not cell["error"] for cell in random)


def test_the_band_lies_where_the_references_differ(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim",), (5, 20))
    plot = plots.convergence(made, "seconds")
    assert len(plot.bands) == 2  # one for each prompt
    assert all(plots.TOP < band < plots.HEIGHT - plots.BOTTOM for band in plot.bands)
    assert not any(point.y > band for point in plot.curves[0].points for band in plot.bands)
    assert plots.convergence(replace(made, references=()), "seconds").bands == ()


def test_no_two_curves_look_alike_and_each_has_its_name_at_its_end(tmp_path: Path) -> None:
    names = [name for name in analytic.deterministic() if name in SOLVERS]
    made = make(tmp_path, names, (5, 20), (1,), ("a house",), size=8)
    looks = plots.styles(analytic.deterministic())
    assert len(set(looks.values())) == len(looks) > 39
    curves = plots.convergence(made, "unet_calls").curves
    assert [curve.name for curve in curves] == names
    lines = sorted(curve.label for curve in curves)
    assert all(below - above > plots.LINE - 0.2 for above, below in pairwise(lines))
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    assert all(f">{name}</text>" in page for name in names)


def test_errors_below_the_band_are_set_apart(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim",), (5, 20), (1,), ("a house",), size=8)
    small = replace(made.cells[1], solver_error=1e-4)
    write_comparison(replace(made, cells=(made.cells[0], small)), tmp_path)
    assert ["data-below" in cell for cell in Page(report.build_report(tmp_path)).cells] == [False, True]


def test_distances_are_not_called_quality(tmp_path: Path) -> None:
    make(tmp_path, ("ddim",), (5,), (1,), ("a house",), size=8)
    page = Page(report.build_report(tmp_path))
    facts = page.data["views"][0]["cells"][0][0]["facts"]
    assert any(
        re.fullmatch(r"distance to the reference: PSNR [\d.]+ dB, SSIM [\d.]+", fact) for fact in facts
    )
    assert [text for text in page.texts if "quality" in text and "never quality" not in text] == []


def test_points_stand_in_the_frame_whatever_the_errors(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "unipc"), (5, 20), (1,), ("a house",), size=8)
    wild = [0.0, math.inf, math.nan, 1e-12]
    cells = tuple(replace(cell, solver_error=error) for cell, error in zip(made.cells, wild, strict=True))
    write_comparison(replace(made, cells=cells), tmp_path)
    report.build_report(tmp_path)
    for curve in plots.convergence(read_comparison(tmp_path), "unet_calls").curves:
        for point in curve.points:
            assert plots.LEFT <= point.x <= plots.WIDTH - plots.RIGHT
            assert plots.TOP <= point.y <= plots.HEIGHT - plots.BOTTOM
        assert "nan" not in curve.line + curve.ribbon


def test_when_the_room_is_full_images_are_linked_to(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "unipc"), (5, 20), (1,), ("a house",))
    page = Page(report.build_report(tmp_path, max_inline=0))
    assert sorted(page.images) == [cell.file for cell in made.cells]


@pytest.mark.skipif(not LINUX, reason="the kernel of Linux counts")
def test_a_large_comparison_takes_little_memory(tmp_path: Path) -> None:
    make(tmp_path, tuple(SOLVERS), tuple(range(5, 65, 5)), (1, 2, 3, 4), ("a house",), size=160)
    code = (
        "from pathlib import Path\nfrom sdapp.comparisons.report.report import build_report\n"
        "build_report(Path(), max_inline=2_000_000)"
    )
    assert peak_memory(code, tmp_path) < 1e9
    page = Page(tmp_path / "report.html")
    assert len(page.data["views"]) == 4
    assert len(page.cells) == 16 * 12
    assert len(page.images) == 768
    assert 1_900_000 < sum(len(source) for source in page.images if source.startswith("data:")) < 2_100_000
    assert page.images[-1] == "pictures/0000000002ff.png"


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"comparison\.json"):
        report.build_report(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0264, "0.026"), (0.04, "0.040"), (1.0, "1.0"), (9.97, "10"), (12.4, "12"), (1e-5, "1.0e-5"), (5e4, "5.0e4"),
     (0.0, "0.0"), (math.inf, "not finite"), (math.nan, "not finite")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert format.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0412, "41 ms"), (0.9996, "1.0 s"), (12.34, "12.3 s"), (150.0, "2.5 min")]
)
def test_times_are_short(value: float, text: str) -> None:
    assert format.seconds(value) == text


def test_near_is_bright_and_far_is_dark() -> None:
    def light(place: float) -> int:
        return sum(int(pair, 16) for pair in re.findall("[0-9a-f]{2}", format.viridis(place)))

    assert light(0.0) > light(0.5) > light(1.0)
