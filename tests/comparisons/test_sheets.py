from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_comparisons import HOSTILE, SOLVERS, make
from sdapp.comparisons.cells import write_comparison
from sdapp.comparisons.report import sheets
from sdapp.errors import ConfigError


def colours(path: Path) -> set[tuple[int, ...]]:
    return set(map(tuple, np.asarray(Image.open(path)).reshape(-1, 3).tolist()))


def test_the_plan_is_what_is_drawn(tmp_path: Path) -> None:
    made = make(
        tmp_path, ("ddim", "unipc", "euler-a"), (5, 20), (1, 2, 3), varied={"guidance_scale": (5.0, 7.5)}
    )
    planned = sheets.plan_sheets((64, 64), made.schedulers, 2, 2 * 3 * 2)
    drawn = sheets.build_sheets(tmp_path)
    assert [path.name for path in drawn] == ["grid.png"]
    assert [Image.open(path).size for path in drawn] == planned


def test_every_image_is_there_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "unipc"), (5, 20), (1,), ("a house",))
    [drawn] = sheets.build_sheets(tmp_path)
    sheet = np.asarray(Image.open(drawn))
    for file in [cell.file for cell in made.cells] + [made.references[0].file]:
        image = np.asarray(Image.open(tmp_path / str(file)).resize((128, 128), Image.Resampling.NEAREST))
        corners = np.argwhere((sheet[:-127, :-127] == image[0, 0]).all(-1))
        assert any((sheet[y : y + 128, x : x + 128] == image).all() for y, x in corners)


def test_large_comparisons_are_split_into_sheets_that_open_everywhere(tmp_path: Path) -> None:
    planned = sheets.plan_sheets((512, 512), tuple(SOLVERS), 12, 40)
    assert len(planned) > 1
    assert all(max(size) <= 16_384 and size[0] * size[1] <= 80_000_000 for size in planned)


def test_sheets_of_a_larger_run_do_not_stay(tmp_path: Path) -> None:
    make(tmp_path, ("ddim",), (5,), (1,), size=8)
    for number in (2, 3):
        (tmp_path / f"grid-{number}.png").write_bytes(b"old")
    assert sheets.build_sheets(tmp_path) == [tmp_path / "grid.png"]
    assert [path.name for path in tmp_path.glob("grid*")] == ["grid.png"]


def test_a_comparison_over_several_sheets_is_drawn_whole(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim",), (5,), (1,), ("a",), size=1024)
    write_comparison(replace(made, seeds=tuple(range(40))), tmp_path)  # the others are not painted yet
    planned = sheets.plan_sheets((1024, 1024), made.schedulers, 1, 40)
    assert [
        Image.open(path).size for path in sheets.build_sheets(tmp_path)
    ] == planned  # with Pillow's own limits
    assert len(planned) > 1


def test_a_block_that_fits_no_sheet_is_refused_before_anything_is_painted() -> None:
    with pytest.raises(ConfigError, match=r"16 rows × 12 columns .* choose a smaller --size"):
        sheets.plan_sheets((2048, 2048), tuple(SOLVERS), 12, 1)


def test_failed_and_missing_cells_are_drawn_as_such(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "unipc"), (5, 20), (1,), ("a house",))
    [whole] = sheets.build_sheets(tmp_path)
    before = Image.open(whole).copy()
    failed = replace(
        made.cells[0], status="failed", file=None, reason="the latents became NaN", solver_error=None
    )
    write_comparison(replace(made, cells=(failed, *made.cells[2:]), references=()), tmp_path)
    [part] = sheets.build_sheets(tmp_path)
    assert Image.open(part).size == before.size
    assert (0xA3, 0x37, 0x1F) in colours(part)  # the reason, in the colour of failures


def test_an_image_that_cannot_be_read_does_not_stop_the_sheet(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim", "unipc"), (5,), (1,), ("a house",))
    (tmp_path / str(made.cells[0].file)).write_bytes(b"broken")
    (tmp_path / str(made.cells[1].file)).unlink()
    [drawn] = sheets.build_sheets(tmp_path)
    assert (0xA3, 0x37, 0x1F) in colours(drawn)


def test_no_prompt_is_too_strange_to_be_drawn(tmp_path: Path) -> None:
    make(tmp_path, ("ddim",), (5,), (1,), HOSTILE, size=8)
    assert len(sheets.build_sheets(tmp_path)) == 1


def test_a_folder_without_one_image_is_drawn(tmp_path: Path) -> None:
    made = make(tmp_path, ("ddim",), (5,), (1,), size=8)
    write_comparison(replace(made, cells=(), references=()), tmp_path)
    assert len(sheets.build_sheets(tmp_path)) == 1
