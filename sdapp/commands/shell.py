"""The command `sdapp shell`: prompts typed one after the other, with a model that stays loaded."""

import logging
import re
import secrets
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from sdapp.batches.executors import LocalExecutor
from sdapp.batches.items import Item
from sdapp.batches.prompt_file import PromptFile
from sdapp.batches.seed_state import SeedState
from sdapp.commands.estimates import History
from sdapp.commands.options import all_layers, with_options
from sdapp.commands.running import Session
from sdapp.commands.terminal import print_result, say
from sdapp.config import COLUMNS, MODEL_KEYS, SETTINGS, RunConfig, read_override
from sdapp.errors import ConfigError, InterruptedRunError, SdappError, did_you_mean
from sdapp.images import decode_file
from sdapp.jobs import LoadKey, Work
from sdapp.models.model import Model
from sdapp.models.vae import locate_model, refuse_missing
from sdapp.notes import notes_on_line
from sdapp.outputs.encode import encode
from sdapp.outputs.files import check_folder
from sdapp.outputs.writer import save_result, write_results
from sdapp.records import Result
from sdapp.scheduler_table import TABLE
from sdapp.settings.layers import Layer, merge, override
from sdapp.validation import validate

SHELL_HELP = """\
a red house --steps 30     paint a prompt; options are those of a line of a prompt file
/set KEY=VALUE             change a setting from now on; without a value, list what is set
/unset KEY                 take that back
/scheduler NAME            the same as /set scheduler=NAME
/again                     paint the last line once more; with another seed, unless the line has one
/compare NAME, NAME, …     paint the last line with these schedulers, from the seed of its first image
/show FILE                 show an image; without a file, the last one
/help, /quit"""
COMPARED = "euler-a, ddim, unipc, dpm++2m-karras"  # what /compare takes without names
SCHEDULER_NAMES = [row.name for row in TABLE]
# How the text before the cursor ends → what can come there.
COMPLETIONS: tuple[tuple[str, Iterable[str]], ...] = (
    (r"^(/\w*)$", re.findall(r"/\w+", SHELL_HELP)),
    (r"^/set +scheduler=(\S*)$", SCHEDULER_NAMES),
    (r"^/set +([\w.]*)$", [f"{key}=" for key in SETTINGS]),
    (r"^/unset +([\w.]*)$", list(SETTINGS)),
    (r"^/(?:scheduler|compare) (?:.*, *)?([^,]*)$", SCHEDULER_NAMES),
    (r"--(?:scheduler|sampler)[ =]+(\S*)$", SCHEDULER_NAMES),
    (r"(?:^| )(--[\w-]*)$", [f"--{key.replace('_', '-')}" for key in COLUMNS]),
)


@with_options("json")
def shell(options: dict[str, Any]) -> None:
    """Paint prompts as you type them, with a model that stays loaded. /help lists its commands.

    Example:

    sdapp shell --scheduler unipc --steps 15
    """
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise ConfigError("the shell needs a terminal; to paint the lines of a pipe: sdapp batch -")
    show = _find_viewer()  # before the prompt reads the terminal
    running = Shell(all_layers(options), Session(options["verbose"], is_shell=True), show)
    running.load()
    say(f"{running.config.model} is loaded. Type a prompt; /help lists the commands, Ctrl-D ends the shell.")
    for line in _typed_lines():
        try:
            running.do(line)
        except InterruptedRunError as exc:
            say(f"stopped: {exc}")
        except KeyboardInterrupt:
            say("stopped: finished images are kept")
        except SdappError as exc:
            for text in str(exc).splitlines():
                say(f"error: {_without_place(text)}")


def _without_place(text: str) -> str:
    """The text of an error without the number of the line, of which there is one."""
    return re.sub(r"^<stdin>:1:( |(?=\d))", lambda end: "" if end[1] else "column ", text)


