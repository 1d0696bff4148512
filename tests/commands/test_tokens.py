"""`sdapp tokens`."""

import json
from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]


def test_tokens_shows_chunks_and_weights(sdapp: Run) -> None:
    assert sdapp("tokens", "a (red:1.3) lighthouse, [snow] BREAK été").stdout.splitlines() == [
        "chunk 1, 5 of 75 tokens: a red×1.3 lighthouse , snow×0.9091",
        "chunk 2, 2 of 75 tokens: é· té",
    ]


def test_tokens_gives_json_and_takes_the_tokenizer_of_a_model(sdapp: Run) -> None:
    [line] = sdapp("tokens", "a (red:1.3) lighthouse", "--json").stdout.splitlines()
    assert json.loads(line)["tokens"][1] == {"id": 736, "text": "red", "weight": 1.3}
    assert "l· ig· h· t· house" in sdapp("tokens", "a lighthouse", "--model", "postcards").stdout


def test_tokens_refuses_what_is_refused_and_notes_what_is_noted(sdapp: Run) -> None:
    refused = sdapp("tokens", "a house AND a tree")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "'AND'" in refused.stderr
    assert "note: prompt: 'house++'" in sdapp("tokens", "a house++").stderr


def test_tokens_says_when_a_prompt_changes(sdapp: Run) -> None:
    rows = sdapp("tokens", "a [red:blue:0.3] house").stdout.splitlines()
    assert rows == [
        "calls 1 to 6, chunk 1, 3 of 75 tokens: a red house",
        "calls 7 to 20, chunk 1, 3 of 75 tokens: a blue house",
    ]
    given = [json.loads(row) for row in sdapp("tokens", "[cat:1]", "--json").stdout.splitlines()]
    assert [(each["from_call"], len(each["tokens"])) for each in given] == [(1, 0), (2, 1)]
