"""A grid as jobs, before anything is painted and without torch."""

import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from sdapp.comparisons import statistics
from sdapp.comparisons.cells import Cell
from sdapp.comparisons.plan import ComparisonPlan
from sdapp.errors import ConfigError, InputError
from sdapp.settings.layers import Layer

SMALL = {"references": ["dpm++2m-karras@40", "heun@20"]}


def compare_plan(config: dict[str, Any] | None = None, **grid: Any) -> ComparisonPlan:
    asked = {"schedulers": ["ddim"], "steps": [20], "seeds": [1]} | SMALL | grid
    values = {"prompt": "a house"} | (config or {}) | {"compare": asked}
    return ComparisonPlan([Layer(values, dict.fromkeys(values, "settings"))])


def planned(found: ComparisonPlan) -> dict[tuple[str, float], tuple[int, int]]:
    """(scheduler, column) → (steps, UNet calls) of the jobs."""
    calls = {item.job.id: item.job.unet_calls for item in found.items()}
    return {(cell.scheduler, cell.column): (cell.steps, calls[cell.id]) for cell in found.comparison.cells}


# --- equal work ---------------------------------------------------------------------------------------------


def test_columns_are_equal_unet_calls() -> None:
    found = planned(compare_plan(schedulers=["ddim", "pndm", "heun", "dpm2"], steps=[20, 21, 1]))
    assert [found["ddim", column] for column in (20, 21, 1)] == [(20, 20), (21, 21), (1, 1)]
    assert [found["pndm", column] for column in (20, 21, 1)] == [(19, 20), (20, 21), (1, 1)]
    assert [found["heun", column] for column in (20, 21, 1)] == [(10, 19), (11, 21), (1, 1)]
    assert found["dpm2", 21] == (11, 21)


def test_or_equal_steps() -> None:
    found = planned(compare_plan(schedulers=["ddim", "pndm", "heun"], steps=[20], match="steps"))
    assert found == {("ddim", 20): (20, 20), ("pndm", 20): (20, 21), ("heun", 20): (20, 39)}


def test_the_strength_of_img2img_is_reckoned_with(house: Path) -> None:
    task = {"kind": "img2img", "image": str(house), "strength": 0.5}
    found = planned(compare_plan({"task": task}, schedulers=["ddim", "heun"], steps=[10]))
    assert found == {("ddim", 10): (20, 10), ("heun", 10): (10, 9)}
    with pytest.raises(ConfigError, match=r"with strength 0\.0001, none of 1000 steps runs"):
        planned(compare_plan({"task": task}, steps=[10], vary={"task.strength": [0.0001]}))


def test_a_scheduler_that_cannot_do_a_column_says_so() -> None:
    with pytest.raises(ConfigError) as caught:
        planned(compare_plan(schedulers=["lcm", "ddim"], steps=[20, 60, 143]))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "lcm has at most 50" in lines[0]
    assert "lcm has at most 50" in lines[1]
    assert "with 143 steps ddim would take pure noise for a half-finished image" in lines[2]


# --- the grid -----------------------------------------------------------------------------------------------


def test_only_scheduler_and_steps_differ_within_a_combination() -> None:
    found = compare_plan(
        schedulers=["ddim", "lms"],
        steps=[5, 9],
        seeds=[3, 4],
        prompts=["a cat", "a ship"],
        vary={"guidance_scale": [3, 7.5]},
    )
    jobs = {item.job.id: item.job for item in found.items()}
    assert len(found.comparison.cells) == 2 * 2 * 2 * 2 * 2
    assert len(found.comparison.references) == 2 * 2 * 2
    assert len(jobs) == 32 + 2 * 8

    def where(cell: Cell) -> tuple[Any, ...]:
        return cell.prompt, cell.seed, cell.varied["guidance_scale"]

    for (prompt, seed, scale), cells in groupby(found.comparison.cells, where):
        alike = [jobs[cell.id] for cell in cells]
        wanted = (prompt, seed, {"guidance_scale": scale})
        [reference] = [
            item for item in found.comparison.references if (item.prompt, item.seed, item.varied) == wanted
        ]
        for job in (*alike, jobs[reference.id], jobs[reference.other_id]):
            assert (job.prompt, job.seed, job.guidance_scale) == (prompt, seed, scale)
            assert (
                len({other.model_copy(update={"scheduler": job.scheduler, "steps": 1}).id for other in alike})
                == 1
            )


def test_the_references_are_named_by_their_steps() -> None:
    [reference] = compare_plan(references=["DPM++ 2M Karras@40", "heun@20"]).comparison.references
    assert (reference.label, reference.other) == ("dpm++2m-karras, 40 steps", "heun, 20 steps")


def test_a_cell_that_is_its_own_reference_is_painted_once() -> None:
    found = compare_plan(schedulers=["dpm++2m-karras"], steps=[40])
    assert found.comparison.cells[0].id == found.comparison.references[0].id
    assert len(list(found.items())) == 2


