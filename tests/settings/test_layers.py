from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdapp.config import read_config_file, read_override
from sdapp.errors import ConfigError, MissingInputError
from sdapp.settings.files import Document, parse_override, parse_yaml
from sdapp.settings.layers import Layer, merge, override
from sdapp.validation import validate

CASES = Path(__file__).parents[1] / "cases"
NO_ALIAS = "anchors and aliases (& and *) are not allowed; write the value out"
NO_MERGE = "a key must be plain text; merge keys (<<) are not allowed, use extends"


def nested(levels: int) -> str:
    return "a: " + "[" * (levels - 1) + "]" * (levels - 1)


def write(folder: Path, **files: str) -> Path:
    """Write `<name>.yaml` files; the first is the one to read."""
    for name, text in files.items():
        folder.joinpath(f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


# --- the guard ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: &x 1\nb: *x", [f"f:1:4: {NO_ALIAS}", f"f:2:4: {NO_ALIAS}"]),
        ("a: &x [1]", [f"f:1:4: {NO_ALIAS}"]),
        ("<<: {a: 1}", [f"f:1:1: {NO_MERGE}"]),
        ("? [a]\n: b", [f"f:1:3: {NO_MERGE}"]),
        ("a:\n  b: !!python/name:os.system x",
         ["f:2:6: tags ('tag:yaml.org,2002:python/name:os.system') are not allowed; write a plain value"]),
        ("a: !!str 1", ["f:1:4: tags ('tag:yaml.org,2002:str') are not allowed; write a plain value"]),
        ("a: !mine {}", ["f:1:4: tags ('!mine') are not allowed; write a plain value"]),
        ("a: 1\nb: 2\na: 3", ["f:3:1: a: given twice, first in line 1; keep one"]),
        ("a:\n  b: 1\n  b: 1", ["f:3:3: a.b: given twice, first in line 2; keep one"]),
        ("a: 1\na: 2\nb: {c: 1, c: 2}\n<<: {}",
         ["f:2:1: a: given twice, first in line 1; keep one", "f:3:11: b.c: given twice, first in line 3; keep one",
          f"f:4:1: {NO_MERGE}"]),
        (nested(21), ["f:1:23: nested deeper than 20 levels"]),
        (nested(100_000), ["f:1:23: nested deeper than 20 levels"]),
        ("a: 1\nb: x: y", ["f:2:5: not YAML: mapping values are not allowed here"]),
        ("a: 1\n---\nb: 2", ["f:2:1: not YAML: but found another document"]),
        ("- 1", ["f:1:1: a config is a mapping of `key: value` lines, this is a list"]),
        ("just text", ["f:1:1: a config is a mapping of `key: value` lines, this is a str"]),
    ],
)  # fmt: skip
def test_the_guard_refuses_tricks_and_names_every_place(text: str, lines: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_yaml(text, "f")
    assert str(refusal.value).split("\n") == lines


@pytest.mark.parametrize(
    "text", ["a: \x07", 'a: "\\q"', "a: [", "a: !a%0Ab x", '"a\\nb": 1\n"a\\nb": 2', "a: \t- b"]
)
def test_every_line_of_a_complaint_names_the_file(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_yaml(text, "f.yaml")
    assert all(line.startswith("f.yaml:") for line in str(refusal.value).splitlines())


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("true", True), ("False", False), ("null", None),
        ("~", None), ("", None), ("010", 10), ("-7", -7), ("1e-5", 1e-5), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5),
        ("+1.5E+2", 150.0), ("1:30", "1:30"), ("2001-01-01", "2001-01-01"), ("1_000", "1_000"), ("'10'", "10"),
        ('"true"', "true"), ("9223372036854775808", 2**63), ("1.2.3", "1.2.3"), ("a # a comment", "a"), ("a#b", "a#b"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(scalar: str, value: object) -> None:
    read = parse_yaml(f"a: {scalar}", "f").values["a"]
    assert (read, type(read)) == (value, type(value))


def test_a_number_of_thousands_of_digits_is_text() -> None:
    assert parse_yaml(f"seed: {'1' * 5000}", "f").values == {"seed": "1" * 5000}


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}"])
def test_an_empty_text_is_an_empty_config(text: str) -> None:
    assert parse_yaml(text, "f").values == {}


def test_twenty_levels_are_allowed() -> None:
    assert parse_yaml(nested(20), "f").values["a"]


def test_every_value_knows_its_place() -> None:
    origins = parse_yaml("steps: 3\nmemory:\n  offload: model\nscheduler: {name: ddim}\n", "f").origins
    assert origins == {
        "": "f:1:1", "steps": "f:1:1", "memory": "f:2:1", "memory.offload": "f:3:3", "scheduler": "f:4:1",
        "scheduler.name": "f:4:13",
    }  # fmt: skip


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: " + b"x" * 1_000_000, "1,000,003 bytes; a config has at most 1,000,000"),
        (b"a: caf\xe9", "byte 6: not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_too_large_or_in_another_encoding_is_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as refusal:
        read_config_file(file)
    assert str(refusal.value) == f"{file}: {message}"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("steps: 3", encoding="utf-8-sig")
    assert read_config_file(file)[0].values == {"steps": 3}


def test_a_config_lies_over_what_it_extends(tmp_path: Path) -> None:
    file = write(tmp_path, top="extends: middle.yaml\nsteps: 3", middle="extends: base.yaml\nsteps: 2\neta: 2",
                 base="steps: 1\neta: 1\nseed: 1")  # fmt: skip
    merged = merge(read_config_file(file))
    assert merged.values == {"steps": 3, "eta": 2, "seed": 1}
    assert merged.origins["eta"] == f"{tmp_path}/middle.yaml:3:1"


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"a": "extends: a.yaml"}, ConfigError, "extends goes in a circle"),
        ({"a": "extends: b.yaml", "b": "extends: ./a.yaml"}, ConfigError, "extends goes in a circle"),
        (
            {f"f{i}": f"extends: f{i + 1}.yaml" for i in range(11)},
            ConfigError,
            "extends more than 10 files in a row",
        ),
        ({"a": "steps: 1\nextends: none.yaml"}, MissingInputError, "a.yaml:2:1: extends: "),
        ({"a": "extends: ."}, MissingInputError, "cannot read the config: Is a directory"),
        ({"a": "extends: [b.yaml]", "b": ""}, ConfigError, "a.yaml:1:1: extends: give one file name"),
        ({"a": "extends: ''"}, ConfigError, "a.yaml:1:1: extends: "),
        ({"a": 'extends: "a\\0b"'}, ConfigError, "a.yaml:1:1: extends: "),
    ],
)
def test_extends_that_leads_nowhere_is_refused(
    files: dict[str, str], error: type, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as refusal:
        read_config_file(write(tmp_path, **files))
    assert message in str(refusal.value)


def test_a_missing_config_is_named() -> None:
    with pytest.raises(MissingInputError, match=r"^none\.yaml: no such config; presets: "):
        read_config_file(Path("none.yaml"))


def test_relative_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(
        tmp_path / "deep",
        base="model: ./model\ntask: {kind: inpaint, image: in.png, mask: /abs/m.png}\noutput: {dir: out}",
    )
    merged = merge(read_config_file(write(tmp_path, top="extends: deep/base.yaml\noutput: {dir: ../mine}")))
    assert merged.values == {
        "model": f"{tmp_path}/deep/./model",
        "task": {"kind": "inpaint", "image": f"{tmp_path}/deep/in.png", "mask": "/abs/m.png"},
        "output": {"dir": f"{tmp_path}/../mine"},
    }


def test_a_model_with_no_dot_in_front_is_a_name_and_stays() -> None:
    assert merge([parse_yaml("model: org/name", "f")]).values["model"] == "org/name"


def test_a_relative_model_never_turns_into_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(), here="model: ./org/name")
    assert read_config_file(Path("here.yaml"))[0].values["model"].startswith((".", "/"))


