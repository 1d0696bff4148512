import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdapp.errors import ConfigError
from sdapp.prompts.files import Entry, read_prompts
from sdapp.prompts.lines import PromptFileError
from sdapp.prompts.seeds import Seeds, derived_seed, seed_for
from sdapp.prompts.templates import choose
from sdapp.prompts.variants import checked_entries, expand
from sdapp.settings.files import parse_override, parse_yaml
from sdapp.settings.layers import Layer
from sdapp.settings.types import MAX_SEED


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, so that files are named as they are written here."""
    monkeypatch.chdir(tmp_path)


def entries(text: str, suffix: str = ".txt") -> list[Entry]:
    Path(f"f{suffix}").write_text(text, encoding="utf-8")
    return list(read_prompts(Path(f"f{suffix}")))


def expanded(text: str, suffix: str = ".txt") -> list[dict[str, Any]]:
    return [variant.layer.values for entry in entries(text, suffix) for variant in expand(entry)]


def words(**files: str) -> None:
    for name, text in files.items():
        Path(f"{name}.txt").write_text(text, encoding="utf-8")


# --- combinations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "text", "variants"),
    [
        (".txt", "a --steps 3", [{"prompt": "a", "steps": 3}]),
        (".txt", "a {b|c}", [{"prompt": "a {b|c}"}]),
        (".txt", "{all:a|b} c", [{"prompt": "a c"}, {"prompt": "b c"}]),
        (".txt", "{all:a|b}{ALL|x}", [{"prompt": "a{ALL|x}"}, {"prompt": "b{ALL|x}"}]),
        (".txt", "{all:a|b} {all:c|d}", [{"prompt": p} for p in ("a c", "a d", "b c", "b d")]),
        (".txt", "{all:a|{all:b|c}|}", [{"prompt": p} for p in ("a", "b", "c")] + [{"prompt": ""}]),
        (".txt", "{all:{a|b}|__c__}", [{"prompt": "{a|b}"}, {"prompt": "__c__"}]),
        (".txt", "{x|{all:a|b}}", [{"prompt": "{x|a}"}, {"prompt": "{x|b}"}]),
        (
            ".txt",
            r"\{all:a\|b\} {all:\{|\}}",
            [{"prompt": r"\{all:a\|b\} \{"}, {"prompt": r"\{all:a\|b\} \}"}],
        ),
        (
            ".jsonl",
            '{"steps": [1, 2], "prompt": ["a", "{all:b|c}"], "seed": [5, 6]}',
            [{"steps": s, "prompt": p} for s in (1, 2) for p in "abc"],
        ),
        (".jsonl", '{"steps": [1]}', [{"steps": 1}]),
        (
            ".csv",
            "steps,cfg_scale\n1|2,3|4\n5,\n",
            [{"steps": s, "guidance_scale": g} for s in (1, 2) for g in (3, 4)] + [{"steps": 5}],
        ),
        (
            ".yaml",
            "- {scheduler: [ddim, {name: euler}], size: [64x48, 72x64]}",
            [
                {"scheduler": s, "width": w, "height": h}
                for s in ("ddim", {"name": "euler"})
                for w, h in ((64, 48), (72, 64))
            ],
        ),
        (
            ".yaml",
            "- {image: [a, b], strength: [0.5, 1]}",
            [{"task": {"image": i, "strength": s, "kind": "img2img"}} for i in "ab" for s in (0.5, 1)],
        ),
    ],
)
def test_lists_and_all_mean_every_combination(suffix: str, text: str, variants: list[dict[str, Any]]) -> None:
    assert expanded(text, suffix) == variants


def test_variants_keep_line_seeds_content_and_places_and_expand_to_themselves() -> None:
    (entry,) = entries('\n{"steps": [1, 2], "prompt": "{all:a|b}", "seeds": [5, 6]}', ".jsonl")
    for variant in expand(entry):
        assert (variant.line, variant.seeds, variant.content) == (2, (5, 6), entry.content)
        assert variant.layer.origins == entry.layer.origins
        assert list(expand(variant)) == [variant]
    assert entry.layer.values == {"steps": [1, 2], "prompt": "{all:a|b}"}


TOO_MANY = "f.jsonl:1: prompt: more than 100,000 combinations in one entry, or "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"steps": []}', "f.jsonl:1: steps: an empty list; give at least one value"),
        (
            '{"prompt": "{all:a|b"}',
            r"f.jsonl:1: prompt: character 1: the brace is never closed; for a plain brace write \{",
        ),
        ('{"prompt": "' + "{all:a|b}" * 17 + '"}', TOO_MANY),
        ('{"prompt": "' + "{all:a|b}" * 50_000 + '"}', TOO_MANY),
        ('{"prompt": "' + "x" * 900_000 + "{all:a|b}" * 6 + '"}', TOO_MANY),
        (
            '{"steps": [' + "1, " * 999 + '1], "eta": [' + "1, " * 999 + "1]}",
            "f.jsonl:1: more than 100,000 combinations",
        ),
    ],
)
def test_an_entry_of_too_many_or_broken_variants_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        expanded(line, ".jsonl")
    assert str(refusal.value).startswith(message)


# --- choices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a house", "a house"),
        (r"\{a\|b\} \(c\) \d", r"{a|b} \(c\) \d"),
        (r"a | b \| c", "a | b | c"),
        (r"\__a__ _b_ __ ___ c__d", "__a__ _b_ __ ___ c__d"),
        (r"{a\|b|a\|b}", "a|b"),
        ("{|}x", "x"),
        ("{a|a} {{b|b}|b}", "a b"),
        ("😀 {é|é}", "😀 é"),
    ],
)
def test_what_is_no_choice_is_the_text_that_it_is(prompt: str, text: str) -> None:
    assert choose(prompt, 7, None)[0] == text


def test_choices_are_those_of_any_machine_and_version() -> None:
    """The numbers were written down once; a change of them repaints every prompt file with braces."""
    words(color="red\nblue\ngreen")
    chosen = [choose("{a|b|{c|d}} __color__ __color__", seed, Path())[0] for seed in (0, 1, 2, 3, 2**63 - 1)]
    assert chosen == ["b blue green", "c green red", "c green blue", "a green green", "c red blue"]


def test_every_choice_is_recorded_in_its_order() -> None:
    words(color="# a comment\n\n red \n")
    text, choices = choose("{a {b|b}|a {b|b}} __color__ and __color__", 0, Path())
    assert text == "a b red and red"
    assert choices == {"{a {b|b}|a {b|b}}": "a b", "{b|b}": "b", "__color__": "red", "__color__ #2": "red"}
    assert list(choices) == ["{a {b|b}|a {b|b}}", "{b|b}", "__color__", "__color__ #2"]


def test_a_choice_does_not_depend_on_the_words_and_choices_around_it() -> None:
    for seed in range(50):
        alone = choose("{a|b|c}", seed, None)[1]["{a|b|c}"]
        assert choose("much {more|other} text {a|b|c} here", seed, None)[1]["{a|b|c}"] == alone


def test_seeds_choose_each_option_about_as_often() -> None:
    found = Counter(choose("{a|b|c}", seed, None)[0] for seed in range(3000))
    assert all(900 < found[option] < 1100 for option in "abc")


def test_weights_say_how_often_an_option_is_chosen() -> None:
    words(color="3::a\n0.5 b\n.5::c\n# x\n d")
    found = Counter(choose("{ 2::a|b}", seed, None)[0] for seed in range(3000))
    assert 1900 < found["a"] < 2100
    found = Counter(choose("__color__", seed, None)[0] for seed in range(5500))
    assert {option: round(number / 1000, 1) for option, number in found.items()} == {
        "a": pytest.approx(3, abs=0.2),
        "0.5 b": pytest.approx(1, abs=0.2),
        "c": pytest.approx(0.5, abs=0.2),
        "d": pytest.approx(1, abs=0.2),
    }


def test_weighted_choices_are_those_of_any_machine_and_version() -> None:
    words(color="5::red\n0.1::blue")
    assert [choose("{2::a|b|0.5::{c|3::d}} __color__", seed, Path())[0] for seed in range(6)] == [
        "c red",
        "a red",
        "b red",
        "c red",
        "b red",
        "a red",
    ]


def test_weights_stay_when_all_is_expanded_inside_them() -> None:
    assert expanded("{2::{all:a|b}|c}") == [{"prompt": "{2::a|c}"}, {"prompt": "{2::b|c}"}]


def test_every_name_of_a_wildcard_file_may_stand_in_a_prompt() -> None:
    names = ["hair color", "a+b", "é_è", "it's, so & so", "2.5", "-x-", "deep/er/still more/x_y"]
    Path("deep/er/still more").mkdir(parents=True)
    for name in names:
        Path(f"{name}.txt").write_text(f"({name})", encoding="utf-8")
    assert choose("".join(f"__{name}__ " for name in names), 0, None)[0] == "".join(
        f"({name}) " for name in names
    )


@given(
    st.lists(
        st.sampled_from(["__", "c", "c", " ", "2$$", "(x=1)", "@", "/", "*", "{c|c}", "\\", "a b"]),
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_wildcard_is_left_standing(parts: list[str]) -> None:
    Path("c.txt").write_text("red", encoding="utf-8")
    prompt = "".join(parts)
    try:
        text = choose(prompt, 1, None)[0]
    except ConfigError:
        return
    plain = ("\\__", "____")  # escaped ones, and those that lie around a wildcard
    assert any(each in prompt for each in plain) or not re.search(r"__(?![_\s])((?!__).)+(?<!\s)__", text)


def test_two_groups_with_the_same_words_choose_for_themselves() -> None:
    assert {choose("{a|b}{a|b}", seed, None)[0] for seed in range(50)} == {"aa", "ab", "ba", "bb"}


def test_a_wildcard_may_hold_choices_and_lie_in_a_folder() -> None:
    Path("deep").mkdir()
    Path("deep/er.txt").write_bytes(b"\xef\xbb\xbf{red|red} __color-2__\r\n")
    words(**{"color-2": "blue"})
    assert choose("a __deep/er__ house", 3, Path())[0] == "a red blue house"


def test_an_edited_wildcard_file_is_read_anew() -> None:
    words(color="red")
    assert choose("__color__", 0, None)[0] == "red"
    words(color="green")
    assert choose("__color__", 0, None)[0] == "green"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a {b|c", r"character 3: the brace is never closed; for a plain brace write \{"),
        ("a b|c}", r"character 6: no brace is open here; for a plain brace write \}"),
        ("{a|b}} {", r"character 6: no brace is open here"),
        ("{a|{b|c}", "character 1: the brace is never closed"),
        ("a {b} c", r"character 3: nothing to choose from; write {a|b}, or \{ for a plain brace"),
        ("{}", "character 1: nothing to choose from"),
        ("a {0::b|c}", "character 4: 0:: is no weight; write a number above 0, such as 2::"),
        ("{a|1.2.3::b}", "character 4: 1.2.3:: is no weight"),
        (
            "a {2$$b|c}",
            "character 4: counts (2$$) and samplers (~ @ !) are not supported; {a|b} chooses one, ",
        ),
        ("{e$$a|b}", "character 2: counts"),
        ("{2-3$$a|b}", "character 2: counts"),
        ("{~a|b}", "character 2: counts"),
        ("{all:2::a|b}", "character 1: {all:…} makes an image of each option; leave out weights"),
        ("__2$$color__", "character 1: __2$$color__ is not the name of"),
        ("__~color__", "character 1: __~color__ is not the name of"),
        ("__color(x=1, y=2)__", "character 1: __color(x=1, y=2)__ is not the name of"),
        ("__deep/*__", "character 1: __deep/*__ is not the name of"),
        ("a __c{a|b}__", "character 3: __c{a|b}__ is not the name of"),
        ("a __${c}__", "character 3: __${c}__ is not the name of"),
        ("one__of a__kind", "__of a__: there is no file of a.txt"),
        ("{" * 21 + "a|b" + "}" * 21, "character 21: braces nested deeper than 20"),
        ("{a|b}" * 1001, "{a|b} #1001: more than 1,000 choices in one prompt"),
        ("__none__", r"__none__: there is no file none.txt; for plain underscores write \__"),
        ("__colour__", "__colour__: there is no file colour.txt, did you mean __color__?"),
        ("__deep/words__", "__deep/words__: there is no file deep/words.txt, did you mean __deep/wordz__?"),
        (
            "x __../secret__",
            "character 3: __../secret__ is not the name of a wildcard file; write __name__ or __folder/name__, ",
        ),
        ("__/etc/passwd__", "character 1: __/etc/passwd__ is not the name of"),
        ("__deep/a/b/c__", "__deep/a/b/c__: there is no file deep/a/b/c.txt"),
        ("__wordz__", "__wordz__: there is no file wordz.txt, did you mean __deep/wordz__?"),
        (r"__a\b__", r"character 1: __a\b__ is not the name of"),
        ("__~/a__", "character 1: __~/a__ is not the name of"),
        ("__a/../b__", "character 1: __a/../b__ is not the name of"),
        ("__link__", "__link__: link.txt is a link to a place outside the prompt file's folder"),
        (
            "__linked/secret__",
            "__linked/secret__: linked/secret.txt is a link to a place outside the prompt file's folder",
        ),
        ("__loop__", "__loop__: "),
        ("__folder__", "__folder__: there is no file folder.txt"),
        ("__empty__", "__empty__: "),
        ("__latin__", "__latin__: "),
        ("__broken__", "__broken__: "),
        ("__huge__", "__huge__: huge.txt has more than 1,000,000 bytes"),
        ("__circle__", "__circle__: contains itself, or is nested deeper than 50 levels"),
        ("__every__", "{all:a|b}: {all:…} works only in"),
        ("__many__", "__ten__"),
    ],
)
def test_a_prompt_that_cannot_be_chosen_from_is_refused_by_choice_and_check(
    prompt: str, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "prompts"
    for name in ("prompts/deep", "prompts/folder.txt", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside/secret.txt").write_text("secret", encoding="utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "outside/secret.txt")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    texts = {
        "color": "red",
        "deep/wordz": "x",
        "empty": "# x\n\n",
        "latin": "x",
        "broken": "a\nb {c",
        "huge": "x\n" * 500_001,
        "circle": "a __circle__",
        "every": "{all:a|b}",
        "many": "__ten__ " * 10,
        "ten": "__hundred__ " * 10,
        "hundred": "{a|b} " * 10,
    }
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError) as refusal:
        choose(prompt, 7, folder)
    assert str(refusal.value).replace(f"{folder}/", "").startswith(message)
    with pytest.raises(PromptFileError) as located:
        list(checked_entries([Entry(3, "f.jsonl:3", {"prompt": prompt})], [], folder))
    assert str(located.value).startswith("f.jsonl:3: prompt: ")


@given(st.text(st.sampled_from("{}|\\_a:l $2/.#é"), max_size=40), st.integers(0, MAX_SEED))
@settings(max_examples=500, deadline=None)
def test_any_prompt_is_chosen_from_or_refused_as_the_check_says(prompt: str, seed: int) -> None:
    entry = Entry(1, "f:1", {"prompt": prompt})
    good, message = [], ""
    try:
        good = list(checked_entries([entry], []))
    except ConfigError as exc:
        message = str(exc)
    assert good or message.startswith("f:1: prompt: ")
    for variant, _ in good:
        text, choices = choose(variant.layer.values["prompt"], seed, None)
        assert choose(variant.layer.values["prompt"], seed, None) == (text, choices)


# --- the check ----------------------------------------------------------------------------------------------


def checked(text: str, *base: Layer, suffix: str = ".txt") -> list[dict[str, Any]]:
    Path(f"f{suffix}").write_text(text, encoding="utf-8")
    return [entry.layer.values for entry, _ in checked_entries(read_prompts(Path(f"f{suffix}")), base)]


def faults(text: str, *base: Layer, suffix: str = ".txt") -> list[str]:
    with pytest.raises(PromptFileError) as refusal:
        checked(text, *base, suffix=suffix)
    return str(refusal.value).split("\n")


def test_lines_that_are_checked_together_keep_their_own_prompts_and_seeds() -> None:
    Path("f.txt").write_text(
        "a\nb --d 7\nc --n ugly --d 8\nd\ne --d 9 --steps 5\nf --d 10\n", encoding="utf-8"
    )
    configs = [config for _, config in checked_entries(read_prompts(Path("f.txt")), [])]
    assert [(each.prompt, each.negative_prompt, each.seed, each.steps) for each in configs] == [
        ("a", "", None, 20), ("b", "", 7, 20), ("c", "ugly", 8, 20), ("d", "", None, 20), ("e", "", 9, 5),
        ("f", "", 10, 20),
    ]  # fmt: skip
    assert [config.model_fields_set for config in configs[:2]] == [{"prompt"}, {"prompt", "seed"}]


@pytest.mark.parametrize("wrong", ["null", "7", "true"])
def test_a_wrong_value_is_found_beside_a_line_that_has_a_right_one(wrong: str) -> None:
    right = '{"prompt": "a", "negative_prompt": "ugly"}\n'
    assert faults(right + right.replace('"ugly"', wrong) + right, suffix=".jsonl")[0].startswith("f.jsonl:2")
    seeds = '{"prompt": "a", "seed": 1}\n{"prompt": "a", "seed": true}\n{"prompt": "a", "seed": 1.5}\n'
    assert [each.split(":")[1] for each in faults(seeds, suffix=".jsonl")] == ["2", "3"]


def test_entries_that_the_settings_accept_come_out_expanded_and_in_their_order() -> None:
    base = [parse_yaml("steps: 5\nscheduler: ddim", "c.yaml"), parse_override("eta=0.5")]
    assert checked("{all:a|b}\nc --steps 3", *base) == [
        {"prompt": "a"},
        {"prompt": "b"},
        {"prompt": "c", "steps": 3},
    ]


def test_errors_of_reading_and_of_settings_stand_in_the_order_of_the_lines() -> None:
    message = faults(
        "a --steps 0 --n b\nb --zz 3\n{c\nd --scheduler eulr --l 500\n__none__ --w 9\ne\0\n\nf --t 2"
    )
    assert [row.split(": ")[:2] for row in message] == [
        ["f.txt:1:3", "steps"],
        ["f.txt:2:3", "--zz"],
        ["f.txt:3:1", "prompt"],
        ["f.txt:4:3", "scheduler"],
        ["f.txt:4:20", "guidance_scale"],
        ["f.txt:5:10", "width"],
        ["f.txt:5:1", "prompt"],
        ["f.txt:6:2", "byte 73"],
        ["f.txt:8:3", "task.kind"],
    ]
    assert "did you mean 'euler'?" in message[3]


def test_good_entries_come_before_the_errors_are_raised() -> None:
    Path("f.txt").write_text("a\nb --steps 0\nc", encoding="utf-8")
    found = checked_entries(read_prompts(Path("f.txt")), [])
    assert [next(found)[0].line, next(found)[0].line] == [1, 3]
    with pytest.raises(ConfigError):
        next(found)


def test_an_error_of_every_variant_or_of_the_settings_below_is_shown_once() -> None:
    assert len(faults('{"steps": 0, "prompt": "{all:a|b|c}"}', suffix=".jsonl")) == 1
    assert faults("a\nb\nc", parse_override("steps=0"))[0].startswith("--set steps=0: must be ")
    assert len(faults("a\nb\nc", parse_override("steps=0"))) == 1


def test_a_hundred_errors_are_shown_in_order_and_the_rest_are_counted() -> None:
    message = faults("a --steps 0\nb --zz 1\n" * 80)
    assert [row.split(":")[1] for row in message[:100]] == [str(line) for line in range(1, 101)]
    assert message[100:] == ["and 60 more errors"]


@pytest.mark.parametrize(
    ("text", "base", "message"),
    [
        ("--steps 3", "steps: 1", "f.txt:1: prompt: there is none; give one in the line or in the config"),
        (
            "a --image i.png",
            "task: {kind: inpaint, image: x, mask: m}",
            "f.txt:1:3: task.kind: the config asks for inpaint, but ",
        ),
        (
            "a --t 0.01 --image i",
            "steps: 20",
            "f.txt:1:3: task.strength: with strength 0.01, none of 20 steps runs",
        ),
        ("a --w 64", "steps: 20", "f.txt:1:3: width: give both width and height, or neither"),
        ("--steps 3", "prompt: a {b", "c.yaml:1:1: prompt: character 3: the brace is never closed"),
        ("--steps 3", "prompt: '{all:a|b}'", "c.yaml:1:1: prompt: {all:a|b}: {all:…} works only in"),
        ("a --padding 3", "task: {kind: img2img, image: x}", "f.txt:1:3: task.padding: unknown key"),
    ],
)
def test_a_line_is_checked_over_the_settings_below(text: str, base: str, message: str) -> None:
    (row,) = faults(text, parse_yaml(base, "c.yaml"))
    assert row.startswith(message)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("--steps 3", "prompt: a"),
        ("a --t 0.5", "task: {kind: img2img, image: x}"),
        ("a --image i.png --set task.kind=inpaint", "task: {kind: inpaint, image: x, mask: m}"),
        ("a --image i.png --set task.kind=img2img", "task: {kind: inpaint, image: x, mask: m}"),
        ("a --image i.png --mask n.png", "task: {kind: img2img, image: x}"),
        ("a --set task.kind=txt2img", "task: {kind: img2img, image: x}"),
        ("a --w 64", "height: 64"),
    ],
)
def test_a_line_may_complete_the_settings_below(text: str, base: str) -> None:
    assert len(checked(text, parse_yaml(base, "c.yaml"))) == 1


# --- seeds --------------------------------------------------------------------------------------------------


def test_derived_seeds_are_those_of_any_machine_and_version() -> None:
    assert [derived_seed(0, "", 0), derived_seed(7, "a 😀", 0), derived_seed(7, "a 😀", 1)] == [
        3841330442,
        3162454083,
        3162454084,
    ]


@given(st.integers(0, MAX_SEED), st.text(), st.integers(0, 2**32))
def test_a_derived_seed_has_32_bits(base: int, content: str, copy: int) -> None:
    assert 0 <= derived_seed(base, content, copy) < 2**32


def test_moving_inserting_or_deleting_a_line_changes_no_other_derived_seed() -> None:
    def seeds(text: str) -> dict[str, int]:
        return {entry.layer.values["prompt"]: derived_seed(5, entry.content, 0) for entry in entries(text)}

    before = seeds("a --steps 3\nb\nc {x|y} --count 3\n")
    assert len(set(before.values())) == 3
    after = seeds("# new\nc {x|y} --count 4\n\nd\na  --steps 3\t\n")
    assert {prompt: after[prompt] for prompt in after if prompt in before} == {
        p: before[p] for p in before if p != "b"
    }


SEEDS_OF_EQUAL_SETTINGS = {
    "whole floats": ["a --l 7", "a --l 7.0", "a --cfg_scale 7.", "a --set guidance_scale=7.0"],
    "lists of whole floats": ["a --l 7|8.5", "a --l 7.0|8.5"],
    "options": [f"a --set scheduler.options.sample_max_value={value}" for value in ("1", "1.0")],
    "width and height": ["a --w 64 --h 48", "a --height 48 --width 64", "a --size 64x48", "a --size 64X48"],
    "lists of sizes": ["a --size 64x48|72x64", "a --size 64x48|72×64"],
}


@pytest.mark.parametrize("lines", SEEDS_OF_EQUAL_SETTINGS.values(), ids=SEEDS_OF_EQUAL_SETTINGS)
def test_equal_settings_have_equal_derived_seeds_however_they_are_written(lines: list[str]) -> None:
    contents = {entry.content for entry in entries("\n".join(lines))}
    assert len(contents) == 1


def test_equal_settings_have_equal_derived_seeds_in_every_format() -> None:
    csv = "prompt,guidance_scale,size\na,7.0,64x48\n"
    jsonl = '{"prompt": "a", "guidance_scale": 7, "width": 64, "height": 48}'
    yaml = "- {prompt: a, guidance_scale: 7.0, size: 64x48}"
    files = {".csv": csv, ".jsonl": jsonl, ".yaml": yaml, ".txt": "a --l 7 --size 64x48"}
    assert len({entries(text, suffix)[0].content for suffix, text in files.items()}) == 1


@pytest.mark.parametrize(
    ("line", "seed"),
    [
        ("a", 2333636300),
        ("a --l 7", 11646164),
        ("a --l 7.5 --s 20", 3883818675),
        ("a --w 64 --h 48", 1518323419),
        ("a --size 64x48|72x64", 4127185008),
        ('a --n "b 7.0" --image i.png --t 0.5 --count 3', 979208866),
    ],
)
def test_derived_seeds_of_lines_of_earlier_versions_stay(line: str, seed: int) -> None:
    """The seeds are those of the version in which `7.0` and `7` still had different ones."""
    (entry,) = entries(line)
    assert derived_seed(7, entry.content, 0) == seed


def test_no_two_copies_of_a_line_have_the_same_derived_seed() -> None:
    assert len({derived_seed(1, "a", copy) for copy in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    ("mode", "seed"), [("derived", derived_seed(10, "a", 2)), ("increment", 17), ("same", 12)]
)
def test_the_modes_of_seeds(mode: Seeds, seed: int) -> None:
    assert seed_for(mode, 10, 7, "a", 2) == seed


@pytest.mark.parametrize("mode", ["increment", "same"])
def test_seeds_past_the_last_one_are_refused(mode: Seeds) -> None:
    assert seed_for(mode, MAX_SEED, 0, "a", 0) == MAX_SEED
    with pytest.raises(ConfigError, match=f"^seed: {mode} seeds from .* give a smaller base seed"):
        seed_for(mode, MAX_SEED, 1, "a", 1)


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys, sdapp.prompts.variants\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
