"""Turn the settings of one line of a prompt file, under their names in any dialect, into a layer."""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from sdapp.config import COLUMNS, SETTINGS, RunConfig
from sdapp.errors import ConfigError, nearest
from sdapp.prompts.lines import SPACES, PromptFileError
from sdapp.prompts.seeds import seed_content
from sdapp.prompts.templates import EVERY, expand_all_groups
from sdapp.settings import files
from sdapp.settings.output import LABELS
from sdapp.settings.types import MAX_SEED, Setting, to_whole

TEMPLATES = ("prompt", "negative_prompt")  # the settings in which choices are made
ALIASES = {
    "scheduler": "scheduler.name", "sampler_name": "scheduler.name", "sampler": "scheduler.name",
    "task": "task.kind", "image": "task.image", "mask": "task.mask", "padding": "task.padding",
    **{f"mask_{name}": f"task.mask_{name}" for name in ("prompt", "model", "threshold", "growth", "blur")},
    "strength": "task.strength", "denoising_strength": "task.strength",
    "size": "size", "seeds": "seed", "cfg_scale": "guidance_scale", "n_iter": "count",
    "lora": "loras", "embedding": "embeddings", "upscale": "upscale.scale",
    "outpaint": "task.sides", "cfg": "guidance_scale", "guidance": "guidance_scale",
    "negative": "negative_prompt", "neg": "negative_prompt", "file": "labels.filename",
} | {name: f"labels.{name}" for name in LABELS}  # fmt: skip
# In .txt only: kohya's letters, and A1111's batch_size, which is a number of images.
SHORT_OPTIONS = {
    "n": "negative_prompt", "w": "width", "h": "height", "s": "steps", "d": "seed", "l": "guidance_scale",
    "t": "task.strength", "f": "labels.filename", "batch_size": "count",
}  # fmt: skip
REFUSED_KEYS = {
    name: reason
    for reason, names in {
        "sdapp has no weight for all LoRAs; give each its own: loras FILE:WEIGHT": "am",
        "sdapp has no scale of its own for the negative prompt": "nl",
        "sdapp has no CLIP guidance": "c",
        "give both sides as original_size WIDTHxHEIGHT": "ow oh",
        "give both as crop LEFT,TOP": "cl ct",
        "sdapp has no original size of its own for the negative prompt": "nw nh",
        "sdapp has no deep shrink": "dsd1 dst1 dsd2 dst2 dsr",
        "sdapp has no gradual latents": "glt glr gls gle glsn glus",
        "sdapp has no styles": "styles",
        "sdapp has no variation seeds": "subseed subseed_strength seed_resize_from_h seed_resize_from_w",
        "give the sampler by its name": "sampler_index",
        "sdapp does not restore faces": "restore_faces",
        "sdapp does not make tiles": "tiling",
        "a line cannot choose what is saved": "do_not_save_samples do_not_save_grid prompt_for_display",
        "the same for the whole file; give it as --model or in the config": "sd_model",
        "the same for the whole file; give it as --out or in the config": "outpath_samples outpath_grids",
    }.items()
    for name in names.split()
} | {
    key: "the same for the whole file; give it as an option or in the config"
    for key in RunConfig.model_fields
    if key not in COLUMNS
}
PATHS = [  # settings, or groups and the settings in them, that are paths
    (name, inner, each.kind)
    for key, each in SETTINGS.items()
    if each.kind in ("file", "model")
    for name, inner in ((key, ()), (key.rpartition(".")[0], (key.rpartition(".")[2],)))
]
PARSED_KEYS = {key: each.parse for key, each in SETTINGS.items() if each.parse}
TASKS_BY_KEY = {  # which settings say what a line is; the first counts
    "task.sides": "outpaint", "task.mask": "inpaint", "task.mask_prompt": "inpaint", "task.image": "img2img",
}  # fmt: skip
MADE_WITH = "made with "  # before the keys of the load of an image whose settings a line takes
LABEL = "labels."  # before the name of a column that is no setting; it is kept with the images
KNOWN_NAMES = tuple(dict.fromkeys((*COLUMNS, *ALIASES)))
# `negativePrompt`, `CFGScale`: the same names without anything between their words.
SPELLINGS = {word.replace("_", ""): ALIASES.get(word, word) for word in KNOWN_NAMES}
SETTING_SPELLINGS = [word for word, key in SPELLINGS.items() if not key.startswith(LABEL)]
NUMBER_CELL = re.compile(r"([-+]?[0-9]{1,100})|[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")
PLAIN = Setting()
LITERALS = {"true": True, "false": False, "null": None}


