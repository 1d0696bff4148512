import json
from io import BytesIO

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from metadata.documented import EXAMPLES, FIELDS, PAGE, VERSIONS, examples, page
from other_readers import read_by_sd_parsers
from sdapp.metadata import infotext, named
from sdapp.metadata.read import read_foreign


def test_the_page_on_metadata_is_what_the_readers_do() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/metadata/documented.py"


def test_every_tool_and_place_of_the_readers_has_an_example() -> None:
    assert VERSIONS.keys() == infotext.VERSIONS.keys()
    assert {tool.name for tool in named.TOOLS} < EXAMPLES.keys()
    done = {(tool, place) for tool, place, _ in examples()}
    assert {(tool.name, place) for tool in named.TOOLS for place in tool.places} <= done
    assert {(tool, place) for tool in infotext.VERSIONS.values() for place in infotext.PLACES} <= done


@pytest.mark.parametrize(
    "texts",
    [
        {"parameters": FIELDS + "v1.10.1"},
        {"prompt": json.dumps(EXAMPLES["ComfyUI"]), "workflow": '{"links": []}'},
        {"invokeai_metadata": json.dumps(EXAMPLES["InvokeAI"])},
        {"sd-metadata": json.dumps(EXAMPLES["InvokeAI 1–2"])},
        {"parameters": json.dumps(EXAMPLES["Fooocus"] | {"base_model_hash": "aa"})},
        {
            "Comment": json.dumps(EXAMPLES["NovelAI"]),
            "Description": EXAMPLES["NovelAI"]["prompt"],
            "Source": "x",
        },
    ],
    ids=["A1111", "ComfyUI", "InvokeAI", "InvokeAI 1–2", "Fooocus", "NovelAI"],
)
def test_sd_parsers_reads_the_same(texts: dict[str, str]) -> None:
    found = read_foreign(texts)
    assert found
    info, buffer = PngInfo(), BytesIO()
    for key, text in texts.items():
        info.add_itxt(key, text)
    Image.new("RGB", (8, 8)).save(buffer, "png", pnginfo=info)
    sampler = read_by_sd_parsers(buffer)
    assert [prompt.value.strip() for prompt in sampler.negative_prompts] == [
        found[1].values["negative_prompt"]
    ]
    assert str(sampler.parameters["seed"]) == str(found[1].values["seed"])
    assert float(sampler.parameters["cfg_scale"]) == found[1].values["guidance_scale"]
