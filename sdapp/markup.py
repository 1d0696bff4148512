"""A1111's prompt syntax: weights, BREAK, and chunks of 75 tokens, as A1111 1.10 reads them, without torch."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from sdapp.errors import ConfigError

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
SCHEDULE = re.compile(rf"(?<!\\):\s*{DECIMAL}\s*$")  # at the end of square brackets
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


def words(text: str) -> str:
    """The text of a prompt without its markup."""
    if not MARKED.search(text):
        return text
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
    if text.count("(") + text.count("[") > MAX_BRACKETS:
        yield text[:20], f"there are more than {MAX_BRACKETS:,} brackets; {AS_TEXT}"
    opened, bar = list[int](), -1
    for mark in re.finditer(r"\\.|[\[\]|]", text):
        if mark[0] == "[":
            opened.append(mark.start())
        elif mark[0] == "|":
            bar = mark.start()
        elif mark[0] == "]" and opened:
            start, end = opened.pop(), mark.start()
            if bar > start or SCHEDULE.search(text[max(start, end - 40) : end]):
                reason = "prompts that change during a run are not supported; write \\[ for a bracket"
                yield text[start : end + 1], f"{reason}; {AS_TEXT}"


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