class Given(NamedTuple):
    """One setting of a line: its name as written, its dotted key, its value, and its place."""

    name: str
    key: str
    value: Any
    origin: str


def find_key(name: str, is_option: bool = False) -> str:
    """Return the dotted key of a name in any dialect; `is_option` is for options of .txt.

    Raises ConfigError without a place.
    """
    key = known_key(name, is_option)
    if key is None:
        raise ConfigError(_why_not(name, is_option))
    return key


@lru_cache(maxsize=1024)
def known_key(name: str, is_option: bool = False) -> str | None:
    """Return the dotted key of a name, or None if the name is unknown or refused; see `find_key`."""
    if is_option and name.lower() in SHORT_OPTIONS:
        return SHORT_OPTIONS[name.lower()]
    plain = re.sub("[- ]", "_", name.lower())
    first, *rest = plain.split(".")
    is_nested = first in COLUMNS and all(rest) and len(rest) < files.MAX_DEPTH
    return ALIASES.get(plain, plain if is_nested else SPELLINGS.get(plain.replace("_", "")))


def label_key(name: str) -> str | None:
    """Return the key under which a column that is no setting is kept, or None if it looks like a typo."""
    plain = re.sub("[- _]", "", name.lower())
    first = re.sub("[- ]", "_", name.lower()).split(".")[0]
    is_wrong = first in (*REFUSED_KEYS, *COLUMNS) or not name.isprintable()
    return None if is_wrong or get_close_matches(plain, SETTING_SPELLINGS, cutoff=0.8) else f"{LABEL}{name}"


@lru_cache(maxsize=1024)  # a typo is often in every line, and finding the closest word is slow
def _why_not(name: str, is_option: bool) -> str:
    plain = re.sub("[- ]", "_", name.lower())
    shown = f"{'--' if is_option else ''}{name if name.isprintable() else repr(name):.80}"
    if reason := REFUSED_KEYS.get(plain.split(".")[0]):
        return f"{shown}: {reason}"
    near = nearest(plain, KNOWN_NAMES)
    words = near or COLUMNS  # without their other names, which are as many again
    known = [f"--{word.replace('_', '-')}" if is_option else word for word in words]
    mean = f", did you mean {known[0]}?" if near else f"; allowed: {', '.join(known)}."
    hint = ' If it belongs to the prompt, give that as --prompt "…"' if is_option else ""
    if " " in name:
        hint = " If it is a prompt: put it in quotes in YAML; in CSV, name the columns in the first line"
    return f"{shown}: unknown {'option' if is_option else 'key'}{mean}{hint}"


def from_text(key: str, text: str) -> Any:
    """Return the value of a cell or option: a number if it looks like one, else text; a list for `a|b`.

    `{all:a|b}` is a list too. Raises ConfigError for wrong braces.
    """
    if key.startswith(LABEL):
        return text
    kind = SETTINGS.get(key, PLAIN).kind
    if key not in TEMPLATES and EVERY.search(text):
        return [from_text(key, each) for each in expand_all_groups(text)]
    if kind != "file" and key not in TEMPLATES and re.fullmatch(r"\{[^{}]*\|[^{}]*\}", text):
        way = f"{{all:{text[1:-1]}}} makes an image of each"
        raise ConfigError(f"{key}: {{a|b}} chooses by the seed, which only prompts do; {way}")
    if SETTINGS.get(key, PLAIN).list_of == (str, dict):
        sets = [re.split(r" *, *", each.strip(SPACES)) for each in text.split("|")]
        return sets if len(sets) > 1 else sets[0]
    if kind in ("text", "file"):
        return text
    parts = [part.strip(SPACES) for part in re.split(r"[|,]" if key == "seed" else r"\|", text)]
    values = parts if kind == "name" or key == "size" else [_parse_number(part) for part in parts]
    return values if len(values) > 1 else values[0]


def _parse_number(text: str) -> object:
    found = NUMBER_CELL.fullmatch(text)
    return LITERALS.get(text, text) if found is None else int(text) if found[1] else float(text)


class AssembledLine(NamedTuple):
    """The settings of a line by dotted key, their places, and what else an entry of a prompt file has."""

    values: dict[str, Any]
    origins: dict[str, str]
    seeds: tuple[int, ...] | None
    content: str  # what derived seeds are made from
    labels: dict[str, str]
    variants: int
    made_with: dict[str, Any]


