"""Carry the settings of other tools over into those of a config, and name what cannot be carried over."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from sdapp import markup, schedulers
from sdapp.config import Folders, RunConfig
from sdapp.errors import ConfigError, InputError
from sdapp.metadata.samplers import SAMPLERS, SCHEDULE_WORDS, Values, plain_word, split_schedule
from sdapp.models.embedding_files import find_embedding
from sdapp.models.lora_files import find_lora
from sdapp.settings.messages import what_is_wrong

MAX_TEXT = 4_000_000  # characters; a workflow of a thousand nodes has a tenth of it
EMPHASIS = re.compile(r"(?<!\\)[(\[][^\n]{0,30}")
LORA_WEIGHTS = re.compile(r"([^:]+)((?::[-+]?\d*\.?\d+){0,2})")
MARKUP = {
    "emphasis signs": re.compile(r"[\w)](\+\+|--)(?=[\s,.]|$)"),
    "embedding": re.compile(r"\bembedding:\S{1,60}"),
    "emphasis braces": re.compile(r"\{[^{}|\n]{1,30}\}"),
    "tag": re.compile(r"<\w+[:\[][^<>\n]{1,60}>"),
}


@dataclass
class Carried:
    """The settings carried over so far, what was left out (`name: value (reason)`, each once), and notes."""

    values: Values = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    model: str = ""  # its name alone; which model that is here is decided later
    loras: list[str] = field(default_factory=list)  # `NAME:WEIGHT` of tags in the prompts
    lora_hashes: dict[str, str] = field(default_factory=dict)  # by name; the first digits of a SHA-256
    embedding_hashes: dict[str, str] = field(default_factory=dict)

    def leave_out(self, name: str, value: object, reason: str = "") -> None:
        """Note a setting that is not carried over, and why."""
        note = f"{_shorten(name)}: {_shorten(value)}{f' ({_shorten(reason)})' if reason else ''}"
        if note not in self.left_out:
            self.left_out.append(note)

    def carry(self, name: str, value: object, **settings: object) -> bool:
        """Keep settings if a config accepts them, else leave out `name: value`; None is a missing value."""
        if None in settings.values():
            self.leave_out(name, "not found")
            return False
        try:
            config = RunConfig.model_validate(settings, strict=False)  # "20" and "20.0" are numbers
        except ValidationError as exc:
            self.leave_out(name, value, what_is_wrong(exc.errors()[0]))
            return False
        self.values |= config.model_dump(include=set(settings), exclude_unset=True)
        return True

    def name_model(self, name: str, value: object) -> None:
        """Keep the name of a model, without its folders; leave out what is no name."""
        inner = value.get("name", value.get("model_name")) if isinstance(value, dict) else value
        text = inner if isinstance(inner, str) and inner.isprintable() and len(inner) <= 300 else ""
        plain = re.sub(r"\.(safetensors|ckpt)$", "", re.split(r"[/\\]", text)[-1])
        if plain and not self.model:
            self.model = plain
        elif value is not None:
            self.leave_out(name, value)

    def task(self, kind: str, name: str, strength: object, **more: object) -> None:
        """Carry over a task without its input files, which no metadata contains."""
        has_mask = kind == "inpaint" and "mask_prompt" not in more
        files = ("image", "mask") if has_mask else ("image",)
        task = {"kind": kind, "strength": strength, **dict.fromkeys(files, "-"), **more}
        if self.carry(name, strength, task=task):
            for file in files:
                self.values["task"].pop(file)
                self.leave_out(f"task.{file}", "not inside the image")

    def prompts(
        self, prompt: object, negative: object, syntax: markup.PromptSyntax = "a1111", is_theirs: bool = False
    ) -> None:
        """Carry over prompts; remove LoRA tags, and name markup that has no effect or another one here.

        `is_theirs`: the tool is not A1111 nor made like it.
        """
        texts: list[object] = []
        for text in (prompt, negative):
            if isinstance(text, str):
                self.loras += markup.NETWORK.findall(text.replace("<hypernet:", "<lora:hypernet "))
                text = markup.NETWORK.sub("", text).strip()
                for name, pattern in MARKUP.items():
                    if found := pattern.search(text):
                        self.leave_out(name, found[0])
                if is_theirs and (found := EMPHASIS.search(text)):
                    self.leave_out("emphasis brackets", found[0], "words are weighed as A1111 does it")
                if is_theirs:  # to these tools they are words
                    text = re.sub(r"\b(AND|BREAK)\b", lambda word: word[0].lower(), text)
                    if len(markup.texts_by_call(text, 2)) > 1:  # or brackets
                        text = re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", text)
            texts.append(text)
        self.verbatim(texts[0], texts[1], syntax)

    def use_folders(self, folders: Folders) -> None:
        """Use the LoRAs and embeddings in the user's folders, by hash or name; leave out the others."""
        others, self.left_out = self.left_out, []
        for tag in self.loras:
            weight = LORA_WEIGHTS.fullmatch(tag)
            name = tag.partition(":")[0]
            path = find_lora(folders.loras, name, self.lora_hashes.get(name, "")) if folders.loras else None
            if path is None or weight is None:
                where = f"not in {folders.loras}" if folders.loras and weight else ""
                self.leave_out("LoRA", tag, where)
                continue
            numbers = [float(number) for number in weight[2].split(":")[1:]]
            lora = {"file": str(path), "weight": [1.0, *numbers][-1]}
            lora |= {"text_encoder_weight": numbers[0]} if len(numbers) > 1 else {}
            self.carry("LoRA", tag, loras=[*self.values.get("loras", []), lora])
        if self.embedding_hashes and folders.embeddings:  # these, and no others that have such a name
            self.values["embeddings"] = []
        for name, digits in self.embedding_hashes.items():
            if folders.embeddings and (path := find_embedding(folders.embeddings, digits)):
                self.values["embeddings"].append({"file": str(path), "name": name})
            else:
                where = folders.embeddings or "folders.embeddings"
                self.leave_out("TI hashes", f"{name}: {digits}", f"not in {where}; its name is read as text")
        self.left_out += others

    def verbatim(self, prompt: object, negative: object, syntax: markup.PromptSyntax) -> None:
        """Carry over prompts as they are, and their syntax if it makes a difference."""
        texts = {"prompt": prompt, "negative_prompt": negative}
        for key, text in texts.items():
            if text or (text is not None and key == "prompt"):
                self.carry(key, text, **{key: text})
        if not all(markup.is_plain(text) for text in texts.values() if isinstance(text, str)):
            self.values["prompt_syntax"] = syntax

    def scheduler(self, sampler: object, schedule: object = "", options_json: str = "{}") -> None:
        """Carry over a scheduler by a tool's names for sampler and schedule; the JSON has more options."""
        if not (isinstance(sampler, str) and isinstance(schedule, str) and len(sampler + schedule) < 100):
            return self.leave_out("Sampler", sampler)
        sampler, joined = split_schedule(sampler)
        if joined and plain_word(schedule) not in ("", "automatic", plain_word(joined)):
            self.leave_out("Schedule type", schedule, f"the sampler's name says {joined}")
        schedule = joined or schedule
        name, options = SAMPLERS.get(sampler, (sampler.removesuffix("_gpu"), {}))
        try:
            found = schedulers.resolve(name)
        except ConfigError as exc:
            return self.leave_out("Sampler", sampler, str(exc))
        chosen = {"name": found.name, "options": options}
        self.carry("Sampler", sampler, scheduler=chosen)
        word = SCHEDULE_WORDS.get(plain_word(schedule))
        word = found.scheduler.automatic if word == "automatic" else word
        if "profile" in self.values:
            self.notes += _differences(sampler, schedule)
        if word is None:
            self.leave_out("Schedule type", schedule, "diffusers has no such schedule")
        elif word == "leading" and found.options.get("timestep_spacing") != word:
            chosen["options"] = options | {"timestep_spacing": word}
        elif word not in ("", "leading") and found.name == found.scheduler.name:  # a name without a schedule
            chosen["name"] = f"{found.name}-{word}"
        self.carry("Schedule type", schedule, scheduler=chosen)
        if (extra := json_object(options_json)) and (known := self.values.get("scheduler")):
            more = known | {"options": known["options"] | extra}
            self.carry("Scheduler options", options_json, scheduler=more)
        return None


