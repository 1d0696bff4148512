"""Infotext, in which A1111, Forge, SD.Next and stable-diffusion.cpp store settings: its parts and words."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from sdapp.metadata.carry import check_length
from sdapp.metadata.samplers import plain_word
from sdapp.profiles import Rng

VALUE = r'"(?:\\.|[^"\\])+"|\d+,\d+(?=\s*,|\s*$)|[^,]*'
FIELD = re.compile(rf"(\w[\w /-]{{1,60}}):\s*({VALUE})(?:,|$)")
# Fields that can begin the settings, with values of their kind; a prompt hardly contains them.
START = re.compile(
    r"(?i)(?<![\w-])(?:(?:Steps|Seed|CFG[ _]?scale)\s*:\s*-?\d|Size\s*:\s*\d+\s*x\s*\d"
    r"|(?:Sampler|Schedule type|Scheduler)\s*:)"
)
USUAL = {"steps", "seed", "cfgscale", "size", "sampler"}
NEGATIVE_LINE = re.compile(r"(?im)^Negative prompt\s*:")
NEGATIVE_WORDS = re.compile(r"(?i)\bNegative prompt\s*:")  # where line breaks are lost
PLACES = ("EXIF UserComment", "parameters", "comment", "XMP sdcpp:parameters")
MAX_STARTS = 10  # places from the end of a text where settings are looked for
VERSIONS = {  # by the fields `App` and `Version`
    "sdapp ": "sdapp", r"stable-diffusion\.cpp": "stable-diffusion.cpp", r"f\d|.*forge": "Forge",
    "comfyui": "ComfyUI", r"sd\.?next": "SD.Next", "fooocus": "Fooocus", "": "A1111",
}  # fmt: skip
# Words of fields, and what they are here.
EMPHASES = {"original": "Original", "no-norm": "No norm"}
ZERO_SNR = "Zero Terminal SNR"  # of the field `Noise Schedule` in A1111 and Forge
OWN = {  # fields that only sdapp writes, with their settings
    "Prediction type": "prediction_type", "Zero SNR": "zero_snr", "Original size": "original_size",
    "Crop": "crop", "Profile": "profile",
}  # fmt: skip
RNGS: dict[str, Rng] = {"CPU": "cpu", "NV": "gpu", "GPU": "gpu"}  # the first of a kind is written
# A1111's names of what enlarges images before a second pass → ours; the first of a kind is written.
UPSCALERS = {
    "Lanczos": "lanczos", "Latent": "latent", "Latent (antialiased)": "latent",
    "Latent (bicubic)": "latent-bicubic", "Latent (bicubic antialiased)": "latent-bicubic",
    "Latent (nearest-exact)": "latent-nearest", "Latent (nearest)": "latent-nearest",
}  # fmt: skip


def join_infotext(prompt: str, negative: str, fields: Mapping[str, object]) -> str:
    """Return an infotext as A1111 writes it; fields without a value are left out."""
    items = [f"{key}: {_quote(str(value))}" for key, value in fields.items() if value not in (None, "")]
    lines = [prompt.strip(), *([f"Negative prompt: {negative.strip()}"] if negative.strip() else [])]
    return "\n".join([*lines, ", ".join(items)]).strip()


def with_fields(text: str, fields: Mapping[str, str]) -> str:
    """Add fields at the end of an infotext, as A1111's scripts do."""
    return ", ".join([text, *(f"{key}: {_quote(value)}" for key, value in fields.items())])


def _quote(text: str) -> str:
    is_plain = not re.search(r'[,:\n]|^["\s]|\s$', text) and text.isprintable()
    return text if is_plain else json.dumps(text, ensure_ascii=False)


class Infotext(NamedTuple):
    """The parts of an infotext."""

    prompt: str
    negative: str
    fields: dict[str, str]
    note: str = ""  # how it was read, if it can be read in two ways


