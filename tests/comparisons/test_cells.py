import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_comparisons import HOSTILE, make
from sdapp.comparisons import statistics
from sdapp.comparisons.cells import Cell, Comparison, read_comparison, write_comparison
from sdapp.comparisons.statistics import Spread
from sdapp.errors import InputError, MissingInputError, OutputError


@pytest.fixture
def small(tmp_path: Path) -> Comparison:
    return make(
        tmp_path,
        ("ddim", "unipc", "euler-a"),
        (5, 20),
        varied={"guidance_scale": (5.0, 7.5), "eta": (0.0,)},
        size=8,
    )


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written_is_read_back(small: Comparison, tmp_path: Path) -> None:
    assert read_comparison(tmp_path) == small
    assert len(small.cells) == 3 * 2 * 2 * 2 * 2
    assert len((tmp_path / "results.jsonl").read_bytes().splitlines()) == len(small.cells)


def test_writing_again_replaces_and_leaves_nothing_half_written(small: Comparison, tmp_path: Path) -> None:
    fewer = replace(small, cells=small.cells[:3])
    write_comparison(fewer, tmp_path)
    assert read_comparison(tmp_path) == fewer
    assert {path.name for path in tmp_path.iterdir()} == {
        "pictures", "comparison.json", "results.jsonl", "references.jsonl", "results.csv"
    }  # fmt: skip


def test_hostile_prompts_and_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    comparison = make(tmp_path, ("ddim",), (5,), (1,), HOSTILE, size=8)
    broken = replace(
        comparison.cells[0], solver_error=math.inf, psnr=math.inf, varied={"note": "=1", "flag": True, "n": 3}
    )
    write_comparison(replace(comparison, cells=(broken, *comparison.cells[1:])), tmp_path)
    assert read_comparison(tmp_path).cells == (broken, *comparison.cells[1:])
    assert read_comparison(tmp_path).cells[0].varied["flag"] is True


def test_not_a_number_is_valid_json_and_comes_back(small: Comparison, tmp_path: Path) -> None:
    write_comparison(replace(small, cells=(replace(small.cells[0], solver_error=math.nan),)), tmp_path)
    [cell] = read_comparison(tmp_path).cells
    assert cell.solver_error is not None
    assert math.isnan(cell.solver_error)
    assert '"solver_error":"NaN"' in (tmp_path / "results.jsonl").read_text()


def test_the_table_has_a_column_for_each_field_and_each_varied_key(small: Comparison, tmp_path: Path) -> None:
    row = table(tmp_path)[0]
    assert list(row)[-2:] == ["guidance_scale", "eta"]
    assert (row["scheduler"], row["column"], row["guidance_scale"], row["reason"]) == ("ddim", "5", "5.0", "")
    assert float(row["solver_error"]) == small.cells[0].solver_error
    assert [float(part) for part in row["timings"].split(" ")] == list(small.cells[0].timings)


@pytest.mark.parametrize("prompt", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " \r=1"])
def test_no_prompt_becomes_a_formula(prompt: str, tmp_path: Path) -> None:
    make(tmp_path, ("ddim",), (5,), (1,), (prompt,), size=8)
    [row] = table(tmp_path)
    assert row["prompt"] == f"'{prompt}"


@pytest.mark.parametrize(
    ("file", "line", "text", "said"),
    [
        ("results.jsonl", 2, "{", "results.jsonl:2: Invalid JSON"),
        ("results.jsonl", 3, "{}", "results.jsonl:3: id: Field required"),
        ("references.jsonl", 1, "[]", "references.jsonl:1: "),
        ("comparison.json", 1, "nothing", "comparison.json: Invalid JSON"),
    ],
)
def test_broken_lines_are_named(
    small: Comparison, tmp_path: Path, file: str, line: int, text: str, said: str
) -> None:
    lines = (tmp_path / file).read_text().split("\n")
    lines[line - 1] = text
    (tmp_path / file).write_text("\n".join(lines))
    with pytest.raises(InputError, match=said):
        read_comparison(tmp_path)


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../secret.png", "pictures/../../x", "C:\\x.png", "http://x/y.png", "a\0b"]
)
def test_an_image_outside_the_folder_is_refused(small: Comparison, tmp_path: Path, file: str) -> None:
    write_comparison(replace(small, cells=(replace(small.cells[0], file=file),)), tmp_path)
    with pytest.raises(InputError, match=r"results\.jsonl:1: file: .* is not in this folder"):
        read_comparison(tmp_path)


@pytest.mark.parametrize("name", ["comparison.json", "results.jsonl", "references.jsonl"])
def test_a_missing_file_is_named(small: Comparison, tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(MissingInputError, match=f"{name}.*is .* the folder of a comparison"):
        read_comparison(tmp_path)


def test_a_file_in_place_of_the_folder_is_named(small: Comparison, tmp_path: Path) -> None:
    (tmp_path / "nowhere").touch()
    with pytest.raises(OutputError, match=r"results\.jsonl"):
        write_comparison(small, tmp_path / "nowhere")


def test_summaries_take_all_seeds_prompts_and_keys_together(small: Comparison) -> None:
    summary = next(
        item for item in statistics.summarise(small) if (item.scheduler, item.column) == ("unipc", 20)
    )
    errors = [cell.solver_error for cell in small.cells if (cell.scheduler, cell.column) == ("unipc", 20)]
    assert summary.solver_error is not None
    assert (summary.solver_error.count, summary.solver_error.median) == (8, pytest.approx(np.median(errors)))
    assert summary.unet_calls == Spread(20, 20, 20, 8)
    assert not summary.stochastic


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20))
def test_quartiles_are_those_of_numpy(values: list[float]) -> None:
    found = statistics.spread(values)
    assert found is not None
    assert (found.low, found.median, found.high) == pytest.approx(
        tuple(np.quantile(values, (0.25, 0.5, 0.75)))
    )


def test_what_is_not_finite_is_the_largest_of_all() -> None:
    assert statistics.spread([1.0, math.nan, 2.0]) == Spread(1.5, 2.0, math.inf, 3)
    assert statistics.spread([None]) is None


def test_ranks_follow_the_median_and_put_the_stochastic_last(small: Comparison) -> None:
    def with_errors(cell: Cell) -> Cell:
        error = {"ddim": 0.1, "unipc": 0.2 if cell.column == 5 else 0.05}.get(cell.scheduler)
        return replace(cell, solver_error=error)

    even = replace(small, cells=tuple(map(with_errors, small.cells)))
    assert statistics.rank(even, 5) == ("ddim", "unipc", "euler-a")
    assert statistics.rank(even, 20) == ("unipc", "ddim", "euler-a")
    blank = replace(
        even,
        cells=tuple(
            replace(cell, solver_error=None) if cell.scheduler == "ddim" else cell for cell in even.cells
        ),
    )
    assert statistics.rank(blank, 5) == ("unipc", "ddim", "euler-a")
    assert statistics.stochastic(small) == {"euler-a"}


def test_the_band_is_the_median_distance_between_references(small: Comparison) -> None:
    assert statistics.band(small) == pytest.approx(
        np.median([reference.distance for reference in small.references])
    )
    assert statistics.band(replace(small, references=())) is None
