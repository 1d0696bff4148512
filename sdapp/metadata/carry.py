"""The words of other image tools, and the carrying over of their values into those of a config."""

import json
import re
from dataclasses import dataclass, field

from pydantic import ValidationError

from sdapp import schedulers
from sdapp.config import RunConfig
from sdapp.errors import ConfigError, InputError
from sdapp.metadata.samplers import SAMPLERS, SCHEDULE_WORDS, Values, _word

MAX_TEXT = 4_000_000  # characters; workflows of a thousand nodes have a tenth of it


NETWORK = re.compile(r"<(?:lora|lyco|hypernet):([^<>]+)>")
MARKUP = {
    "emphasis brackets": re.compile(r"(?<!\\)[(\[][^\n]{0,30}"), "emphasis signs": re.compile(r"[\w)](\+\+|--)(?=[\s,.]|$)"),
    "BREAK": re.compile(r"\bBREAK\b"), "AND": re.compile(r"\bAND\b"), "embedding": re.compile(r"\bembedding:\S{1,60}"),
}  # fmt: skip


@dataclass
class Carried:
    """What could be carried over so far, and the names of what could not."""

    values: Values = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def leave(self, name: str, value: object, reason: str = "") -> None:
        """Name what is not carried over, with its value and the reason."""
        self.left.append(f"{_short(name)}: {_short(value)}{f' ({_short(reason)})' if reason else ''}")

    def take(self, name: str, value: object, **settings: object) -> bool:
        """Keep settings that a config accepts; else leave `name: value` with the reason."""
        if None in settings.values():
            self.leave(name, "not found")
            return False
        try:
            config = RunConfig.model_validate(settings, strict=False)  # "20" is a number
        except ValidationError as exc:
            self.leave(name, value, exc.errors()[0]["msg"].removeprefix("Value error, "))
            return False
        self.values |= config.model_dump(include=set(settings), exclude_unset=True)
        return True

    def task(self, kind: str, name: str, strength: object, **more: object) -> None:
        """A task without its input files, which no metadata holds."""
        files = ("image", "mask")[: 1 + (kind == "inpaint")]
        if self.take(
            name, strength, task={"kind": kind, "strength": strength, **dict.fromkeys(files, "-"), **more}
        ):
            for file in files:
                self.values["task"].pop(file)
                self.leave(f"task.{file}", "not inside the image")

    def prompts(self, prompt: object, negative: object, verbatim: bool = False) -> None:
        """Prompts without the tags that other tools cut out of them; markup that they obey stays, and is named."""
        for key, text in (("prompt", prompt), ("negative_prompt", negative)):
            if isinstance(text, str) and not verbatim:
                self.left += [_short(f"LoRA {match[1]}") for match in NETWORK.finditer(text)]
                text = NETWORK.sub("", text).strip()
                self.left += [
                    _short(f"{what}: {hit[0]}") for what, mark in MARKUP.items() if (hit := mark.search(text))
                ]
                text = re.sub(r"\\([()\[\]])", r"\1", text)
            if text or (text is not None and key == "prompt"):
                self.take(key, text, **{key: text})

    def scheduler(self, sampler: object, schedule: object = "", more: str = "{}") -> None:
        """Find a scheduler by a tool's words for sampler and schedule; `more` is the JSON of options laid over."""
        if not (isinstance(sampler, str) and isinstance(schedule, str) and len(sampler + schedule) < 100):
            return self.leave("Sampler", sampler)
        name, options = SAMPLERS.get(sampler, (sampler.removesuffix("_gpu"), {}))
        head, _, last = name.rpartition(" ")
        try:
            base = schedulers.resolve(name)
        except ConfigError as exc:
            if (
                head and not schedule and _word(last) in SCHEDULE_WORDS
            ):  # `euler_a karras` of stable-diffusion.cpp
                return self.scheduler(head, last)
            return self.leave("Sampler", sampler, str(exc))
        self.take("Sampler", sampler, scheduler={"name": base.name, "options": options})
        word = SCHEDULE_WORDS.get(_word(schedule))
        word = base.scheduler.automatic if word == "automatic" else word
        if word is None:
            self.leave("Schedule type", schedule, "diffusers has no such schedule")
        elif word == "leading" and base.options.get("timestep_spacing") != word:
            options = options | {"timestep_spacing": word}
            self.take("Schedule type", schedule, scheduler={"name": base.name, "options": options})
        elif word not in ("", "leading") and base.name == base.scheduler.name:  # else the name has said it
            self.take(
                "Schedule type", schedule, scheduler={"name": f"{base.name}-{word}", "options": options}
            )
        if (extra := json_object(more)) and "scheduler" in self.values:
            name, options = self.values["scheduler"]["name"], self.values["scheduler"].get("options", {})
            self.take("Scheduler options", more, scheduler={"name": name, "options": options | extra})
        return None

    def result(self) -> tuple[Values, list[str]]:
        """The values, and the names of what was left, each once."""
        return self.values, list(dict.fromkeys(self.left))


def _short(value: object, depth: int = 4) -> str:
    """A value in at most 120 printable characters; of models their names."""
    if isinstance(value, list):
        value = ", ".join(_short(item, depth - 1) for item in value[:9]) if depth else "…"
    if isinstance(value, dict):
        known = ("name", "model_name", "lora", "model", "weight")
        names = [_short(value[key], depth - 1) for key in known if key in value] if depth else ["…"]
        value = " ".join(names or value)
    text = " ".join(str(value).split())
    text = text if len(text) <= 120 else f"{text[:119]}…"
    return text if text.isprintable() else ascii(text)


def json_object(text: object) -> Values:
    """A JSON object, or nothing. Raises InputError for one that is too long or too deep."""
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return {}
    if len(text) > MAX_TEXT:
        raise InputError(f"metadata of {len(text):,} characters; at most {MAX_TEXT:,} are read")
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    except RecursionError as exc:
        raise InputError("metadata is nested too deep") from exc
    return found if isinstance(found, dict) else {}
