"""A1111's prompt syntax, in the numbers that its own parser gives."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdapp import markup
from sdapp.errors import ConfigError
from sdapp.markup import Piece, parse_prompt
from sdapp.models.originals import clip_tokenizer


@pytest.fixture(scope="module")
def clip() -> Any:
    return clip_tokenizer()


def parsed(text: str) -> list[Piece]:
    """The pieces of a prompt without BREAK; weights rounded as far as a sum of floats is exact."""
    [section] = parse_prompt(text)
    return [Piece(piece.text, round(piece.weight, 12)) for piece in section]


# --- weights ----------------------------------------------------------------------------------------------------

WEIGHTS: list[tuple[str, list[tuple[str, float]]]] = [
    ("normal text", [("normal text", 1)]),
    ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    ("[[dog]]", [("dog", 0.826446280992)]),
    ("(a (b:2) c)", [("a ", 1.1), ("b", 2.2), (" c", 1.1)]),
    ("((a):1.2)", [("a", 1.32)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
         ("sky", 1.4641), (".", 1.1)],
    ),
    (r"\(literal\]", [("(literal]", 1)]),
    (r"a\\b \c", [(r"a\b c", 1)]),
    ("(a:b:1.2)", [("a:b", 1.2)]),
    (r"(a\)b:1.4)", [("a)b", 1.4)]),
    ("(a: 1.2)", [("a: 1.2", 1.1)]),
    ("(a:1.2 )", [("a:1.2 ", 1.1)]),
    ("a:1.2)", [("a:1.2)", 1)]),
    ("a ] b )", [("a ] b )", 1)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(a:0)", [("a", 0)]),
    ("(a:-1)", [("a", -1)]),
    ("()", []),
    ("", []),
    ("BREAKFAST, xBREAKx", [("BREAKFAST, xBREAKx", 1)]),
    ("(word)1.2", [("word", 1.1), ("1.2", 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "pieces"), WEIGHTS, ids=[text for text, _ in WEIGHTS])
def test_weights_are_those_of_a1111(text: str, pieces: list[tuple[str, float]]) -> None:
    assert parsed(text) == pieces


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("a cat BREAK a dog", [[("a cat", 1)], [("a dog", 1)]]),
        ("BREAK a", [[], [("a", 1)]]),
        ("a BREAK", [[("a", 1)], []]),
        ("(a)BREAK[b]", [[("a", 1.1)], [("b", 1 / 1.1)]]),
        ("(a BREAK b:1.3)", [[("a", 1.3)], [("b", 1.3)]]),
    ],
)
def test_break_splits_a_prompt(text: str, sections: list[Any]) -> None:
    assert parse_prompt(text) == sections


LETTERS = st.text(
    st.sampled_from('ab ,()[]:\\|.123-+"BREAK ND\n') | st.characters(exclude_categories=["Cs"]), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(
    LETTERS
    | st.lists(st.sampled_from(["(a", ":1.2)", "]", "[b", "\\", " BREAK ", ", ", "c:"]), max_size=12).map(
        "".join
    )
)
@example("(a" * 500)
@example("(a:" + "9" * 400 + ")")
def test_any_text_parses_and_no_letter_is_lost(text: str) -> None:
    words = markup.words(text)
    assert sum(map(str.isalpha, words)) >= sum(map(str.isalpha, text.replace("BREAK", "")))
    is_unchanged = parse_prompt(text) == [[Piece(text)] if text else []]
    assert is_unchanged >= markup.is_plain(text)
    assert is_unchanged == (not markup.MARKED.search(text))
    list(markup.notes("prompt", text, "a1111"))


def test_words_of_the_old_meaning_have_no_markup() -> None:
    for text in ("a red house", "", " :) 16:9, a]b", "BREAKFAST", "a, b; {c}", "C:/x", "<b>"):
        assert markup.is_plain(text), text
    for text in ("(a)", "a\\b", "a BREAK b", "()", "[a]", "a AND b", "<lora:x:1>"):
        assert not markup.is_plain(text), text


# --- chunks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", [0]),
        ("cat " * 75, [75]),
        ("cat " * 76, [75, 1]),
        ("cat " * 55 + "," + "dog " * 30, [56, 30]),
        ("cat " * 54 + "," + "dog " * 30, [75, 10]),
        ("cat " * 60 + "," + "dog " * 20, [61, 20]),
        ("cat " * 74 + "," + "dog", [75, 1]),
        ("cat " * 75 + "," + "dog", [75, 2]),
        ("cat, " * 37 + "cat" + ", dog", [75, 2]),  # a comma moves nothing
        ("a cat BREAK a dog", [2, 2]),
        ("BREAK a dog", [0, 2]),
        ("a dog BREAK", [2]),
        ("a BREAK BREAK b", [1, 0, 1]),
        ("fire(fox:1.2)", [2]),
        ("firefox", [1]),
    ],
)
def test_chunks_end_where_those_of_a1111_do(text: str, sizes: list[int], clip: Any) -> None:
    assert [len(each) for each in markup.chunk(text, clip)] == sizes


def test_a_token_has_the_weight_of_its_piece(clip: Any) -> None:
    [tokens] = markup.chunk("a (red cat:1.5), [dog]", clip)
    assert [token.weight for token in tokens] == [1, 1.5, 1.5, 1, 1 / 1.1]
    assert clip.decode([token.id for token in tokens]).split() == ["a", "red", "cat", ",", "dog"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["cat", "dog", ",", "(red:1.1)", "BREAK", "[sky]", ",,"]), max_size=200).map(
        " ".join
    )
)
def test_no_chunk_is_too_long_and_no_token_is_lost(text: str) -> None:
    clip = clip_tokenizer_once()
    chunks = markup.chunk(text, clip)
    assert max(map(len, chunks)) <= 75
    assert all(chunks) or "BREAK" in text or len(chunks) == 1
    ids = [token.id for each in chunks for token in each]
    assert ids == clip(markup.words(text), add_special_tokens=False, verbose=False).input_ids


_TOKENIZERS: list[Any] = []


def clip_tokenizer_once() -> Any:
    _TOKENIZERS[:] = _TOKENIZERS or [clip_tokenizer()]
    return _TOKENIZERS[0]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=75))
def test_a_short_prompt_is_one_chunk(text: str) -> None:
    if markup.is_short(text):
        assert len(markup.chunk(text, clip_tokenizer_once())) == 1


# --- prompts that change during a run -----------------------------------------------------------------------------

# At ten calls, as the comments of A1111's prompt_parser.py have them: up to which call, and the prompt.
CHANGING = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|(b:1.1)]", [(call, "(b:1.1)" if call % 2 == 0 else "a") for call in range(1, 11)]),
    ("[fe|]male", [(call, "male" if call % 2 == 0 else "female") for call in range(1, 11)]),
    ("[a|b|c] [d::4]", [(1, "a d"), (2, "b d"), (3, "c d"), (4, "a d"), (5, "b "), (6, "c "), (7, "a "), (8, "b "),
                        (9, "c "), (10, "a ")]),
    (r"\[a|b\] \[a:b:2\]", [(10, r"\[a|b\] \[a:b:2\]")]),
    ("[a:b:c:2] [a|b:2] (a|b) a:b:2", [(10, "[a:b:c:2] [a|b:2] (a|b) a:b:2")]),
    ("[a:b:0] [c:d:1.0] [e:f:99]", [(10, "b c e")]),
    ("[a:b:" + "9" * 400 + ".0] [c:d:" + "9" * 5000 + "] [e:f:-3]", [(10, "a c f")]),
    ("[sea\n|sky]", [(call, "sky" if call % 2 == 0 else "sea\n") for call in range(1, 11)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "changes"), CHANGING, ids=[text for text, _ in CHANGING])
def test_prompts_change_where_they_do_in_a1111(text: str, changes: list[tuple[int, str]]) -> None:
    found = markup.texts_by_call(text, 10)
    assert found == tuple(
        next(each for end, each in changes if call <= end) for call in range(1, len(found) + 1)
    )
    assert len(found) == (1 if text == changes[0][1] else 10)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("a [b:c:1.0]", "a c"),
        ("[a::0.5] b", " b"),
        ("[a|b|c]", "c"),
        ("[a:[b:c:9]:2]", "c"),
        ("[a] (b:2)", "[a] (b:2)"),
    ],
)
def test_a_pass_over_a_finished_image_has_the_last_prompt(text: str, last: str) -> None:
    assert markup.last_text(text) == last


@given(st.text("[](): |\\.19ab", max_size=60), st.integers(1, 30))
def test_any_brackets_are_read(text: str, calls: int) -> None:
    found = markup.texts_by_call(text, calls)
    assert len(found) in (1, calls)
    assert len(markup.last_text(text)) <= len(text)
    assert all(len(each) <= len(text) for each in found)


# --- what is refused, and what is said ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a cat AND a dog", "AND"),
        ("a <lora:ink:0.8> cat", "<lora:ink:0.8>.*--lora FILE"),
        ("(a:1.2.3)", r"1\.2\.3.*no number"),
        ("(a" * 1001, r"more than 1,000 brackets"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=f"^prompt: .*{part}"):
        markup.check("prompt", text)


@pytest.mark.parametrize(
    "text",
    ["[a]", "[a:b]", r"[a\|b]", "a | b", "(a|b)", r"\[a:0.5\]", "sand, BAND", "(a:1.2)", "[a (b:0.5)]"],
)
def test_what_is_supported_is_not_refused(text: str) -> None:
    markup.check("prompt", text)
    markup.check("negative_prompt", f"{text} AND more")


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("cat++ dog", ["cat++"]),
        ("a (cat)1.2", [")1.2"]),
        ("(cat: 1.2)", [": 1.2)"]),
        ("(cat:1.2), C++x, (a)1girl", []),
    ],
)
def test_the_weights_of_others_get_a_note(text: str, notes: list[str]) -> None:
    told = list(markup.notes("prompt", text, "a1111"))
    assert [note.split("'")[1] for note in told] == notes


def test_weights_in_a_plain_prompt_get_a_note() -> None:
    assert list(markup.notes("prompt", "a cat", "plain")) == []
    [note] = markup.notes("prompt", "a (cat:1.2)", "plain")
    assert "a1111 reads weights" in note


@pytest.mark.parametrize(
    "text",
    ["(" * 10**6, "[a" * 10**5 + "]" * 10**5, ":" + "1" * 10**6, " " * 10**6, "[|" * 10**5],
    ids=lambda text: text[:2],
)
def test_the_time_for_hostile_text_grows_with_its_length_only(text: str) -> None:
    """With the square of it, this would take hours."""
    markup.is_plain(text)
    list(markup.notes("prompt", text, "a1111"))
    with suppress(ConfigError):
        markup.check("prompt", text)
        markup.words(text)


# --- embeddings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("a thing house", [10]),
        ("a THING, things (thing:1.2)", [19]),
        ("thing" + " cat" * 66, [74]),
        ("cat " * 68 + "thing", [68, 8]),  # all vectors in one chunk
        ("cat " * 60 + ", " + "cat " * 7 + "thing", [68, 8]),
        ("cat " * 60 + ", " + "cat " * 14 + "thing", [61, 22]),
        ("my thing two", [2]),
        ("my\nthing", [9]),
    ],
)
def test_the_vectors_of_an_embedding_take_the_place_of_its_name(
    text: str, sizes: list[int], clip: Any
) -> None:
    names = {"thing": 8, "my thing two": 2}
    assert [len(each) for each in markup.chunk(text, clip, embeddings=names)] == sizes


def test_vectors_have_the_weight_of_their_name_and_are_in_order(clip: Any) -> None:
    [tokens] = markup.chunk("a (thing:1.5) cat", clip, embeddings={"thing": 3, "": 2, " ": 2})
    vectors = [markup.Token(-1, 1.5, "thing", i) for i in range(3)]
    assert tokens[1:4] == vectors
    assert len(tokens) == 5
