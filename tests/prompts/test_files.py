import csv
import io
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdapp.errors import ConfigError, MissingInputError
from sdapp.prompts.files import READERS, YAML_BREAKS, Entry, read_prompts
from sdapp.prompts.lines import FORBIDDEN, MAX_LINE, SPACES, PromptFileError
from sdapp.prompts.txt import INFOTEXT_REFUSED
from sdapp.settings.types import MAX_SEED


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, so that files are named as they are written here."""
    monkeypatch.chdir(tmp_path)


def entries(data: str | bytes, suffix: str = ".txt") -> list[Entry]:
    file = Path(f"f{suffix}")
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_prompts(file))


def values(data: str | bytes, suffix: str = ".txt") -> list[dict[str, Any]]:
    return [entry.layer.values for entry in entries(data, suffix)]


def refusals(data: str | bytes, suffix: str = ".txt") -> list[str]:
    with pytest.raises(PromptFileError) as refusal:
        entries(data, suffix)
    return str(refusal.value).split("\n")


# --- odd files: the exact prompts, or a located error -------------------------------------------------------

PROMPTS: dict[str, tuple[str, str | bytes, list[str]]] = {
    "empty": (".txt", b"", []),
    "nothing but a byte order mark": (".txt", b"\xef\xbb\xbf", []),
    "nothing but comments": (".txt", "# a\n  # b\n\t#c", []),
    "blank lines": (".txt", "\n \n\t\na\n\n\nb\n", ["a", "b"]),
    "byte order mark": (".txt", b"\xef\xbb\xbfa\nb", ["a", "b"]),
    "byte order mark before a comment": (".txt", b"\xef\xbb\xbf# a\nb", ["b"]),
    "carriage returns": (".txt", b"a\r\nb\r\n\r\nc\r\n", ["a", "b", "c"]),
    "mixed line ends and none at the end": (".txt", b"a\r\nb\nc", ["a", "b", "c"]),
    "line separator": (".txt", "a\u2028b\u2029c\nd", ["a\u2028b\u2029c", "d"]),
    "emoji": (".txt", "a 👩‍👩‍👧 and a 🏳️‍🌈\n日本の家", ["a 👩‍👩‍👧 and a 🏳️‍🌈", "日本の家"]),
    "right to left": (".txt", "בית אדום\u200f", ["בית אדום\u200f"]),
    "apostrophes": (
        ".txt",
        "a cat's eye\nthe cats' house\n'quoted'",
        ["a cat's eye", "the cats' house", "'quoted'"],
    ),
    "apostrophe before an option": (".txt", "a cat's eye --n dog's", ["a cat's eye"]),
    "one double quote": (".txt", 'a 12" record', ['a 12" record']),
    "double quotes around a line": (".txt", '"a house" by the sea', ['"a house" by the sea']),
    "tabs": (".txt", "\ta\tb\t", ["a\tb"]),
    "leading dashes": (".txt", "- a\n-- b\n--- c\n-5\n--5", ["- a", "-- b", "--- c", "-5", "--5"]),
    "dashes inside": (
        ".txt",
        "a well--known house -- red --\nx--steps 3",
        ["a well--known house -- red --", "x--steps 3"],
    ),
    "hash inside": (".txt", "house #7", ["house #7"]),
    "hash in front by option": (".txt", '--prompt "#7 house"', ["#7 house"]),
    "dashes of sentences": (
        ".txt",
        "a house — steps to the sea –\na — b —l'eau",
        ["a house — steps to the sea –", "a — b —l'eau"],
    ),
    "nothing but odd spaces": (".txt", "\u200b\n\u3000\u00a0# a\nb\u3000", ["b\u3000"]),
    "single quotes in front": (".txt", "'tis a house --n x", ["'tis a house"]),
    "single quotes around values": (
        ".txt",
        "--prompt 'a cat's \"eye\"' --n ''\n--prompt 'tis\n--prompt '80s --n b",
        ['a cat\'s "eye"', "'tis", "'80s"],
    ),
    "backslashes": (".txt", r"d.va \(overwatch\) C:\new", [r"d.va \(overwatch\) C:\new"]),
    "quoted prompt with options inside": (
        ".txt",
        r'--prompt "a \"b\" --steps 3 \\ c" --steps 4',
        [r'a "b" --steps 3 \ c'],
    ),
    "html, percent and dollar": (".txt", "<b>&amp;</b> %s $HOME `ls`", ["<b>&amp;</b> %s $HOME `ls`"]),
    "a line of 1 MB": (".txt", b"x" * MAX_LINE + b"\r\ny", ["x" * MAX_LINE, "y"]),
    "a line of 1 MB after a byte order mark": (".txt", b"\xef\xbb\xbf" + b"x" * MAX_LINE, ["x" * MAX_LINE]),
    "csv with quotes, commas and lines in cells": (
        ".csv",
        'prompt,steps\r\n"a ""b"", c",3\r\n"d\r\ne",\r\n\r\n# f,4\r\n',
        ['a "b", c', "d\ne", "# f"],
    ),
    "csv with empty rows above": (".csv", ",,\n\nprompt,steps,,\na,1\nb,1,,\n\u00a0,,,\n", ["a", "b"]),
    "csv with two indexes of pandas": (".csv", ",Unnamed: 0,prompt\n0,7,a\n1,8,b\n", ["a", "b"]),
    "csv with tabs": (".csv", "prompt\tsteps\na; b, c\t3", ["a; b, c"]),
    "csv with odd spaces in cells": (".csv", " prompt\u200b,steps\na,\u00a03\u00a0\n", ["a"]),
    "tsv with semicolons": (".tsv", "sep=;\nprompt;steps\na\tb;3\n", ["a\tb"]),
    "csv with a header alone": (".csv", "prompt,steps\n", []),
    "csv that is empty": (".csv", "", []),
    "csv with a byte order mark": (".csv", b"\xef\xbb\xbfprompt\na\n", ["a"]),
    "tsv with commas": (".tsv", "prompt\tsteps\na, b\t3\n", ["a, b"]),
    "jsonl with blank lines and texts": (".jsonl", '{"prompt": "a"}\r\n\r\n"b"\n', ["a", "b"]),
    "jsonl with lines and emoji in a text": (".jsonl", r'"a\nb \ud83d\ude00"', ["a\nb 😀"]),
    "jsonl with a raw line separator": (".jsonl", '"a\u2028b"', ["a\u2028b"]),
    "yaml of both kinds": (".yaml", "# c\n- a\n- prompt: 'b: c'\n- |\n  d\n  e\n", ["a", "b: c", "d\ne\n"]),
    "yaml that is empty": (".yml", "# nothing\n", []),
    "yaml in flow style": (".yaml", '["a", {prompt: "{b|c}"}]', ["a", "{b|c}"]),
}


@pytest.mark.parametrize(("suffix", "data", "prompts"), PROMPTS.values(), ids=PROMPTS)
def test_an_odd_file_gives_the_exact_prompts(suffix: str, data: str | bytes, prompts: list[str]) -> None:
    assert [found["prompt"] for found in values(data, suffix)] == prompts


REFUSED: dict[str, tuple[str, str | bytes, list[str]]] = {
    "NUL": (".txt", b"a\nb\0c", ["f.txt:2:2: byte 3: U+0000 is not allowed"]),
    "escape": (".txt", b"\x1b[31mred", ["f.txt:1:1: byte 0: U+001B is not allowed"]),
    "vertical tab": (
        ".txt",
        "é\vb",
        ["f.txt:1:2: byte 2: U+000B is not allowed; lines end with \\n or \\r\\n"],
    ),
    "next line": (
        ".txt",
        "a\x85b",
        ["f.txt:1:2: byte 1: U+0085 is not allowed; lines end with \\n or \\r\\n"],
    ),
    "old Mac line ends": (
        ".txt",
        b"a\rb\r",
        ["f.txt:1:2: byte 1: U+000D is not allowed; lines end with \\n or \\r\\n"],
    ),
    "byte order mark in the middle": (
        ".txt",
        b"a\n\xef\xbb\xbfb",
        ["f.txt:2:1: byte 2: U+FEFF is not allowed"],
    ),
    "Latin-1": (
        ".txt",
        b"\xef\xbb\xbfa\ncaf\xe9\nb",
        ["f.txt:2: byte 8: not UTF-8 (0xe9); save the file as UTF-8"],
    ),
    "UTF-16": (".txt", "a".encode("utf-16"), ["f.txt:1: byte 0: not UTF-8 (0xff); save the file as UTF-8"]),
    "a surrogate as bytes": (
        ".txt",
        b"a \xed\xa0\x80",
        ["f.txt:1: byte 2: not UTF-8 (0xed); save the file as UTF-8"],
    ),
    "a letter cut in half": (
        ".txt",
        b"a\xf0\x9f\x98",
        ["f.txt:1: byte 1: not UTF-8 (0xf0); save the file as UTF-8"],
    ),
    "a line over 1 MB": (
        ".txt",
        b"a\n" + b"x" * (MAX_LINE + 1) + b"\n\xff\n",
        [
            "f.txt:2: byte 2: a line has at most 1,000,000 bytes",
            f"f.txt:3: byte {MAX_LINE + 4}: not UTF-8 (0xff); save the file as UTF-8",
        ],
    ),
    "several": (
        ".txt",
        b"\0\nb\n\xff",
        [
            "f.txt:1:1: byte 0: U+0000 is not allowed",
            "f.txt:3: byte 4: not UTF-8 (0xff); save the file as UTF-8",
        ],
    ),
    "a quote that is never closed": (
        ".txt",
        'a --n "b',
        ['f.txt:1:3: --n: the double quote is never closed; write "\\"…" if the value begins with a quote'],
    ),
    "text after a quote": (
        ".txt",
        'a --n "b" c --steps 3',
        [
            'f.txt:1:3: --n: text after the closing quote; put "…" around the whole value, with \\" for a quote in it'
        ],
    ),
    "an option between single quotes": (
        ".txt",
        "--prompt '80s --n the dogs'",
        ["f.txt:1:1: --prompt: an option between single quotes; put double quotes around the value"],
    ),
    "curly quotes": (
        ".txt",
        "a --n “b, c” --steps 3\nb --n ‘c’\nc --n d —steps 4",
        [
            'f.txt:1:3: --n: “ is no quote that sdapp reads; write "…" around the value',
            'f.txt:2:3: --n: ‘ is no quote that sdapp reads; write "…" around the value',
            "f.txt:3:9: U+2014 (em dash) is not a hyphen; write --steps, or put a space after the dash if it belongs to the text",
        ],
    ),
    "infotext beside an image": (
        ".txt",
        "a house\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 1",
        [f"f.txt:2: {INFOTEXT_REFUSED}", f"f.txt:3: {INFOTEXT_REFUSED}"],
    ),
    "csv with cells in a column without a name": (
        ".csv",
        "prompt,,steps\na,,3\nb,7,3\nc,3\nd,,3,x",
        [
            "f.csv:3: '7' is in a column without a name; name the column in the header",
            "f.csv:4: 2 cells, but the header has 3; a cell is missing; an empty one needs its ',' too",
            "f.csv:5: 4 cells, but the header has 3; put double quotes around a cell that contains ',' or a quote",
        ],
    ),
    "csv with a number in a column without a name behind an index": (
        ".csv",
        ",prompt,,steps\n0,a,7,3\n",
        ["f.csv:2: '7' is in a column without a name; name the column in the header"],
    ),
    "csv without a header": (
        ".csv",
        "a red house,20\na cat,30\n",
        [
            "f.csv:1: no column is a setting; the first line names the columns, such as prompt,seed,steps; "
            "the lines below it were not checked"
        ],
    ),
    "options without values": (
        ".txt",
        "a --n --steps",
        [
            'f.txt:1:3: --n: needs a value; write "" for an empty one',
            'f.txt:1:7: --steps: needs a value; write "" for an empty one',
        ],
    ),
    "csv with a broken quote": (
        ".csv",
        'prompt,steps\na,1\n"b" c,2\nd,3',
        ["f.csv:3: ',' expected after '\"'; the lines below it were not checked"],
    ),
    "csv with a quote that is never closed": (
        ".csv",
        'prompt\na\n"b\nc\n',
        ["f.csv:3: unexpected end of data; the lines below it were not checked"],
    ),
    "csv with too many cells": (
        ".csv",
        "prompt,steps\na, b,3\n",
        [
            "f.csv:2: 3 cells, but the header has 2; "
            "put double quotes around a cell that contains ',' or a quote"
        ],
    ),
    "csv with too few cells": (
        ".csv",
        'prompt,steps\n"x\ny",1\na\n',
        [
            "f.csv:4: 1 cells, but the header has 2; a cell is missing; an empty one needs its ',' too",
        ],
    ),
    "csv with a column twice": (
        ".csv",
        "prompt,steps,Steps\na,1,2",
        ["f.csv:1: Steps: is a second column for steps; keep one; the lines below it were not checked"],
    ),
    "csv with a column twice by an alias": (
        ".csv",
        "cfg_scale,guidance_scale\n1,2",
        [
            "f.csv:1: guidance_scale: is a second column for guidance_scale; keep one; the lines below it were not checked"
        ],
    ),
    "csv with bytes that are no text below an error": (
        ".csv",
        b'prompt\n"a"b\n\xff\n',
        [
            "f.csv:2: ',' expected after '\"'; the lines below it were not checked",
            "f.csv:3: byte 12: not UTF-8 (0xff); save the file as UTF-8",
        ],
    ),
    "jsonl with a broken line": (
        ".jsonl",
        '"a"\n{"prompt": "b"\n"c"',
        ["f.jsonl:2:15: not JSON: Expecting ',' delimiter"],
    ),
    "jsonl with a key twice": (
        ".jsonl",
        '{"a": 1, "a": 2}',
        ["f.jsonl:1: not JSON: 'a' is given twice; keep one"],
    ),
    "jsonl with NaN": (".jsonl", '{"steps": NaN}', ["f.jsonl:1: not JSON: NaN is not a JSON number"]),
    "jsonl with a number": (
        ".jsonl",
        "7",
        ["f.jsonl:1: an entry is a prompt or a mapping of settings, not 7; put a prompt in quotes"],
    ),
    "jsonl with half a character": (
        ".jsonl",
        r'{"prompt": "\ud83d"}',
        ["f.jsonl:1: prompt: U+D83D is not allowed"],
    ),
    "jsonl nested too deep": (
        ".jsonl",
        '{"steps": ' + "[" * 100_000 + "]" * 100_000 + "}",
        ["f.jsonl:1: nested deeper than 20 levels"],
    ),
    "yaml with an alias": (
        ".yaml",
        "- &a b\n- *a",
        [
            "f.yaml:1:3: anchors and aliases (& and *) are not allowed; write the value out; "
            'if this is text, put it in quotes: - "&a b"',
            "f.yaml:2:3: anchors and aliases (& and *) are not allowed; write the value out; "
            'if this is text, put it in quotes: - "*a"',
        ],
    ),
    "yaml that is a mapping": (
        ".yaml",
        "prompt: a",
        ["f.yaml:1:1: a prompt file is a list; begin each entry with `- `"],
    ),
    "yaml with a line separator": (
        ".yaml",
        "- a\u2028b",
        ['f.yaml:1:4: U+2028 ends a line in YAML; write "\\u2028"'],
    ),
    "yaml with a list in the list": (
        ".yaml",
        "- [a]\n- 7\n-",
        [
            "f.yaml:1:3: an entry is a prompt or a mapping of settings, not ['a']; put a prompt in quotes",
            "f.yaml:2:3: an entry is a prompt or a mapping of settings, not 7; put a prompt in quotes",
            "f.yaml:3:2: an entry is a prompt or a mapping of settings, not None; put a prompt in quotes",
        ],
    ),
    "yaml too large": (
        ".yaml",
        "- a\n" * 250_001,
        ["f.yaml:250001: a YAML file has at most 1,000,000 bytes, because it is read at once; use .jsonl"],
    ),
}


@pytest.mark.parametrize(("suffix", "data", "lines"), REFUSED.values(), ids=REFUSED)
def test_an_odd_file_is_refused_at_the_place(suffix: str, data: str | bytes, lines: list[str]) -> None:
    assert refusals(data, suffix) == lines


SIGNS = [
    "a",
    "--steps",
    "--n",
    '"',
    "\\",
    "{",
    "}",
    "|",
    ",",
    "3",
    "--set",
    "seed=1",
    "task.image",
    "prompt",
    ":",
    "[",
    "\n",
    " ",
]


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(SIGNS), max_size=20).map(lambda signs: "".join(signs).encode()),
    st.sampled_from(list(READERS)),
)
@settings(max_examples=1000, deadline=None)
def test_any_bytes_are_entries_or_located_errors(data: bytes, suffix: str) -> None:
    message = ""
    try:
        entries(data, suffix)
    except ConfigError as exc:
        message = str(exc)
    assert all(row.startswith(f"f{suffix}:") for row in message.split("\n") if message)


# --- a file gives what it was made from ---------------------------------------------------------------------

TEXT = st.text(max_size=12) | st.lists(
    st.sampled_from(
        ["a", " ", "\u3000", "--n", "—", "'", '"', "\\", ",", ";", "\t", "{a|b}", "__c__", "#", "\n"]
    ),
    max_size=8,
).map("".join)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": TEXT.filter(lambda text: text.strip(SPACES)),
            "negative_prompt": TEXT.map(lambda text: text if text.strip(SPACES) else ""),
        },
        optional={"steps": st.integers(1, 99), "seed": st.integers(0, MAX_SEED), "eta": st.floats(0, 1)},
    ),
    max_size=5,
)


def write_txt(records: list[dict[str, Any]], quote: str) -> str:
    """As A1111 has it, or with the prompt in front, which then is nothing but words."""

    def value(text: Any) -> str:
        if isinstance(text, str) and quote == "'" and not re.search(rf"'([{SPACES}]|$)|[{SPACES}]?--", text):
            return f"'{text}'"
        return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"' if isinstance(text, str) else str(text)

    rows = (" ".join(f"--{key} {value(text)}" for key, text in record.items()) for record in records)
    return "\ufeff" + "\r\n\u200b\r\n".join(rows)


def write_csv(records: list[dict[str, Any]], delimiter: str, *, says: bool) -> str:
    """As spreadsheets and pandas have it: a nameless index, an empty row and an empty column."""
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter)
    names = ("prompt", "negative_prompt", "steps", "seed", "eta")
    table.writerow(["", *names, ""])
    for number, record in enumerate(records):
        whole = [float(record[key]) if key == "steps" and key in record else record.get(key) for key in names]
        table.writerow([number, *whole, ""])
        table.writerow([""] * 7)
    return "\ufeff" + (f"sep={delimiter}\r\n" if says else "") + text.getvalue()


WRITERS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], str]]] = {
    "txt in double quotes": (".txt", lambda records: write_txt(records, '"')),
    "txt in single quotes": (".txt", lambda records: write_txt(records, "'")),
    "csv": (".csv", lambda records: write_csv(records, ",", says=False)),
    "csv with semicolons": (".csv", lambda records: write_csv(records, ";", says=False)),
    "csv that names its delimiter": (".csv", lambda records: write_csv(records, "|", says=True)),
    "tsv": (".tsv", lambda records: write_csv(records, "\t", says=False)),
    "jsonl": (".jsonl", lambda records: "\n".join(map(json.dumps, records))),
    "yaml": (
        ".yaml",
        lambda records: "".join(f"- {json.dumps(record, ensure_ascii=False)}\n" for record in records),
    ),
}


@pytest.mark.parametrize(("suffix", "write"), WRITERS.values(), ids=WRITERS)
@given(records=RECORDS)
@settings(max_examples=60, deadline=None)
def test_a_file_gives_the_settings_that_it_was_made_from(
    suffix: str, write: Callable[[list[dict[str, Any]]], str], records: list[dict[str, Any]]
) -> None:
    """Or a located error, if a text has a character that the format has no room for."""
    texts = "".join(f"{record['prompt']}{record['negative_prompt']}" for record in records)
    assume(suffix != ".txt" or "\n" not in texts)
    refused = FORBIDDEN.search(texts.replace("\n", "")) or YAML_BREAKS.search(texts)
    data, message = write(records).encode("utf-8", "surrogatepass"), ""
    try:
        found = values(data, suffix)
    except ConfigError as exc:
        found, message = [], str(exc)
    assert all(row.startswith(f"f{suffix}:") for row in message.split("\n") if message)
    if not message or not refused:
        assert [{"negative_prompt": "", **each} for each in found] == records


@given(
    st.sampled_from(["a house", "a cat's eye", "“a”", "בית"]),
    st.text(st.sampled_from(SPACES), min_size=1, max_size=3),
    st.text(st.sampled_from("-‐‑‒–—―−ー﹣－"), min_size=1, max_size=2),
    st.sampled_from(["steps", "s", "STEPS"]),
)
def test_an_option_is_read_or_its_dash_is_named_and_never_painted(
    words: str, gap: str, dashes: str, name: str
) -> None:
    line = f"{words}{gap}{dashes}{name}{gap}4"
    if dashes == "-":
        (row,) = refusals(line)
        assert row.startswith(f"f.txt:1:{len(words + gap) + 1}: -{name}: an option has two hyphens; write --")
    elif dashes == "--":
        assert values(line) == [{"prompt": words, "steps": 4}]
    else:
        odd = next(dash for dash in dashes if dash != "-")
        (row,) = refusals(line)
        assert row.startswith(f"f.txt:1:{len(words + gap) + 1}: U+{ord(odd):04X} (")


# --- options of .txt ----------------------------------------------------------------------------------------

INPAINT = {"kind": "inpaint", "image": "i.png", "mask": "m.png"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        # kohya
        (
            "a --n b, c --w 768 --h 512 --s 28 --l 7.5 --t 0.6 --image i.png",
            {
                "negative_prompt": "b, c",
                "width": 768,
                "height": 512,
                "steps": 28,
                "guidance_scale": 7.5,
                "task": {"strength": 0.6, "image": "i.png", "kind": "img2img"},
            },
        ),
        ("a --W 8 --D 5", {"width": 8, "seed": 5}),
        # A1111
        (
            '--prompt "a" --negative_prompt "b --s" --steps 20 --cfg_scale 7 '
            '--sampler_name "Euler a" --seed 1',
            {
                "negative_prompt": "b --s",
                "steps": 20,
                "guidance_scale": 7,
                "scheduler": {"name": "Euler a"},
                "seed": 1,
            },
        ),
        (
            "--prompt a --sampler_name DPM++ 2M Karras --batch_size 2 --n_iter 3",
            {"scheduler": {"name": "DPM++ 2M Karras"}, "count": 6},
        ),
        ("a --batch_size 2", {"count": 2}),
        # sdapp
        (
            "a --negative-prompt b --guidance-scale 3 --scheduler ddim --seed 4 --count 2 --size 64x48",
            {
                "negative_prompt": "b",
                "guidance_scale": 3,
                "scheduler": {"name": "ddim"},
                "seed": 4,
                "count": 2,
                "width": 64,
                "height": 48,
            },
        ),
        (
            "a --image i.png --mask m.png --strength .5 --padding 8",
            {"task": INPAINT | {"strength": 0.5, "padding": 8}},
        ),
        ("a --image i.png --set task.kind=inpaint --set task.mask=m.png", {"task": INPAINT}),
        (
            "a --set eta=0.5 --set scheduler.options.clip_sample=true --scheduler ddim",
            {"eta": 0.5, "scheduler": {"name": "ddim", "options": {"clip_sample": True}}},
        ),
        ("a --steps=30 --n=b", {"steps": 30, "negative_prompt": "b"}),
        ('a --n "" --eta null', {"negative_prompt": "", "eta": None}),
        ("a --n 7", {"negative_prompt": "7"}),
        (r'a --n "\"b\" c" --steps 3', {"negative_prompt": '"b" c', "steps": 3}),
        ("a\t--steps\t3", {"steps": 3}),
        (
            "a --steps 10|20 --size 64x64|72x64",
            {"steps": [10, 20], "size": [{"width": 64, "height": 64}, {"width": 72, "height": 64}]},
        ),
        # what is no number is for the check of the settings to refuse
        ("a --steps many --w 1_000", {"steps": "many", "width": "1_000"}),
    ],
)
def test_options_of_every_dialect_are_settings(line: str, said: dict[str, Any]) -> None:
    assert values(line) == [{"prompt": "a"} | said]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "a --stesp 3",
            "--stesp: unknown option, did you mean --steps? "
            'If it belongs to the prompt, give that as --prompt "…"',
        ),
        ("a --guidence-scale 3", "--guidence-scale: unknown option, did you mean --guidance-scale?"),
        ("a --zz 3", "--zz: unknown option; allowed: --scheduler, --steps, --guidance-scale, "),
        ("a --steps:3", "--steps:3: "),
        ("a --am 0.8,0.5", "--am: sdapp has no weight for all LoRAs"),
        ("a --sd_model x", "--sd_model: the same for the whole file"),
        ("a --batch-size 4", "--batch-size: the same for the whole file"),
        ("a --set output.dir=x", "output.dir: the same for the whole file"),
        ("a --set stepz=3", "stepz: unknown key, did you mean steps?"),
        ("a --set steps", "--set steps: write it as key=value"),
        ("a --steps 3 --s 4", "steps: given twice, as --steps and as --s; keep one"),
        ("a --count 3 --n_iter 4", "count: given twice, as --count and as --n_iter; keep one"),
        ("a --prompt b", "prompt: given twice, as the text in front and as --prompt; keep one"),
        ("a --size 64", "size: write it as WIDTHxHEIGHT in pixels, such as 768x512, not '64'"),
        ("a --size 64x64 --w 64", "size: given twice, as width or height too; keep one"),
        ("a --d 1,x", f"seed: seeds are whole numbers from 0 to {MAX_SEED}, or -1 to draw one, not 'x'"),
        ("a --d 1,-2", f"seed: seeds are whole numbers from 0 to {MAX_SEED}, or -1 to draw one, not -2"),
        (
            f"a --d 1,{MAX_SEED + 1}",
            f"seed: seeds are whole numbers from 0 to {MAX_SEED}, or -1 to draw one, not {MAX_SEED + 1}",
        ),
        ("a --d 1,2 --count 2", "count: the line names 2 seeds, one for each image; leave count out"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(line: str, message: str) -> None:
    (row,) = refusals(line)
    place, _, found = row.partition(": ")
    assert place.rpartition(":")[0] == "f.txt:1"
    assert found.startswith(message)


def test_an_option_is_named_with_its_column_and_every_bad_one_is_shown() -> None:
    assert [row.split(": ")[0] for row in refusals("  a --x1 2 --n b --am 3\n\nb --c 1")] == [
        "f.txt:1:5",
        "f.txt:1:18",
        "f.txt:3:3",
    ]


def test_every_setting_knows_its_place() -> None:
    (entry,) = entries("# c\n  a --n b --image i.png --size 64x64")
    assert entry.line == 2
    assert entry.layer.origins == {
        "prompt": "f.txt:2:3",
        "negative_prompt": "f.txt:2:5",
        "task": "f.txt:2:11",
        "task.image": "f.txt:2:11",
        "width": "f.txt:2:25",
        "height": "f.txt:2:25",
        "size": "f.txt:2:25",
    }


# --- one schema for every format ----------------------------------------------------------------------------

SAME = {
    "prompt": "a",
    "steps": 9,
    "scheduler": {"name": "ddim", "options": {"clip_sample": True}},
    "task": {"image": "i.png", "strength": 0.5, "kind": "img2img"},
}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (
            ".txt",
            "a --steps 9 --scheduler ddim --set scheduler.options.clip_sample=true "
            "--image i.png --strength 0.5",
        ),
        (
            ".csv",
            "prompt,steps,scheduler,scheduler.options.clip_sample,image,task.strength\na,9,ddim,true,i.png,0.5",
        ),
        (
            ".csv",
            "Prompt,Steps,Sampler,scheduler.options.clip_sample,Image,Denoising strength\n"
            "a,9,ddim,true,i.png,0.5",
        ),
        (
            ".tsv",
            "prompt\tsteps\tscheduler.options.clip_sample\tscheduler\timage\tstrength\na\t9\ttrue\tddim\ti.png\t0.5",
        ),
        (
            ".jsonl",
            '{"prompt": "a", "steps": 9, "scheduler": {"name": "ddim", "options": {"clip_sample": true}}, '
            '"task": {"image": "i.png", "strength": 0.5}}',
        ),
        (
            ".yaml",
            "- prompt: a\n  steps: 9\n  scheduler: ddim\n  scheduler.options.clip_sample: true\n"
            "  image: i.png\n  strength: 0.5",
        ),
    ],
)
def test_the_same_line_is_the_same_in_every_format(suffix: str, text: str) -> None:
    (entry,) = entries(text, suffix)
    assert entry.layer.values == SAME
    assert (
        entry.content
        == entries(
            "a --steps 9 --image i.png --t 0.5 --scheduler ddim --set scheduler.options.clip_sample=true"
        )[0].content
    )


@pytest.mark.parametrize(
    ("suffix", "text", "said", "seeds"),
    [
        (".csv", "steps,width,seed,prompt\n10|20,,1|2,a|b", {"steps": [10, 20], "prompt": "a|b"}, (1, 2)),
        (".csv", 'seeds,prompt\n"3,4",a', {"prompt": "a"}, (3, 4)),
        (".csv", "seed,count\n5,2", {"seed": 5, "count": 2}, None),
        (".csv", "prompt,negative_prompt\n10,20", {"prompt": "10", "negative_prompt": "20"}, None),
        (
            ".csv",
            "prompt,scheduler\na,ddim|euler",
            {"prompt": "a", "scheduler": {"name": ["ddim", "euler"]}},
            None,
        ),
        (".jsonl", '{"seed": [1, 2], "steps": [3, 4]}', {"steps": [3, 4]}, (1, 2)),
        (".jsonl", '{"seeds": [7]}', {}, (7,)),
        (
            ".jsonl",
            '{"prompt": ["a", "b"], "image": ["x", "/y"]}',
            {"prompt": ["a", "b"], "task": {"image": ["x", "/y"], "kind": "img2img"}},
            None,
        ),
        (
            ".yaml",
            "- {scheduler: [ddim, {name: euler}], size: 64x48}",
            {"scheduler": ["ddim", {"name": "euler"}], "width": 64, "height": 48},
            None,
        ),
        (".yaml", "- {mask: m}", {"task": {"mask": "m", "kind": "inpaint"}}, None),
        (
            ".yaml",
            "- {task: {kind: txt2img}, steps: null}",
            {"task": {"kind": "txt2img"}, "steps": None},
            None,
        ),
        (".yaml", "- task: img2img\n  image: i", {"task": {"kind": "img2img", "image": "i"}}, None),
    ],
)
def test_lists_numbers_and_seeds_of_tables(
    suffix: str, text: str, said: dict[str, Any], seeds: tuple[int, ...] | None
) -> None:
    (entry,) = entries(text, suffix)
    assert (entry.layer.values, entry.seeds) == (said, seeds)


@pytest.mark.parametrize(
    ("suffix", "text", "lines"),
    [
        (
            ".csv",
            "prompt,stepz\na,3",
            ["f.csv:1: stepz: unknown key, did you mean steps?; the lines below it were not checked"],
        ),
        (
            ".csv",
            "prompt,model,stepz\na,b,",
            [
                "f.csv:1: model: the same for the whole file; give it as an option or in the config",
                "f.csv:1: stepz: unknown key, did you mean steps?; the lines below it were not checked",
            ],
        ),
        (
            ".jsonl",
            '"a"\n{"promt": "b", "Sampler": "x", "extra": 1}',
            ["f.jsonl:2: promt: unknown key, did you mean prompt?"],
        ),
        (
            ".jsonl",
            '{"task.image": "a", "image": "b"}',
            ["f.jsonl:1: task.image: given twice, as task.image and as image; keep one"],
        ),
        (
            ".jsonl",
            '{"task": ["img2img"], "steps": {"a": 1}, "seed": []}',
            [f"f.jsonl:1: seed: seeds are whole numbers from 0 to {MAX_SEED}, or -1 to draw one, not []"],
        ),
        (
            ".jsonl",
            '{"steps": 3, "steps.x": 4}',
            ["f.jsonl:1: steps.x: does not fit with steps, which is given too"],
        ),
        (
            ".jsonl",
            r'{"a\u0007": 1}',
            [r"f.jsonl:1: 'a\x07': keys are plain text and at most 20 levels deep"],
        ),
        (
            ".jsonl",
            '{"seed": [true]}',
            [f"f.jsonl:1: seed: seeds are whole numbers from 0 to {MAX_SEED}, or -1 to draw one, not True"],
        ),
        (
            ".jsonl",
            '{"size": [[64, 64]]}',
            ["f.jsonl:1: size: write it as WIDTHxHEIGHT in pixels, such as 768x512, not "],
        ),
        (
            ".yaml",
            "- prompt: a\n  stepz: 3\n- model: x",
            [
                "f.yaml:2:3: stepz: unknown key, did you mean steps?",
                "f.yaml:3:3: model: the same for the whole file",
            ],
        ),
        (
            ".yaml",
            '- "a\\eb"\n- steps: "\\0"',
            ["f.yaml:1:3: prompt: U+001B is not allowed", "f.yaml:2:3: steps: U+0000 is not allowed"],
        ),
    ],
)
def test_a_bad_setting_of_a_table_is_refused_at_its_place(suffix: str, text: str, lines: list[str]) -> None:
    message = refusals(text, suffix)
    assert len(message) == len(lines)
    assert all(row.startswith(line) for row, line in zip(message, lines, strict=True))


def test_content_leaves_out_seed_count_and_folder() -> None:
    Path("sub").mkdir()
    Path("sub/f.jsonl").write_text('{"image": "i.png", "prompt": "a", "count": 3}', encoding="utf-8")
    (moved,) = read_prompts(Path("sub/f.jsonl"))
    assert moved.layer.values["task"]["image"] == "sub/i.png"
    assert {moved.content} == {
        entry.content for entry in entries("a --image i.png --d 4\na --n_iter 2 --image i.png")
    }


def test_paths_are_relative_to_the_prompt_file_but_for_home_and_root() -> None:
    Path("deep").mkdir()
    Path("deep/f.txt").write_text(
        'a --image ../i.png --mask /m.png\nb --image ~/i.png\nc --image ""', encoding="utf-8"
    )
    tasks = [entry.layer.values["task"] for entry in read_prompts(Path("deep/f.txt"))]
    assert [task["image"] for task in tasks] == ["deep/../i.png", str(Path("~/i.png").expanduser()), ""]
    assert tasks[0]["mask"] == "/m.png"


# --- standard input, missing files, many errors -------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "prompts"),
    [
        (b"a --image i.png\nb", ["a", "b"]),
        (b'{"prompt": "a", "image": "i.png"}\n"b"', ["a", "b"]),
        (b'\xef\xbb\xbf { "prompt" : "a"}', ["a"]),
        (b"{red|blue} house", ["{red|blue} house"]),
        (b"", []),
    ],
)
def test_standard_input_is_lines_or_json_lines(data: bytes, prompts: list[str]) -> None:
    found = [entry.layer.values for entry in read_prompts(None, io.BytesIO(data))]
    assert [values["prompt"] for values in found] == prompts
    assert all(values["task"]["image"] == "i.png" for values in found if "task" in values)


def test_standard_input_is_read_from_sys_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\nb --zz 1")))
    with pytest.raises(ConfigError, match=r"^<stdin>:2:3: --zz: unknown option"):
        list(read_prompts(None))


@pytest.mark.parametrize("name", ["none.txt", "folder.txt"])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    Path("folder.txt").mkdir()
    with pytest.raises(MissingInputError, match="cannot read the prompts"):
        list(read_prompts(Path(name)))


def test_another_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ConfigError,
        match=r"f\.xlsx: not a format for prompt files; allowed: \.txt, \.csv, \.tsv, \.jsonl, \.yaml",
    ):
        entries("a", ".xlsx")
    assert entries("a", ".TXT")


def test_good_lines_come_before_the_errors_are_raised() -> None:
    Path("f.txt").write_text("a\nb --zz 1\nc", encoding="utf-8")
    found = read_prompts(Path("f.txt"))
    assert [next(found).line, next(found).line] == [1, 3]
    with pytest.raises(PromptFileError):
        next(found)


@pytest.mark.parametrize(
    ("bad", "last"), [(100, "f.txt:100:3: "), (101, "and 1 more error"), (1300, "and 1,200 more errors")]
)
def test_a_hundred_errors_are_shown_and_the_rest_are_counted(bad: int, last: str) -> None:
    message = refusals("a --zz 1\n" * bad)
    assert len(message) == min(bad, 101)
    assert message[-1].startswith(last)


# --- memory -------------------------------------------------------------------------------------------------

ROWS = {
    ".txt": ("", "a house number {i} by the sea --n bad --s {i}\n", 20_000),
    ".csv": ("prompt,steps\n", '"a house, number {i}",{i}\n', 10_000),
    ".jsonl": ("", '{{"prompt": "a house number {i}", "steps": {i}}}\n', 10_000),
}


@pytest.mark.parametrize("suffix", ROWS)
def test_memory_does_not_grow_with_the_file(suffix: str) -> None:
    header, row, many = ROWS[suffix]
    peaks = []
    for number in (100, many):
        with Path(f"f{suffix}").open("w", encoding="utf-8") as file:
            file.write(header)
            file.writelines(row.format(i=i) for i in range(number))
        tracemalloc.start()
        assert sum(1 for _ in read_prompts(Path(f"f{suffix}"))) == number
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 50 * many  # bytes: 1 MB for 20,000 lines
