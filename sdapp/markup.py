"""A1111's prompt syntax: weights, BREAK, prompts that change during a run, and chunks of 75 tokens, as A1111
1.10 reads them, without torch.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

from sdapp.errors import ConfigError

OfCall = TypeVar("OfCall")
PromptSyntax = Literal["a1111", "plain"]
Emphasis = Literal["original", "no-norm"]
MAX_TOKENS = 75  # tokens of a prompt that CLIP reads at a time
BACKTRACK = 20  # a full chunk ends behind its last comma, if at most so many tokens move to the next chunk
NONE: Mapping[str, int] = MappingProxyType({})
DECIMAL = r"[+-]?(?:\d++\.?\d*+|\.\d++)"
MARK = re.compile(rf"\\[\\()\[\]]|\\|[()\[\]]|:(?P<weight>{DECIMAL})\)|[^\\()\[\]:]+|:")
BREAK = re.compile(r"\s{0,9}\bBREAK\b\s{0,9}")
MARKED = re.compile(r"[(\[\\]|\bBREAK\b")
NETWORK = re.compile(r"<(?:lora|lyco|hypernet):([^<>]+)>")
EDIT_MARK = re.compile(r"(\\.|[\[\]()|:])", re.DOTALL)
MAX_BRACKETS = 1_000  # the time that they take grows with their square
AS_TEXT = r"`prompt_syntax: plain` reads it as text"
REFUSED_MARKUP = (  # in a prompt, and if marked so in a negative prompt too
    (NETWORK, True, "write <lora:NAME:WEIGHT>, or --lora FILE:WEIGHT"),
    (re.compile(rf"(?<=:)(?!{DECIMAL}\))[+-]?[.\d]+\)"), True, "this is no number for a weight"),
    (re.compile(r"\bAND\b"), False, f"joining prompts is not supported; write `and` for the word; {AS_TEXT}"),
)  # fmt: skip
UNUSUAL = (  # looks like a weight, but is text in A1111
    (re.compile(r"[\w)]{1,30}(?:\+\+|--)(?=[\s,.]|$)"), "InvokeAI's signs are text here"),
    (re.compile(rf"\){DECIMAL}(?![\w.])"), "InvokeAI's number behind a bracket is text here"),
    (re.compile(rf":(?:\s+{DECIMAL}\s*|{DECIMAL}\s+)\)"), "a number with spaces around it is text"),
)


class Piece(NamedTuple):
    """A part of a prompt with one weight."""

    text: str
    weight: float = 1.0


class Token(NamedTuple):
    """A token of a text encoder, or a vector that takes the place of one, and its weight."""

    id: int
    weight: float = 1.0
    embedding: str = ""  # the name of the embedding that the vector is of
    vector: int = 0  # which of its vectors, from 0


def parse_prompt(text: str) -> list[list[Piece]]:
    """Split a prompt at each BREAK into lists of pieces; equal neighbours are joined, empty ones left out."""
    pieces: list[Piece] = []
    breaks: list[int] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        pieces[start:] = [Piece(piece.text, piece.weight * factor) for piece in pieces[start:]]

    for found in MARK.finditer(text):
        mark = found[0]
        if mark in opened:
            opened[mark].append(len(pieces))
        elif mark[0] == "\\":
            pieces.append(Piece(mark[1:]))
        elif opened["("] and (found["weight"] or mark == ")"):
            close("(", float(found["weight"] or 1.1))
        elif opened["["] and mark == "]":
            close("[", 1 / 1.1)
        else:
            first, *others = BREAK.split(mark)
            pieces.append(Piece(first))
            for other in others:
                breaks.append(len(pieces))
                pieces.append(Piece(other))
    for bracket, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while opened[bracket]:
            close(bracket, factor)
    sections = (pieces[begin:end] for begin, end in pairwise([0, *breaks, len(pieces)]))
    return [list(_merge(section)) for section in sections]


def _merge(section: list[Piece]) -> Iterator[Piece]:
    for weight, group in groupby(section, lambda piece: piece.weight):
        if text := "".join(piece.text for piece in group):
            yield Piece(text, weight)


# --- prompts that change during a run -----------------------------------------------------------------------

Choose = Callable[[list[str], str], str]  # of the options of a part, and when it changes ("": by turns)


@lru_cache(maxsize=256)
def texts_by_call(text: str, calls: int) -> tuple[str, ...]:
    """The prompt at each of so many calls of the UNet; a single one if it never changes.

    `[from:to:when]` is `from` up to call `when`, or up to that share of the calls if the number has a point;
    `[to:when]` and `[from::when]` add and remove. `[a|b]` takes turns.
    """
    if "[" not in text or _resolved(text, lambda _options, _when: "") == text:
        return (text,)

    def at(call: int) -> str:
        def choose(options: list[str], when: str) -> str:
            if not when:
                return options[(call - 1) % len(options)]
            return options[call > float(when) * (calls if "." in when else 1)]

        return _resolved(text, choose)

    return tuple(at(call) for call in range(1, calls + 1))


def last_text(text: str) -> str:
    """The prompt at the end of a run, which passes over a finished image use."""
    return _resolved(text, lambda options, _when: options[-1]) if "[" in text else text


def every_text(text: str, calls: int) -> tuple[str, ...]:
    """All that a prompt is during so many calls of the UNet, and at their end, each once."""
    return tuple(dict.fromkeys((*texts_by_call(text, calls), last_text(text))))


def in_rows(lists: Sequence[Sequence[OfCall]]) -> list[tuple[OfCall, ...]]:
    """What several lists have at each call; a list of one has it at every call."""
    calls = max(map(len, lists))
    return list(zip(*([*each] * (calls if len(each) == 1 else 1) for each in lists), strict=True))


def _resolved(text: str, choose: Choose) -> str:
    """Put what `choose` takes in the place of each part that changes, those inside others first."""
    if _count_brackets(text) > MAX_BRACKETS:
        return text
    opened = [_Opened("")]
    for mark in EDIT_MARK.split(text):
        if mark in ("[", "("):
            opened.append(_Opened(mark))
            continue
        while mark == "]" and opened[-1].bracket == "(" and any(each.bracket == "[" for each in opened):
            _close(opened, opened[-1].as_text())  # an open bracket that is none
        match mark, opened[-1].bracket:
            case ("]", "["):
                options, when = opened[-1].options()
                _close(opened, choose(options, when) if options else f"{opened[-1].as_text()}]")
            case (")", "("):
                _close(opened, f"{opened[-1].as_text()})")
            case ("|" | ":", "[" | "("):
                opened[-1].separators.append(mark)
                opened[-1].parts.append("")
            case _:
                opened[-1].parts[-1] += mark
    while len(opened) > 1:
        _close(opened, opened[-1].as_text())
    return opened[0].parts[0]


class _Opened:
    """A bracket and what follows it: parts between bars and colons."""

    def __init__(self, bracket: str) -> None:
        self.bracket, self.parts, self.separators = bracket, [""], list[str]()

    def as_text(self) -> str:
        rest = (f"{separator}{part}" for separator, part in zip(self.separators, self.parts[1:], strict=True))
        return f"{self.bracket}{self.parts[0]}{''.join(rest)}"

    def options(self) -> tuple[list[str], str]:
        """What square brackets choose from, and when they change; nothing if they do not."""
        if self.separators and set(self.separators) == {"|"}:
            return self.parts, ""
        *options, when = (*self.parts[:-1], self.parts[-1].strip())
        is_schedule = self.separators in ([":"], [":", ":"]) and re.fullmatch(DECIMAL, when)
        return (["", *options][-2:], when) if is_schedule else ([], "")


def _close(opened: list[_Opened], text: str) -> None:
    opened.pop()
    opened[-1].parts[-1] += text


# --- words, checks and tokens -------------------------------------------------------------------------------


def words(text: str) -> str:
    """The text of a prompt without its markup, with all that it is during a run."""
    if not MARKED.search(text):
        return text
    text = _resolved(text, lambda options, _when: " ".join(options))
    return " ".join(piece.text for section in parse_prompt(text) for piece in section)


def is_plain(text: str, is_negative: bool = False) -> bool:
    """Whether a prompt has no markup: then both syntaxes mean the same, if it fits in one chunk."""
    return not MARKED.search(text) and not any(_refused(text, is_negative))


def is_short(text: str) -> bool:
    """Whether a prompt surely fits in one chunk, without counting tokens: each has at least one letter."""
    return len(text) <= 75 and text.isascii() and "BREAK" not in text


def check(key: str, text: str) -> None:
    """Raise ConfigError for markup of A1111 that is not supported, a line for each kind.

    `key` is the setting.
    """
    found: dict[str, str] = {}
    for part, reason in _refused(text, is_negative=key.endswith("negative_prompt")):
        found.setdefault(reason, part)
    if found:
        raise ConfigError("\n".join(f"{key}: {part[:80]!r}: {reason}" for reason, part in found.items()))


def _refused(text: str, is_negative: bool) -> Iterator[tuple[str, str]]:
    for pattern, is_for_both, reason in REFUSED_MARKUP:
        if (found := pattern.search(text)) and (is_for_both or not is_negative):
            yield found[0], reason
    if _count_brackets(text) > MAX_BRACKETS:
        yield text[:20], f"there are more than {MAX_BRACKETS:,} brackets; {AS_TEXT}"


def _count_brackets(text: str) -> int:
    return text.count("(") + text.count("[")


def notes(key: str, text: str, syntax: PromptSyntax) -> Iterator[str]:
    """What looks like a weight in a prompt, but is read as text."""
    if syntax == "plain" and not is_plain(text):
        yield f"{key}: `prompt_syntax: plain` reads brackets and BREAK as text; a1111 reads weights"
    for pattern, reason in UNUSUAL if syntax == "a1111" else ():
        if found := pattern.search(text):
            yield f"{key}: {found[0]!r}: {reason}; write (word:1.2)"


def chunk(
    text: str, tokenizer: Any, syntax: PromptSyntax = "a1111", embeddings: Mapping[str, int] = NONE
) -> list[list[Token]]:
    """Split a prompt into chunks of at most 75 tokens, at least one; plain text is cut after the first.

    `embeddings` are names and numbers of vectors. A name counts where its tokens are in the text, also with
    other capitals, and its vectors take their place, all in one chunk.
    """
    limit = tokenizer.model_max_length - 2  # the marks of start and end

    def ids(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False, verbose=False).input_ids)

    if syntax == "plain":
        return [[Token(each) for each in ids(text)[:limit]]]
    comma, chunks = ids(",")[-1], list[list[Token]]()
    names = sorted(
        ((found, name) for name in embeddings if (found := ids(name))), key=lambda each: -len(each[0])
    )
    for section in parse_prompt(text):
        chunks.append([])
        for piece in section:
            for group in _grouped(ids(piece.text), names, embeddings):
                if len(chunks[-1]) == limit and group[0] != Token(comma):
                    recent = range(limit - BACKTRACK, limit)
                    end = 1 + max((i for i in recent if chunks[-1][i].id == comma), default=limit - 1)
                    chunks[-1:] = [chunks[-1][:end], chunks[-1][end:]]
                if len(chunks[-1]) + len(group) > limit:
                    chunks.append([])
                chunks[-1] += [token._replace(weight=piece.weight) for token in group]
    return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]


def _grouped(
    ids: list[int], names: Iterable[tuple[list[int], str]], embeddings: Mapping[str, int]
) -> Iterator[list[Token]]:
    """Yield each token alone, and all vectors of an embedding together; the longest name counts."""
    place = 0
    while place < len(ids):
        here = ((len(found), name) for found, name in names if ids[place : place + len(found)] == found)
        length, name = next(here, (1, ""))
        if name:
            yield [Token(-1, embedding=name, vector=i) for i in range(embeddings[name])]
        else:
            yield [Token(ids[place])]
        place += length