def test_eta_makes_a_scheduler_stochastic() -> None:
    found = compare_plan({"eta": 0.5}, schedulers=["ddim", "tcd"], references=["ddim@40", "ddim-trailing@40"])
    assert statistics.stochastic(found.comparison) == {"ddim", "tcd"}
    assert [item.job.eta for item in found.items()] == [0.5, 0.5, None, None]


# --- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "grid", "message"),
    [
        (
            {},
            {"vary": {"seed": [1, 2]}},
            "compare.vary.seed: cannot vary; allowed here: guidance_scale, guidance_interval, ",
        ),
        ({}, {"vary": {"scheduler.options.order": [1]}}, "compare.vary.scheduler.options.order: cannot vary"),
        (
            {},
            {"vary": {"guidance": [1]}},
            "compare.vary.guidance: cannot vary, did you mean 'guidance_scale'?",
        ),
        (
            {"task": {"kind": "txt2img"}},
            {"vary": {"task.colour": ["red"]}},
            "vary task.colour: task.colour: unknown key",
        ),
        (
            {},
            {"vary": {"guidance_scale": [200]}},
            "vary guidance_scale: guidance_scale: must be ",
        ),
        (
            {"output": {"format": "jpeg"}},
            {},
            "output.format: images are compared without loss, as png, not jpeg",
        ),
        (
            {"batch_size": 4},
            {"timings": 3},
            "compare.timings: an image can be timed several times only alone",
        ),
        (
            {"eta": 0.5},
            {"schedulers": ["lms"]},
            "eta: lms has no eta; the schedulers that have it: ddim, tcd",
        ),
        (
            {},
            {"vary": {"clip_skip": [0, 9]}},
            "clip_skip: the text encoder of postcards has 2 layers; at most 1",
        ),
        (
            {"prompt": None},
            {},
            "prompt: there is none; give one on the command line, or as `compare.prompts:`",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    config: dict[str, Any], grid: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(compare_plan(config, **grid))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "grid", "notes"),
    [
        ({}, {}, []),
        ({"steps": 30}, {}, ["steps: has no effect in a comparison; use compare.steps"]),
        (
            {"scheduler": {"name": "lms", "options": {"use_karras_sigmas": True}}, "seed": 3, "count": 2},
            {},
            [
                "scheduler: has no effect in a comparison; use compare.schedulers",
                "seed: has no effect in a comparison; use compare.seeds",
                "count: has no effect in a comparison; use compare.seeds",
            ],
        ),
        ({}, {"prompts": ["a cat"]}, ["prompt: has no effect in a comparison; there are compare.prompts"]),
        (
            {"output": {"name": "{seed}"}},
            {},
            ["output.name: has no effect in a comparison; its images are named by the ids of their jobs"],
        ),
        (
            {"negative_prompt": "a tree"},
            {"vary": {"guidance_scale": [7.5, 1]}},
            ["negative_prompt has no effect at a guidance_scale of 1 or below"],
        ),
    ],
)
def test_what_has_no_effect_is_told(config: dict[str, Any], grid: dict[str, Any], notes: list[str]) -> None:
    told = [note.removeprefix("settings: ") for note in compare_plan(config, **grid).notes]
    assert told == notes


def test_a_prompt_on_the_command_line_replaces_that_of_the_config() -> None:
    given = {"prompt": "a house", "compare": {"schedulers": ["ddim"], "prompts": ["a cat"]} | SMALL}
    assert list(ComparisonPlan([Layer(given, {"compare.prompts": "PROMPT"})]).notes) == []


def test_without_schedulers_those_that_are_used_most_are_compared() -> None:
    for values in ({}, {"compare": {}}, {"compare": {"steps": [5]}}):
        grid = ComparisonPlan([Layer({"prompt": "a house"} | values)]).grid
        assert {"euler", "euler-a", "dpm++2m-karras", "unipc"} <= set(grid.schedulers)


def test_the_title_names_what_is_compared() -> None:
    title = compare_plan(schedulers=["ddim", "unipc"]).comparison.title
    assert title == "ddim and unipc with postcards"


def test_errors_are_gathered() -> None:
    with pytest.raises(ConfigError) as caught:
        planned(
            compare_plan({"eta": 1.0}, schedulers=["ddim", "pndm", "lms"], vary={"guidance_scale": [3, 200]})
        )
    assert [line.partition(" ")[2][:13] for line in str(caught.value).splitlines()] == [
        "eta: pndm has", "eta: lms has ", "guidance_scal",
    ]  # fmt: skip


def test_an_image_that_is_missing_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        planned(compare_plan({"task": {"kind": "img2img", "image": "gone.png"}}))


def test_planning_imports_no_torch() -> None:
    script = (
        "import sys; from sdapp.comparisons.plan import ComparisonPlan;"
        "from sdapp.settings.layers import Layer;"
        "ComparisonPlan([Layer({'prompt': 'a', 'compare': {'schedulers': ['ddim', 'heun']}})]).comparison;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n", done.stderr
