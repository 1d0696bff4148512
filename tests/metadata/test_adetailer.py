"""The fields of ADetailer in infotext, which are written for details and read as such."""

from typing import Any

import pytest

from sdapp.metadata.infotext_read import read_infotext
from sdapp.metadata.infotext_write import write_infotext
from sdapp.models.locate import locate
from sdapp.planning import plan
from sdapp.settings.layers import Layer
from sdapp.settings.stages import Detail
from sdapp.validation import validate

A1111 = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 3, Size: 512x512, {}, Version: v1.10.1"


def read(fields: str) -> tuple[list[dict[str, Any]], list[str]]:
    found = read_infotext({"parameters": A1111.format(fields)})
    assert found is not None
    return found[1].values.get("detail", []), found[1].left_out


def test_what_is_written_is_read_back() -> None:
    details = [
        {
            "mask_prompt": "house",
            "prompt": "a blue house, old",
            "strength": 0.25,
            "padding": 8,
            "mask_blur": 0,
        },
        {"mask_prompt": "palm tree", "mask_threshold": 0.25, "mask_growth": 0, "negative_prompt": "tree"},
    ]
    config = validate(Layer({"prompt": "a house", "seed": 1, "model": "postcards", "detail": details}))
    job = plan(config, locate("postcards"))[0]
    text = write_infotext(job.model_dump(), "postcards", "1")
    assert 'ADetailer prompt: "a blue house, old", ADetailer confidence: 0.5, ' in text
    assert "ADetailer model 2nd: postcards, ADetailer model classes 2nd: palm tree, " in text
    found = read_infotext({"parameters": text})
    assert found is not None
    assert [Detail(**each).model_dump(exclude={"mask_sha256"}) for each in found[1].values["detail"]] == [
        each.model_dump(exclude={"mask_sha256"}) for each in job.detail
    ]


@pytest.mark.parametrize(
    ("fields", "detail", "left_out"),
    [
        ("ADetailer model: face_yolov8n.pt, ADetailer confidence: 0.3, ADetailer dilate erode: 4, "
         "ADetailer mask blur: 6, ADetailer denoising strength: 0.4, ADetailer inpaint only masked: True, "
         "ADetailer inpaint padding: 16, ADetailer version: 24.11.1",
         [{"mask_prompt": "face", "mask_growth": 4, "strength": 0.4, "padding": 16, "mask_blur": 6}],
         ["ADetailer model: face_yolov8n.pt ('face' is looked for by another model)"]),
        ("ADetailer model: hand_yolov8s.pt, ADetailer prompt: a hand, ADetailer model 2nd: mediapipe_face_full",
         [{"mask_prompt": "hand", "prompt": "a hand"}, {"mask_prompt": "face"}],
         ["ADetailer model: hand_yolov8s.pt ('hand' is looked for by another model)",
          "ADetailer model 2nd: mediapipe_face_full ('face' is looked for by another model)"]),
        ("ADetailer model: yolov8x-worldv2.pt, ADetailer model classes: dog", [{"mask_prompt": "dog"}],
         ["ADetailer model: yolov8x-worldv2.pt ('dog' is looked for by another model)"]),
        ("ADetailer model: mine.pt, ADetailer confidence: 0.3", [],
         ["ADetailer model: mine.pt (sdapp has no words for what it finds)"]),
        ("ADetailer model: face_yolov8n.pt, ADetailer dilate erode: -4, ADetailer denoising strength: 0.4, "
         "ADetailer model 2nd: hand_yolov8s.pt, ADetailer inpaint padding 2nd: wide",
         [{"mask_prompt": "face", "strength": 0.4}, {"mask_prompt": "hand"}],
         ["ADetailer model: face_yolov8n.pt ('face' is looked for by another model)",
          "ADetailer dilate erode: -4 (must be 0 or more)",
          "ADetailer model 2nd: hand_yolov8s.pt ('hand' is looked for by another model)",
          "ADetailer inpaint padding 2nd: wide (must be a whole number)"]),
        ("ADetailer model: hand_yolov8n.pt, ADetailer prompt: \"[PROMPT], a hand\", ADetailer negative prompt: a[SEP]b",
         [{"mask_prompt": "hand", "prompt": "a cat, a hand"}],
         ["ADetailer model: hand_yolov8n.pt ('hand' is looked for by another model)",
          "ADetailer negative prompt: a[SEP]b ([SEP])"]),
        ("ADetailer model: None", [], []),
    ],
)  # fmt: skip
def test_what_a1111_writes_is_read_and_the_rest_named(
    fields: str, detail: list[dict[str, Any]], left_out: list[str]
) -> None:
    found, left = read(fields)
    assert found == detail
    assert [each for each in left if not each.startswith("RNG")] == left_out