def test_an_empty_path_does_not_turn_into_the_folder_of_the_config(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path, top="output: {dir: ''}"))[0].values["output"]["dir"] == ""


# --- overrides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps=30", {"steps": 30}),
        ("memory.offload=model", {"memory": {"offload": "model"}}),
        ("scheduler.options.use_karras_sigmas=true", {"scheduler": {"options": {"use_karras_sigmas": True}}}),
        ("prompt=1 + 1 = 2", {"prompt": "1 + 1 = 2"}),
        ("prompt=", {"prompt": None}),
        ("scheduler={name: ddim}", {"scheduler": {"name": "ddim"}}),
    ],
)
def test_an_override_is_one_value_read_as_yaml(text: str, values: dict[str, object]) -> None:
    layer = parse_override(text)
    assert (layer.values, layer.origins) == (values, {text.partition("=")[0]: f"--set {text}"})


@pytest.mark.parametrize("text", ["steps", "=3", "a b=3", ".a=3", "a.=3", "task.0=3"])
def test_an_override_without_a_key_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_override(text)
    assert str(refusal.value).startswith(f"--set {text}:")


@pytest.mark.parametrize(
    "value", ["a cat: the film", "house #7", "a\nsteps: 3", "[1", "&x 1", "!!str 1", "*x", "7 cats", "no"]
)
def test_an_override_that_is_no_plain_yaml_is_the_text_that_it_is(value: str) -> None:
    assert parse_override(f"prompt={value}").values == {"prompt": value}


