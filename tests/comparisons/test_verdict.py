"""Places, ties and the sentence that says which scheduler to use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from made_comparisons import make
from sdapp.comparisons import statistics
from sdapp.comparisons.cells import Comparison
from sdapp.comparisons.verdict import verdict

SEEDS = (1, 2, 3, 4)


@pytest.fixture
def made(tmp_path: Path) -> Comparison:
    return make(tmp_path, ("ddim", "unipc", "lms", "euler-a"), (10, 20), SEEDS, ("a house",), size=16)


def measured(
    made: Comparison, errors: Mapping[str, Sequence[float | None]], psnr: float = 30, noise: float = 0.001
) -> Comparison:
    """A comparison with these errors by scheduler and seed at each column, and none of other schedulers."""

    def error(name: str, seed: int) -> float | None:
        return errors[name][SEEDS.index(seed)] if name in errors else None

    cells = tuple(
        replace(cell, solver_error=error(cell.scheduler, cell.seed), psnr=psnr, ssim=0.995)
        for cell in made.cells
        if cell.stochastic or error(cell.scheduler, cell.seed) is not None
    )
    references = tuple(replace(each, distance=noise) for each in made.references)
    return replace(made, cells=cells, references=references)


def places(comparison: Comparison, column: float = 20) -> dict[str, int | None]:
    return {name: item.place for name, item in statistics.summarise_column(comparison, column).items()}


def test_what_the_seeds_tell_apart_has_places_and_what_they_do_not_is_tied(made: Comparison) -> None:
    errors = {
        "ddim": (0.2, 0.21, 0.19, 0.2),
        "unipc": (0.046, 0.046, 0.045, 0.046),
        "lms": (0.043, 0.054, 0.047, 0.044),
    }
    found = measured(made, errors)
    assert places(found) == {"unipc": 1, "lms": 1, "ddim": 3, "euler-a": None}
    text = verdict(found)
    assert text.startswith("Smallest error: lms and unipc (tied) at every budget (10 to 20 UNet calls);")
    assert "euler-a is stochastic and not ranked: judge it by eye" in text


def test_the_test_is_that_of_scipy() -> None:
    first, other = (0.1, 0.4, 0.3, 0.25, 0.9), (0.2, 0.45, 0.29, 0.5, 1.0)
    expected = ttest_rel([math.log(v) for v in other], [math.log(v) for v in first]).pvalue
    logs = [math.log(v) for v in first], [math.log(v) for v in other]
    assert statistics.tied_probability(*logs) == pytest.approx(expected, rel=1e-9)


def test_below_the_accuracy_of_its_own_prompt_nothing_is_ranked(made: Comparison) -> None:
    errors = {name: tuple(value * scale for value in (1.0, 1.1, 0.9, 1.0)) for name, scale in
              (("ddim", 0.004), ("unipc", 0.001), ("lms", 0.002))}  # fmt: skip
    assert places(measured(made, errors, noise=0.0001))["ddim"] == 3
    found = measured(made, errors, noise=0.01)
    assert {places(found)[name] for name in errors} == {1}
    assert "the smallest errors are below the measurement noise (0.01)" in verdict(found)
    one = replace(found, references=tuple(
        replace(each, distance=0.0001) if each.seed == 1 else each for each in found.references
    ))  # fmt: skip
    assert statistics.bands(one) != statistics.bands(found)


def test_an_unfinished_scheduler_has_no_place_and_the_others_keep_theirs(made: Comparison) -> None:
    errors: dict[str, tuple[float | None, ...]] = {
        "ddim": (0.1, 0.1, 0.1, 0.4), "unipc": (0.2, 0.2, 0.2, 0.3), "lms": (0.3, 0.3, 0.3, None),
    }  # fmt: skip
    whole = measured(made, errors | {"lms": (0.3, 0.3, 0.3, 0.5)})
    part = measured(made, errors)
    found = statistics.summarise_column(part, 20)["lms"]
    assert (found.place, found.measured, found.of, found.is_partial) == (None, 3, 4, True)
    assert places(part)["ddim"] == places(whole)["ddim"] == 1
    assert statistics.rank(part, 20)[-2:] == ("lms", "euler-a")
    assert "images are there, ranked over common seeds and prompts only" in verdict(part)


def test_half_a_run_is_ranked_over_the_seeds_that_all_have(made: Comparison) -> None:
    errors: dict[str, tuple[float | None, ...]] = {
        "ddim": (0.1, 0.11, 0.1, None), "unipc": (0.2, 0.19, None, 0.01), "lms": (None, 0.3, 0.3, 0.3),
    }  # fmt: skip
    found = statistics.summarise_column(measured(made, errors), 20)
    assert {name: found[name].place for name in errors} == {"ddim": 1, "unipc": 2, "lms": 3}  # seed 2 alone
    assert {found[name].solver_error.count for name in errors} == {1}  # type: ignore[union-attr]


def test_from_which_budget_on_nothing_can_be_seen(made: Comparison) -> None:
    errors = dict.fromkeys(("ddim", "unipc", "lms"), (0.1, 0.11, 0.1, 0.1))
    assert "no scheduler comes so near to the reference" in verdict(measured(made, errors, psnr=39.9))
    found = measured(made, errors, psnr=41)
    cells = tuple(
        replace(cell, psnr=20.0) if cell.column == 10 and cell.scheduler != "ddim" else cell
        for cell in found.cells
    )
    text = verdict(replace(found, cells=cells))
    meaning = "PSNR of 40 dB and SSIM of 0.99 or more in three of four images"
    assert f"ddim looks like the reference at every budget ({meaning}), all of them at 20" in text


def test_without_anything_to_rank_it_says_so(made: Comparison) -> None:
    assert verdict(replace(made, cells=())).startswith("There are no errors to rank")
    stochastic = tuple(cell for cell in made.cells if cell.stochastic)
    text = verdict(replace(made, cells=stochastic, schedulers=("euler-a",)))
    assert text == "There are no errors to rank; euler-a is stochastic and not ranked: judge it by eye."


def test_an_error_that_is_not_finite_is_the_last(made: Comparison) -> None:
    errors = {"ddim": (math.nan,) * 4, "unipc": (0.1, 0.2, 0.3, 0.2), "lms": (math.inf,) * 4}
    assert places(measured(made, errors)) == {"unipc": 1, "ddim": 2, "lms": 2, "euler-a": None}
