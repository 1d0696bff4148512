"""What prompt files ask for, job by job; the files in tests/cases are those that other programs and people write."""

import json
from pathlib import Path

import pytest

from sdapp.api import plan_images
from sdapp.batches.items import Item
from sdapp.batches.prompt_file import PromptFile
from sdapp.prompts.lines import PromptFileError
from sdapp.settings.files import parse_yaml
from sdapp.settings.layers import Layer

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(path: Path | bytes, base: str = "{}", folder: str = "out") -> PromptFile:
    below = [Layer({"output": {"dir": folder}, "width": 64, "height": 64}), parse_yaml(base, "base")]
    return PromptFile.open(path, below)


def items_of(text: str, suffix: str = ".txt", base: str = "seed: 7") -> list[Item]:
    Path(f"f{suffix}").write_text(text, encoding="utf-8")
    return list(opened(Path(f"f{suffix}"), base).items())


def read_case(name: str) -> tuple[list[Item], list[str]]:
    """The images of the good lines, and the errors without the folder."""
    items: list[Item] = []
    try:
        for item in opened(CASES / name, "seed: 7").items():
            items.append(item)
    except PromptFileError as exc:
        return items, str(exc).replace(f"{CASES / name}:", "").split("\n")
    return items, []


# --- the cases ------------------------------------------------------------------------------------------------

SETTINGS_OF_CASES = {
    "07-wildcard-weights/wild.txt": [{"prompt": "a red house"}],
    "10-single-quotes/a1111.txt": [
        {"prompt": "a red house", "negative_prompt": "tree, blur", "steps": 4},
        {"prompt": "a red house", "scheduler.name": "euler-a"},
    ],
    "22-semicolon-csv/semi.csv": [
        {"prompt": "a red house", "steps": 4, "seed": 7},
        {"prompt": "a cat, black", "steps": 4, "seed": 8},
    ],
    "22-semicolon-csv/sep.csv": [{"prompt": "a red house", "steps": 4, "seed": 7}],
    "23-excel-blank-cells/rows.csv": [{"prompt": "a red house", "steps": 4, "seed": 7}],
    "23-excel-blank-cells/columns.csv": [{"prompt": "a red house", "steps": 4, "seed": 7}],
    "23-excel-blank-cells/index.csv": [
        {"prompt": "a red house", "steps": 4},
        {"prompt": "a cat", "steps": 5},
    ],
    "24-whole-floats/pandas.csv": [{"prompt": "a", "steps": 20, "seed": 1234}, {"prompt": "b", "steps": 20}],
    "24-whole-floats/l.jsonl": [{"prompt": "a cat", "steps": 4, "seed": 123}],
    "24-whole-floats/a.txt": [{"prompt": "a house", "steps": 20}],
}


@pytest.mark.parametrize("name", SETTINGS_OF_CASES)
def test_files_of_other_programs_ask_for_what_they_say(name: str) -> None:
    items, errors = read_case(name)
    assert errors == []
    for item, said in zip(items, SETTINGS_OF_CASES[name], strict=True):
        given = item.job.to_data() | {"scheduler.name": item.job.scheduler.name}
        assert {key: given[key] for key in said} == said


def test_a_negative_prompt_has_choices_that_are_recorded() -> None:
    (item,), errors = read_case("05-negative-choices/neg.txt")
    assert errors == []
    assert item.job.prompt == "a red house"
    assert item.job.negative_prompt in {f"{a}, {b}" for a in ("tree", "cat") for b in ("red", "blue")}
    tree, color = item.job.negative_prompt.split(", ")
    assert item.choices == {"negative_prompt: {tree|cat}": tree, "negative_prompt: __color__": color}


def test_a_wildcard_has_its_words_or_is_refused_at_its_place() -> None:
    items, errors = read_case("06-wildcard-names/wild.txt")
    assert [item.job.prompt for item in items] == ["a red hair house", "a x house"]
    assert [error.partition(" is not the name of a wildcard file; ")[0] for error in errors] == [
        "2:1: prompt: character 3: __2$$color__",
        "3:1: prompt: character 3: __color(x=1)__",
        "4:1: prompt: character 3: __@color__",
    ]


def test_options_stand_behind_odd_spaces_and_are_refused_behind_odd_dashes() -> None:
    items, errors = read_case("09-spaces-and-dashes/odd.txt")
    assert [(item.job.prompt, item.job.steps) for item in items] == [("a red house", 4)] * 3
    assert [error.partition(";")[0] for error in errors] == [
        "4:13: U+2013 (en dash) is not a hyphen",
        "5:13: U+2014 (em dash) is not a hyphen",
        "6:13: U+FF0D (fullwidth hyphen-minus) is not a hyphen",
    ]