# --- text that YAML takes for something else ----------------------------------------------------------------------

TAKEN = [
    "{a|b} house", "a: b", "a cat #7", "{a house|a tree}", "{a, b}", "*star", "&x y", "!x", "@x", "`x", "%x", "[a] b",
    "- a", "| a", "> a", "? a", "{{a}} b", "a cat, (hat:1.2): x", "[a",
]  # fmt: skip


@pytest.mark.parametrize("text", [*TAKEN, "#7", "#7, tree"])
@pytest.mark.parametrize("key", ["prompt", "negative_prompt"])
def test_text_that_yaml_takes_for_something_else_is_refused_with_the_line_in_quotes(
    key: str, text: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_yaml(f"steps: 3\n{key}: {text}\nseed: 1\n", "f")
    (error,) = str(refusal.value).splitlines()
    place, line = error.split("; if this is text, put it in quotes: ")
    assert place.startswith(("f:2:", "f:3:"))
    assert parse_yaml(line, "f").values == {key: text}


@pytest.mark.parametrize("text", TAKEN)
def test_a_list_of_prompts_is_checked_in_the_same_way(text: str) -> None:
    document = Document(f"- a house\n- {text}\n- prompt: {text}\n", "f")
    assert document.read() is None or document.errors
    line = document.errors[0].rpartition("quotes: ")[2]
    assert Document(line, "f").read() in ([text], [{"prompt": text}])


def test_the_unquoted_lines_of_a_prompt_file_are_named(sdapp: Callable[..., Any]) -> None:
    result = sdapp("batch", CASES / "30-yaml-braces" / "a.yaml", "--dry-run")
    assert result.exit_code == 2
    quoted = ['- "{a house|a tree}"', '- prompt: "{a house|a tree}"']
    assert [line.rpartition("quotes: ")[2] for line in result.stderr.splitlines()] == quoted


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("prompt: no", "no"),
        ("prompt: off", "off"),
        ("prompt: a cat # my best", "a cat"),
        ("prompt: '#7'", "#7"),
        ("prompt: a|b", "a|b"),
        ("prompt: a#7", "a#7"),
        ("prompt:", None),
        ("steps: 3 #7", None),
    ],
)
def test_what_is_plain_stays_plain(line: str, value: str | None) -> None:
    assert parse_yaml(line, "f").values.get("prompt") == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prompt: 7", 'must be text, not 7; put it in quotes: prompt: "7"'),
        ("prompt: true", 'must be text, not True; put it in quotes: prompt: "true"'),
        ('model: [" \\x85"]', r"must be text, not [' \x85']"),
        ("prompt: {a: b}", "must be text, not {'a': 'b'}; put it in quotes: prompt: \"{a: b}\""),
        ("prompt: [a: 1]", "must be text, not [{'a': 1}]; put it in quotes: prompt: \"[{a: 1}]\""),
        ("negative_prompt:", 'must be text, not null; write "" for none'),
    ],
)
def test_what_is_no_text_is_refused_with_the_way_out(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        validate(parse_yaml(line, "f"))
    assert str(refusal.value).endswith(message)


def test_what_is_no_prompt_is_not_called_text() -> None:
    for text in ("steps: [1, 2", "steps: 3\n  prompt: x", "a: 1\n- b"):
        with pytest.raises(ConfigError) as refusal:
            parse_yaml(text, "f")
        assert "quotes" not in str(refusal.value)


@pytest.mark.parametrize("key", ["prompt", "negative_prompt", "output.name", "output.dir", "task.image"])
@pytest.mark.parametrize(
    "text", ["#7, tree", "7", "true", "null", "", "{a|b}", "{a: b}", "[a]", "a: b", '"a" b', '"']
)
def test_an_override_of_a_text_is_that_text(key: str, text: str) -> None:
    values: Any = read_override(f"{key}={text}").values
    for part in key.split("."):
        values = values[part]
    assert values == text


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('prompt="7"', {"prompt": "7"}),
        ("prompt='it''s'", {"prompt": "it's"}),
        ("vae=null", {"vae": None}),
        ("model=7", {"model": "7"}),
        ("revision=123", {"revision": "123"}),
        ("scheduler={name: ddim}", {"scheduler": {"name": "ddim"}}),
        ("steps=7", {"steps": 7}),
    ],
)
def test_an_override_knows_what_its_key_takes(text: str, values: dict[str, object]) -> None:
    assert read_override(text).values == values