class Shell:
    """What is set and what was painted last; `do` carries out a line."""

    def __init__(self, layers: list[Layer], session: Session, show: Callable[[Path], None]) -> None:
        self._layers, self._given, self._session, self._show = layers, dict[str, Layer](), session, show
        self._last, self._seed = "", 0
        self._path: Path | None = None
        self.config = validate(merge(layers))

    def load(self) -> None:
        """Load the model, so that the first image comes as fast as the next ones."""
        check_folder(Path(self.config.output.dir))
        model = self._model()
        key = LoadKey.of(self.config, model)
        with self._session.begin({key: model}, 0) as session:
            assert isinstance(session.executor, LocalExecutor)
            session.executor.painter(Work(key, ()))

    def do(self, line: str) -> None:
        """Paint a prompt, or carry out a command. Raises SdappError."""
        command, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/set": self._set,
            "/unset": self._unset,
            "/scheduler": self._scheduler,
            "/again": lambda _: self._paint(self._last_line()),
            "/compare": self._compare,
            "/show": self._show_file,
            "/help": lambda _: say(SHELL_HELP),
        }
        if command in commands:
            commands[command](rest.strip())
        elif command.startswith("/"):
            mean = did_you_mean(command, commands, "; /help lists them")
            raise ConfigError(f"{command}: no such command{mean}")
        else:
            self._paint(line)
            self._last = line

    def _set(self, text: str) -> None:
        if not text:
            given = [layer.origins[key].removeprefix("/set ") for key, layer in self._given.items()]
            say("\n".join(given) or "nothing is set")
            return
        layer = read_override(text, "/set")
        [key] = layer.origins
        given_now = {name: each for name, each in self._given.items() if name != key} | {key: layer}
        config = validate(merge([*self._layers, *given_now.values()]))
        if key in MODEL_KEYS and (model := getattr(config, key, None)):
            refuse_missing(model, key)
        self.config, self._given = config, given_now

    def _scheduler(self, name: str) -> None:
        if name:
            self._set(f"scheduler={name}")
        else:
            say(", ".join(SCHEDULER_NAMES))

    def _compare(self, names: str) -> None:
        schedulers = "|".join(re.split(r" *[,|] *", names or COMPARED))
        line = f'{self._last_line()} --scheduler "{schedulers}"'
        self._paint(line, self._seed, "{prompt}-{seed}-{scheduler}")

    def _show_file(self, name: str) -> None:
        path = Path(name) if name else self._path
        if path is None:
            raise ConfigError("nothing was painted yet; give the path of an image")
        decode_file(str(path))
        if self._show is show_nothing:
            say(f"this terminal shows no images; the file is {path}")
        self._show(path)

    def _last_line(self) -> str:
        if not self._last:
            raise ConfigError("nothing was painted yet; type a prompt first")
        return self._last

    def _unset(self, key: str) -> None:
        if key not in self._given:
            raise ConfigError(f"{key}: is not set{did_you_mean(key, self._given)}")
        del self._given[key]
        self.config = validate(merge([*self._layers, *self._given.values()]))

    def _model(self) -> Model:
        return locate_model(self.config.model, self.config.revision, self.config.vae, self.config.base)

    def _items(self, line: str, seed: int, name: str | None) -> tuple[RunConfig, Model, list[Item]]:
        names = [override("output.name", name, "/compare")] if name else []
        layers = [*self._layers, *self._given.values(), *names]
        prompts = PromptFile(
            line.encode(), layers, validate(merge(layers)), self._model(), SeedState(seed, "same")
        )
        return prompts.config, prompts.model, list(prompts.items())

    def _paint(self, line: str, seed: int | None = None, name: str | None = None) -> None:
        """Paint a line; print the path of each image and show it."""
        seed = self.config.seed if seed is None else seed
        config, model, items = self._items(line, secrets.randbelow(2**32) if seed is None else seed, name)
        key, session, output = LoadKey.of(config, model), self._session, config.output
        for item in items:
            session.notes.tell(notes_on_line(config, model, item.job))
        jobs, preview = [item.job for item in items], config.preview_file
        work = Work(key, jobs, config.batch_size, keep_going=True, preview=preview)
        session.begin({key: model}, len(items), History(key))
        with session, closing(self._results(work)) as painted:
            for result in write_results(
                painted, lambda each: encode(each, output), lambda each: save_result(each, output)
            ):
                session.tell_result(result)
                print_result(result, as_json=False)
                if result.path:
                    self._path, self._seed = result.path, items[0].job.seed
                    self._show(result.path)
                else:
                    say(f"error: seed {result.job.seed}: {result.error}")

    def _results(self, work: Work) -> Generator[Result, None, None]:
        yield from self._session.executor.paint(work, self._session.on_step)


def _typed_lines() -> Iterator[str]:
    """The lines that are typed, with a history that stays, until Ctrl-D or /quit. Ctrl-C clears a line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import FileHistory

    class Words(Completer):
        def get_completions(self, document: Any, _complete_event: Any) -> Iterator[Completion]:
            for pattern, words in COMPLETIONS:
                if found := re.search(pattern, document.text_before_cursor):
                    begun = found[1]
                    yield from (Completion(word, -len(begun)) for word in words if word.startswith(begun))
                    return

    history = user_state_path("sdapp", ensure_exists=True) / "shell_history"
    typed: PromptSession[str] = PromptSession(history=FileHistory(str(history)), completer=Words())
    while True:
        try:
            line = typed.prompt("sdapp> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if line in ("/quit", "quit", "exit"):
            return
        if line:
            yield line


def show_nothing(_path: Path) -> None:
    """For a terminal that shows no images."""


def _find_viewer() -> Callable[[Path], None]:
    """What shows an image in this terminal: `show_nothing` without sixels or kitty's graphics."""
    from PIL import Image
    from rich.console import Console
    from textual_image import renderable  # asks the terminal what it can

    if renderable.Image not in (renderable.SixelImage, renderable.TGPImage):
        return show_nothing
    logging.getLogger("textual_image").setLevel(logging.ERROR)
    # Asks for the size of a letter, once and now: later, what is typed would be taken for the answer.
    Console(file=StringIO()).print(renderable.Image(Image.new("RGB", (64, 64))))
    console = Console()
    return lambda path: console.print(renderable.Image(path))
