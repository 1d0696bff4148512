"""The page of an explanation: one HTML file that works offline."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdapp.diffusion.process import Process
from sdapp.explanations import charts, views
from sdapp.pages.format import seconds
from sdapp.pages.page import render_page
from sdapp.pages.sources import to_data_uri
from sdapp.records import Result


def render(
    process: Process,
    result: Result,
    decode: views.Decode,
    shapes: Mapping[str, list[int]],
    command: str,
) -> Iterator[bytes]:
    """Yield the parts of the page; `decode` makes images of latents, `shapes` are those of written arrays."""
    assert result.image is not None
    assert result.record is not None
    image, guidance = result.image, views.guidance_sizes(process)
    values: dict[str, Any] = {
        "job": result.job,
        "record": result.record,
        "seconds": seconds(result.record.seconds),
        "frame": charts.FRAME,
        "image": views.Picture(to_data_uri(image), f"The finished image: {result.job.prompt}"),
        "size": image.size,
        "facts": views.facts(process, result.job),
        "tokens": views.token_rows(process),
        "heat_maps": views.heat_maps(process),
        "trip": views.trip_pictures(process),
        "channels": views.channel_pictures(process.trip.latents),
        "noised": views.noised_pictures(process, decode),
        "shares": charts.shares_chart(process),
        "sigmas": charts.sigmas_chart(process),
        "steps": views.steps(process, decode),
        "distances": charts.values_chart(
            "Distance of the predicted image to the last one", views.distances(process)
        ),
        "guided": views.guided_steps(process, decode) if guidance else [],
        "guidance": charts.values_chart(
            "How much the prompt changes what the UNet says", guidance, "guided call"
        ),
        "words": views.word_pictures(process, image),
        "shapes": shapes,
        "command": command,
    }
    return render_page(Path(__file__).parent, "explain", ("page",), **values)