def assemble_line(given: Iterable[Given], folder: Path) -> AssembledLine:
    """Put the settings of a line together. Paths are relative to `folder`.

    Raises PromptFileError with every error and its place.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    names: dict[str, str] = {}
    errors = PromptFileError()
    for name, key, value, origin in given:
        # A1111 asks for batch_size images n_iter times.
        is_product = {name, names.get(key)} == {"--batch_size", "--n_iter"}
        is_product = is_product and type(value) is type(values[key]) is int
        if key in values and not is_product:
            errors.add(0, f"{origin}: {key}: given twice, as {names[key]} and as {name}; keep one")
        values[key] = values[key] * value if is_product else _all_in(key, value)
        names[key], origins[key] = name, origin
    labels = {key: _as_text(value) for key, value in _take(values, LABEL).items()}
    made_with = _take(values, MADE_WITH)
    for other, key in permutations(values, 2):
        if key.startswith(f"{other}."):
            errors.add(0, f"{origins[key]}: {key}: does not fit with {other}, which is given too")
    with errors.collect():
        _take_size(values, origins)
    content = seed_content(values)
    for key, kind in TASKS_BY_KEY.items():
        if any(given == key or given.startswith(f"{key}.") for given in values):
            values.setdefault("task.kind", kind)
    _anchor(values, folder)
    seeds = None
    with errors.collect():
        seeds = _take_seeds(values, origins)
    errors.raise_if_any()
    return AssembledLine(values, origins, seeds, content, labels, 1, made_with)


def _all_in(key: str, value: Any) -> Any:
    """A value; that of a JSON or YAML file may be a text with `{all:a|b}`."""
    is_template = isinstance(value, str) and EVERY.search(value) is not None
    return from_text(key, value) if is_template and key not in TEMPLATES else value


def _take(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Take out the values whose keys begin with a prefix, which is removed."""
    return {key.removeprefix(prefix): values.pop(key) for key in [*values] if key.startswith(prefix)}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _anchor(values: dict[str, Any], folder: Path) -> None:
    """Change relative paths, in place, into paths that start at a folder."""
    for key in PARSED_KEYS.keys() & values.keys():
        values[key] = PARSED_KEYS[key](values[key])
    for name, inner, kind in PATHS:
        if name in values:
            values[name] = files.anchored(values[name], folder, kind, inner)


def _take_size(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Turn `768x512` into width and height, and a list of sizes into a list of such pairs."""
    if "size" not in values:
        return
    given, origin = values.pop("size"), origins.pop("size")
    texts = given if isinstance(given, list) else [given]
    found = [re.fullmatch(r"([0-9]{1,9}) ?[xX×] ?([0-9]{1,9})", str(text)) for text in texts]
    sizes = [{"width": int(size[1]), "height": int(size[2])} for size in found if size]
    if len(sizes) < len(found):
        form = "write it as WIDTHxHEIGHT in pixels, such as 768x512"
        raise ConfigError(f"{origin}: size: {form}, not {given!r:.80}")
    if "width" in values or "height" in values:
        raise ConfigError(f"{origin}: size: given twice, as width or height too; keep one")
    values |= {"size": sizes} if isinstance(given, list) else sizes[0]
    origins |= {"width": origin, "height": origin, "size": origin}


def _take_seeds(values: dict[str, Any], origins: Mapping[str, str]) -> tuple[int, ...] | None:
    if not isinstance(values.get("seed"), list):
        return None
    seeds, origin = list(map(to_whole, values.pop("seed"))), origins["seed"]
    bad = [seed for seed in seeds if type(seed) is not int or not -1 <= seed <= MAX_SEED]
    if bad or not seeds:
        allowed = f"seeds are whole numbers from 0 to {MAX_SEED}, or -1 to draw one"
        raise ConfigError(f"{origin}: seed: {allowed}, not {(bad or [seeds])[0]!r:.80}")
    if "count" in values:
        problem = f"the line names {len(seeds)} seeds, one for each image"
        raise ConfigError(f"{origins['count']}: count: {problem}; leave count out")
    return tuple(seeds)


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"a.b": 1}` into `{"a": {"b": 1}}`; `size`, if it is one pair, becomes width and height."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *groups, last = key.split(".")
        inside = nested
        for group in groups:
            inside = inside.setdefault(group, {})
        inside |= value if key == "size" and isinstance(value, dict) else {last: value}
    return nested