# --- choices in the negative prompt ---------------------------------------------------------------------------

NEGATIVES = {
    ".txt": "a --n {b|c}, {all:d|e}\n",
    ".csv": 'prompt,negative_prompt\na,"{b|c}, {all:d|e}"\n',
    ".jsonl": '{"prompt": "a", "negative_prompt": "{b|c}, {all:d|e}"}',
    ".yaml": "- {prompt: a, negative_prompt: '{b|c}, {all:d|e}'}",
}


@pytest.mark.parametrize("suffix", NEGATIVES)
def test_every_format_has_choices_in_the_negative_prompt(suffix: str) -> None:
    items = items_of(NEGATIVES[suffix], suffix)
    assert [item.job.negative_prompt for item in items] == ["c, d", "c, e"]
    assert len({item.job.seed for item in items}) == 1


def test_choices_of_the_config_s_negative_prompt_are_made_for_every_line() -> None:
    items = items_of("a\nb\nc\nd\n", base="{seed: 7, negative_prompt: '{x|y}'}")
    assert {item.job.negative_prompt for item in items} == {"x", "y"}


def test_prompt_and_negative_prompt_choose_independently() -> None:
    items = items_of("{a|b} --n {a|b} --count 60")
    assert len({(item.job.prompt, item.job.negative_prompt) for item in items}) == 4
    alone = items_of("{a|b} --n x --count 60 --set seed=1")
    both = items_of("{a|b} --n {a|b} --count 60 --set seed=1")
    assert [item.job.prompt for item in alone] == [item.job.prompt for item in both]


def test_a_negative_prompt_that_cannot_be_chosen_from_is_refused_at_its_place() -> None:
    with pytest.raises(PromptFileError) as refusal:
        items_of("a --n {b|c\nb --n __none__")
    assert [row.partition(";")[0] for row in str(refusal.value).split("\n")] == [
        "f.txt:1:3: negative_prompt: character 1: the brace is never closed",
        "f.txt:2:3: negative_prompt: __none__: there is no file none.txt",
    ]


# --- seed -1 --------------------------------------------------------------------------------------------------

WITHOUT_SEED = {".txt": "a red house", ".csv": "prompt\na red house", ".jsonl": '{"prompt": "a red house"}'}


@pytest.mark.parametrize("suffix", WITHOUT_SEED)
def test_seed_minus_one_is_the_seed_of_a_line_without_one(suffix: str) -> None:
    items, errors = read_case(f"25-seed-minus-one/a{suffix}")
    assert errors == []
    assert items[0].job.id == items_of(WITHOUT_SEED[suffix], suffix)[0].job.id


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("a --seed -1 --count 3", "a --count 3"),
        ("a --seed -1|-1|-1", "a --count 3"),
        ("a --seed -1.0", "a"),
    ],
)
def test_seed_minus_one_with_a_count_and_in_lists(line: str, same: str) -> None:
    assert [item.job.seed for item in items_of(line)] == [item.job.seed for item in items_of(same)]


def test_a_list_may_draw_some_of_its_seeds() -> None:
    assert [item.job.seed for item in items_of('{"prompt": "a", "seed": [5, -1, 6.0]}', ".jsonl")] == [
        5,
        items_of("a --count 2")[1].job.seed,
        6,
    ]


@pytest.mark.parametrize("base", ["{}", "seed: -1", "seed: -1.0"])
def test_a_folder_keeps_the_seeds_that_were_drawn(base: str) -> None:
    first = opened(b"a --seed -1\nb\n", base)
    seeds = [item.job.seed for item in first.items()]
    assert not first.keep_seeds()
    assert [item.job.seed for item in opened(b"a --seed -1\nb\n", base).items()] == seeds
    assert json.loads(Path("out/batch.json").read_bytes())["base_seed"] == first.begun.base_seed
    assert [item.job.seed for item in opened(b"a --seed -1\nb\n", base, "other").items()] != seeds


def test_generate_draws_a_seed_for_minus_one() -> None:
    drawn = {plan_images([Layer({"prompt": "a", "seed": -1})]).work.jobs[0].seed for _ in range(3)}
    assert len(drawn) == 3
    assert min(drawn) >= 0


# --- places ---------------------------------------------------------------------------------------------------


EMPTY = {".txt": "--steps 3", ".csv": "prompt,steps\n,3", ".jsonl": "{}", ".yaml": "- {}"}


@pytest.mark.parametrize("suffix", EMPTY)
def test_an_entry_without_a_prompt_is_refused_with_the_name_of_the_file(suffix: str) -> None:
    with pytest.raises(PromptFileError, match=rf"^f\{suffix}:[12]: prompt: there is none"):
        items_of(EMPTY[suffix], suffix)
