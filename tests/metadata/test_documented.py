from metadata.documented import EXAMPLES, PAGE, VERSIONS, examples, page
from sdapp.metadata import infotext, named


def test_the_page_on_metadata_is_what_the_readers_do() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/metadata/documented.py"


def test_every_tool_and_place_of_the_readers_has_an_example() -> None:
    assert VERSIONS.keys() == infotext.VERSIONS.keys()
    assert {tool.name for tool in named.TOOLS} < EXAMPLES.keys()
    done = {(tool, place) for tool, place, _ in examples()}
    assert {(tool.name, place) for tool in named.TOOLS for place in tool.places} <= done
    assert {(tool, place) for tool in infotext.VERSIONS.values() for place in infotext.PLACES} <= done