# --- laying one over the other ------------------------------------------------------------------------------------

DDIM = {"scheduler": {"name": "ddim", "options": {"steps_offset": 0}}}
INPAINT = {"task": {"kind": "inpaint", "image": "i", "mask": "m", "strength": 0.5}}


@pytest.mark.parametrize(
    ("below", "over", "values"),
    [
        ({"steps": 1, "seed": 1}, {"steps": 2}, {"steps": 2, "seed": 1}),
        ({"steps": 1}, {"steps": None}, {"steps": None}),
        ({"memory": {"offload": "model", "vae_tiling": True}}, {"memory": {"offload": "none"}},
         {"memory": {"offload": "none", "vae_tiling": True}}),
        (DDIM, {"scheduler": "euler"}, {"scheduler": "euler"}),
        (DDIM, {"scheduler": {"name": "euler"}}, {"scheduler": {"name": "euler"}}),
        (DDIM, {"scheduler": {"options": {"clip_sample": True}}},
         {"scheduler": {"name": "ddim", "options": {"steps_offset": 0, "clip_sample": True}}}),
        ({"scheduler": "ddim"}, {"scheduler": {"options": {"steps_offset": 0}}}, DDIM),
        (INPAINT, {"task": {"kind": "img2img", "image": "j"}}, {"task": {"kind": "img2img", "image": "j"}}),
        (INPAINT, {"task": {"kind": "inpaint", "image": "j"}},
         {"task": {"kind": "inpaint", "image": "j", "mask": "m", "strength": 0.5}}),
        (INPAINT, {"task": {"strength": 1}}, {"task": {"kind": "inpaint", "image": "i", "mask": "m", "strength": 1}}),
        # `--set task.padding=8` stands before the command's own `task.kind`
        ({"task": {"padding": 8}}, {"task": {"kind": "inpaint"}}, {"task": {"kind": "inpaint", "padding": 8}}),
    ],
)  # fmt: skip
def test_a_later_layer_wins_and_drops_what_belonged_to_the_old_choice(
    below: dict[str, object], over: dict[str, object], values: dict[str, object]
) -> None:
    assert merge([Layer(below), Layer(over)]).values == values


def test_an_option_set_over_a_scheduler_given_as_text_keeps_both_places() -> None:
    merged = merge([parse_yaml("scheduler: ddim", "f"), parse_override("scheduler.options.steps_offset=0")])
    assert merged.values == DDIM
    assert merged.origins["scheduler"] == "f:1:1"
    assert merged.origins["scheduler.options.steps_offset"] == "--set scheduler.options.steps_offset=0"


def test_what_is_dropped_leaves_no_origin_behind() -> None:
    merged = merge(
        [
            parse_yaml("scheduler: {name: ddim, options: {steps_offset: 0}}", "f"),
            override("scheduler", "pndm", "--x"),
        ]
    )
    assert {key: said for key, said in merged.origins.items() if key.startswith("scheduler")} == {
        "scheduler": "--x"
    }


def test_laying_layers_changes_none_of_them() -> None:
    below, over = Layer({"memory": {"offload": "none"}}), Layer({"memory": {"vae_tiling": True}})
    merge([below, over])
    assert (below.values, over.values) == ({"memory": {"offload": "none"}}, {"memory": {"vae_tiling": True}})