def _differences(sampler: str, schedule: str) -> Iterator[str]:
    """Notes on names of a tool that sdapp reads as another one, which differs a little under a profile."""
    if plain_word(schedule) == "simple":
        yield "Schedule type: Simple is painted as SGM Uniform: timesteps differ by less than one"
    if sampler.endswith("_gpu"):
        yield f"{sampler} draws the noise of its steps on the GPU there, and here as on a CPU: it will differ"


def _shorten(value: object, depth: int = 4) -> str:
    """Return a value as at most 120 printable characters; of a model only its name."""
    if isinstance(value, list):
        value = ", ".join(_shorten(item, depth - 1) for item in value[:9]) if depth else "…"
    if isinstance(value, dict):
        known = ("name", "model_name", "lora", "model", "weight")
        names = [_shorten(value[key], depth - 1) for key in known if key in value] if depth else ["…"]
        value = " ".join(names or value)
    text = " ".join(str(value).split())
    text = text if len(text) <= 120 else f"{text[:119]}…"
    return text if text.isprintable() else ascii(text)


def check_length(text: str) -> None:
    """Raise InputError for metadata of more than MAX_TEXT characters."""
    if len(text) > MAX_TEXT:
        raise InputError(f"metadata of {len(text):,} characters; at most {MAX_TEXT:,} are allowed")


def json_object(text: object) -> Values:
    """Return a JSON object, empty if the text is not one. Raises InputError if it is too long or too deep."""
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return {}
    check_length(text)
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    except RecursionError as exc:
        raise InputError("metadata is nested too deep") from exc
    return found if isinstance(found, dict) else {}
