"""Read one line of a .txt prompt file: a prompt, then options as in kohya, A1111 and sdapp."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sdapp.config import ImageSettings, read_override, usual_values
from sdapp.errors import ConfigError
from sdapp.images import IMAGE_SUFFIXES
from sdapp.metadata.record import ALWAYS_SHOWN
from sdapp.prompts.columns import Given, find_key, from_text, known_key
from sdapp.prompts.lines import FORBIDDEN, SPACES, PromptFileError, explain_forbidden, is_read
from sdapp.settings import files

# An option after a space, and its value if it is in quotes. A `'` inside a word is an apostrophe.
OPTION = re.compile(
    rf"(?:(?<=[{SPACES}])|^)--(?P<name>[A-Za-z][^{SPACES}=]*)=?[{SPACES}]*"
    r"""(?:"(?P<double>[^"\\]*(?:\\.[^"\\]*)*)"|"""
    rf"'(?P<single>[^']*(?:'(?![{SPACES}]|$)[^']*)*)'(?=[{SPACES}]|$))?"
)
# A word behind one or two dashes that are no hyphens; word processors write them for `--`.
DASHES = "\u2010-\u2015\u2212\u30fc\ufe58\ufe63\uff0d"
ODD_OPTION = re.compile(
    rf"(?:(?<=[{SPACES}])|^)(?P<dashes>(?=-?(?P<odd>[{DASHES}]))[-{DASHES}]{{1,2}})"
    rf"(?P<name>[A-Za-z][^{SPACES}=]*)"
)
# A word behind a single hyphen, which would be an option behind two.
ONE_HYPHEN = re.compile(rf"(?:(?<=[{SPACES}])|^)-(?P<name>[A-Za-z][^{SPACES}=]*)")
TEXT_IN_FRONT = "the text in front"  # of the options: the name of the prompt in errors
BRACES = re.compile(r"([{}]|__)")  # what chooses, in a prompt
CURLY_QUOTES = re.compile("[\u201c-\u201f\u00ab].*[\u201c\u201d\u00bb]|[\u2018-\u201b].*[\u2018\u2019]")
OTHER_DASH = "write --{}, or put a space after the dash if it belongs to the text"
INFOTEXT = re.compile(r"[ \t]*(Negative prompt: |Steps: [0-9]+, .*\b(Sampler|CFG scale|Seed): )")
INFOTEXT_REFUSED = (
    "infotext, which A1111 saves beside an image, is not a prompt; give the image itself as --config, "
    "or write options such as --negative-prompt and --steps"
)


def parse_line(text: str, place: str) -> list[Given]:
    """Read the prompt and the options: `--name value`, where the value ends at the next option or is in
    quotes.

    `place` is `file:line`. Raises ConfigError for infotext, else PromptFileError with all errors of the line
    and their columns.
    """
    errors = PromptFileError()
    if INFOTEXT.match(text):
        raise ConfigError(f"{place}: {INFOTEXT_REFUSED}")
    given: list[Given] = []
    options = list(OPTION.finditer(text))
    ends = [option.start() for option in options] + [len(text)]
    start = len(text) - len(text.lstrip(" \t"))
    # Odd spaces before an option belong to it; at the end of a line they are part of the prompt.
    if prompt := text[start : ends[0]].rstrip(SPACES if options else " \t"):
        given.append(Given(TEXT_IN_FRONT, "prompt", prompt, f"{place}:{start + 1}"))
    for option, end in zip(options, ends[1:], strict=True):
        origin = f"{place}:{option.start() + 1}"
        with errors.collect(place=origin):
            given += _read_option(
                option["name"], _value(option, text[option.end() : end].strip(SPACES)), origin
            )
    if ODD_OPTION.search(text) or ONE_HYPHEN.search(text):
        with errors.collect():
            _refuse_odd_dashes(text, place)
    errors.raise_if_any()
    return given


def _refuse_odd_dashes(text: str, place: str) -> None:
    """Refuse what would be an option, or looks very much like one, if its dashes were `--`."""
    outside_quotes = OPTION.sub(lambda option: " " * len(option[0]), text)
    for found in ODD_OPTION.finditer(outside_quotes):
        name, odd = found.group("name", "odd")
        if len(found["dashes"]) > 1 or name.lower() == "set" or known_key(name, is_option=True):
            dash = f"U+{ord(odd):04X} ({unicodedata.name(odd).lower()}) is not a hyphen"
            raise ConfigError(f"{place}:{found.start() + 1}: {dash}; {OTHER_DASH.format(name)}")
    for found in ONE_HYPHEN.finditer(outside_quotes):
        if known_key(found["name"], is_option=True):
            hyphen = f"-{found['name']}: an option has two hyphens"
            raise ConfigError(f"{place}:{found.start() + 1}: {hyphen}; {OTHER_DASH.format(found['name'])}")


def _value(option: re.Match[str], rest: str) -> str:
    name, double, single = option.group("name", "double", "single")
    is_quoted = double is not None or single is not None
    if not is_quoted and rest.startswith('"'):
        raise ConfigError(
            f'--{name}: the double quote is never closed; write "\\"…" if the value begins with a quote'
        )
    if is_quoted and rest:
        way = 'put "…" around the whole value, with \\" for a quote in it'
        raise ConfigError(f"--{name}: text after the closing quote; {way}")
    if single is not None and OPTION.search(single):
        raise ConfigError(f"--{name}: an option between single quotes; put double quotes around the value")
    if CURLY_QUOTES.fullmatch(rest):
        raise ConfigError(f'--{name}: {rest[0]} is no quote that sdapp reads; write "…" around the value')
    if not is_quoted and not rest:
        raise ConfigError(f'--{name}: needs a value; write "" for an empty one')
    return rest if not is_quoted else re.sub(r'\\(["\\])', r"\1", double) if single is None else single


def _read_option(name: str, value: str, origin: str) -> list[Given]:
    if name.lower() != "set":
        key = find_key(name, is_option=True)
        return [Given(f"--{name}", key, from_text(key, value), origin)]
    values = read_override(value).values
    return [Given(f"--set {dotted}", find_key(dotted), item, origin) for dotted, item in leaf_values(values)]


def leaf_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of all that is not a mapping itself.

    Raises ConfigError for control characters, and for mappings and lists that are nested too deeply.
    """
    for name, value in values.items():
        key = f"{prefix}{name}"
        if not name.isprintable() or key.count(".") > files.MAX_DEPTH:
            raise ConfigError(f"{key!r:.80}: keys are plain text and at most {files.MAX_DEPTH} levels deep")
        if isinstance(value, dict):
            yield from leaf_values(value, f"{key}.")
        else:
            _check_text(key, value, 0)
            yield key, value


def _check_text(key: str, value: object, depth: int) -> None:
    """Raise ConfigError for control characters, except the line ends that JSON and YAML values may have."""
    if depth > files.MAX_DEPTH:
        raise ConfigError(f"{key}: nested deeper than {files.MAX_DEPTH} levels")
    if isinstance(value, str) and (found := FORBIDDEN.search(value.replace("\n", ""))):
        raise ConfigError(f"{key}: {explain_forbidden(found[0])}")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        _check_text(f"{key}.{name}", item, depth + 1)


# --- writing ------------------------------------------------------------------------------------------------


def write_line(job: Mapping[str, Any]) -> str:
    """The line of a .txt file that asks for a job; of .jsonl if a text has line ends.

    `job` is plain data as in a record. Paths stay as they are, so the line belongs into the folder of the
    image. The model and the settings of the load are those of the whole file.
    """
    prompt = BRACES.sub(r"\\\1", str(job.get("prompt") or ""))
    options = _options_of(job)
    if any("\n" in str(value) for value in (prompt, *options.values())):
        return json.dumps({"prompt": prompt} | options, ensure_ascii=False)
    texts = [
        f"--set {_quoted(f'{key}={json.dumps(value)}')}"
        if isinstance(value, list)
        else f"--{key.replace('_', '-')} {_quoted(value)}"
        for key, value in options.items()
    ]
    return " ".join([prompt if _is_plain(prompt) else f"--prompt {_quoted(prompt)}", *texts])


def _options_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says of a job beside its prompt: the usual settings, and what is not the default."""
    usual = usual_values()
    given = {
        key: job[key]
        for key in ImageSettings.model_fields
        if key in job and (key in ALWAYS_SHOWN or job[key] != usual[key])
    }
    options = dict[str, Any]()
    if "width" in given and "height" in given:
        options["size"] = f"{given.pop('width')}x{given.pop('height')}"
    if isinstance(scheduler := given.pop("scheduler", None), dict):
        options["scheduler"] = scheduler.get("name")
        options |= {f"scheduler.options.{key}": value for key, value in scheduler["options"].items()}
    if isinstance(task := given.pop("task", None), dict):
        options |= _options_of_task(task)
        if task.get("kind") in ("outpaint", "upscale"):
            options.pop("size", None)  # it follows from the image
    if isinstance(upscale := given.pop("upscale", None), dict):
        options |= {f"upscale.{key}": value for key, value in leaf_values(upscale) if value not in (None, {})}
    lists = {key: given.pop(key, None) for key in LISTS}
    options |= {key: LISTS[key](groups) for key, groups in lists.items() if groups}
    if "guidance_interval" in given:
        options["guidance_interval"] = "{:g}..{:g}".format(*given.pop("guidance_interval"))
    if "negative_prompt" in given:
        given["negative_prompt"] = BRACES.sub(r"\\\1", given["negative_prompt"])
    given.pop("prompt", None)
    given = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in given.items()}
    return {key: value for key, value in (given | options).items() if value is not None}


def _options_of_task(task: Mapping[str, Any]) -> dict[str, Any]:
    options = {"task" if key == "kind" else key: value for key, value in task.items()}
    options.pop("mask_sha256", None)
    if sides := options.pop("sides", None):
        options["outpaint"] = ",".join(f"{side}={pixels}" for side, pixels in sides.items())
    return options


def _file_with_more(given: Mapping[str, Any]) -> str:
    """A LoRA or an embedding as `FILE:WEIGHT:TEXT_ENCODER_WEIGHT` or `FILE:NAME`."""
    more = (given.get(key) for key in ("name", "weight", "text_encoder_weight"))
    return ":".join([given["file"], *(str(each) for each in more if each is not None)])


def _comma_list(write: Callable[[Mapping[str, Any]], str]) -> Callable[[list[Mapping[str, Any]]], str]:
    return lambda groups: ", ".join(map(write, groups))


def _details(groups: list[Mapping[str, Any]]) -> object:
    """Details without what a plan finds or nobody gave."""
    return [{k: v for k, v in each.items() if v is not None and k != "mask_sha256"} for each in groups]


def _control_as_text(given: Mapping[str, Any]) -> str:
    """A ControlNet as `MODEL:IMAGE:SCALE:START..END`."""
    return "{model}:{image}:{scale}:{start}..{end}".format_map(given)


LISTS: dict[str, Callable[[list[Mapping[str, Any]]], object]] = {  # of groups, and how they are written
    "loras": _comma_list(_file_with_more),
    "embeddings": _comma_list(_file_with_more),
    "control": _comma_list(_control_as_text),
    "detail": _details,
}


def _quoted(value: Any) -> str:
    """A value as an option takes it, in double quotes if it would not be read as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    if text and re.fullmatch(r"[\w.:/+][\w.,:/+ ()\\{}|-]*", text) and not re.search(r"\s$|\s-", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _is_plain(prompt: str) -> bool:
    """Whether a line of a prompt alone is read as that prompt."""
    if not is_read(prompt) or prompt.lower().endswith(IMAGE_SUFFIXES):
        return False
    try:
        return [(each.key, each.value) for each in parse_line(prompt, "")] == [("prompt", prompt)]
    except ConfigError:
        return False