def split_infotext(text: str) -> Infotext:
    """Return the parts of a text; if its last line has the fields, as A1111's `parse_generation_parameters`.

    Fields are also found before other lines, behind the prompt on one line, and one on each line. Raises
    InputError for a text of more than 4,000,000 characters.
    """
    check_length(text)
    head, mark, _ = text.rpartition("SDCPP: {")  # JSON without quotes around it, always last
    if mark and "Version: stable-diffusion.cpp" in head.rpartition("\n")[2]:
        text = head.rstrip(" ,")
    if "\n" not in text and "\\nSteps: " in text:  # copied out of JSON
        text = text.replace("\\n", "\n")
    text = "\n".join(line.strip() for line in text.strip().split("\n"))
    start, fields = _find_fields(text)
    prompt, negative, note = text[:start], "", ""
    is_one_line = 0 < start < len(text) and text[start - 1] != "\n"
    label = re.search(r"(?m)^Negative prompt:", prompt)
    # In a prompt sdapp writes these words as `negative prompt:`.
    if not label and tool_of(fields) != "sdapp":
        label = (NEGATIVE_WORDS if is_one_line else NEGATIVE_LINE).search(prompt)
        if not label and NEGATIVE_WORDS.search(prompt):
            note = "`Negative prompt:` is within a line of its prompt, so it stays there"
    if label:
        prompt, negative = prompt[: label.start()], prompt[label.end() :]
    elif label := NEGATIVE_LINE.search(text, start):
        fields, negative = _parse_fields(text[start : label.start()]), text[label.end() :]
    if is_one_line:
        note = f"its settings are on the line of the prompt; they begin at `{text[start : start + 20]}`"
        prompt, negative = (part.rstrip(" \n.,;|") for part in (prompt, negative))
    return Infotext(prompt.strip(), negative.strip(), fields, note)


def _find_fields(text: str) -> tuple[int, dict[str, str]]:
    """Return where the fields begin, and the fields; the end of the text and none if there are none."""
    for start in _likely_starts(text):
        fields = _parse_fields(text[start:])
        names = set(map(plain_word, fields))
        is_line = not start or text[start - 1] == "\n"
        # Fewer, such as `word: word,`, are words of a prompt; within a line they may be `Hires steps: 4, …`.
        if len(names if is_line else names & USUAL) >= 3 and names & {"steps", "seed"}:
            return start, fields
    return len(text), {}


def _likely_starts(text: str) -> Iterator[int]:
    """Yield where fields may begin: at a line with `Steps: `, at a line of fields, or within a line."""
    yield from [match.start() for match in re.finditer(r"(?im)^Steps\s*:\s*\d", text)][:-MAX_STARTS:-1]
    found = [match.start() for match in START.finditer(text)]
    rows = [(start, text[before:start]) for before, start in pairwise([0, *found])]
    for start, between in rows[:-MAX_STARTS:-1]:
        if _are_fields(between):
            continue  # it belongs to the fields before it
        line = text.rfind("\n", 0, start) + 1
        yield line if line and _are_fields(text[line:start]) else start


def _are_fields(text: str) -> bool:
    return text.rstrip(" ").endswith(",") and "\n" not in text and not FIELD.sub("", text).strip()


def _parse_fields(text: str) -> dict[str, str]:
    """Return the fields of a text, in lines below too, such as `Template: …`; the first of a name counts."""
    first, *lines = text.split("\n")
    joined = first + "".join(f"{',' if FIELD.match(line) else ''} {line}" for line in lines)
    fields: dict[str, str] = {}
    for name, value in FIELD.findall(joined):
        fields.setdefault(name.strip(), _unquote(value.strip()))
    return fields


def _unquote(text: str) -> str:
    """Return a value without its quotes and with a decimal point."""
    try:
        text = str(json.loads(text)) if text[:1] == '"' else text
    except ValueError:
        return text
    return text.replace(",", ".") if re.fullmatch(r"\d+,\d+", text) else text


def tool_of(fields: Mapping[str, str]) -> str:
    """The program that wrote fields."""
    plain = {plain_word(name): value for name, value in fields.items()}
    version = f"{plain.get('app', '')} {plain.get('version', '')}".strip()
    return next(tool for pattern, tool in VERSIONS.items() if re.match(pattern, version, re.IGNORECASE))
