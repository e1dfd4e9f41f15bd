"""Agreement on images: accuracy, agreement and distance of every artifact at every size."""

from __future__ import annotations

from collections.abc import Iterator

from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import Form, cosine, count, deviation, number, percent
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.table import Rows, folded, numbers, table, texts

_FIGURES: dict[str, tuple[str, Form]] = {
    "images": ("images", count),
    "top1_accuracy": ("top-1 accuracy", percent),
    "top5_accuracy": ("top-5 accuracy", percent),
    "top1_agreement": ("top-1 agreement", percent),
    "top5_agreement": ("top-5 agreement", percent),
    "flips": ("flipped", count),
    "kl_divergence": ("KL, mean", deviation),
    "max_kl_divergence": ("KL, largest", deviation),
    "cosine": ("cosine, least", cosine),
    "max_error": ("largest error", deviation),
    "limit": ("limit", deviation),
    "rms_error": ("RMS error", deviation),
    "reference_error": ("float32's own", deviation),
}
_ACCURACY = ("top1_accuracy", "top5_accuracy")


def images(records: Records) -> Html:
    """A table of figures, the images that were left out, and those with the largest errors."""
    found = [artifact for artifact in records.verification["artifacts"] if artifact["images"].value]
    if not found:
        return NOTHING
    data = records.verification["data"]
    names = [name for name in _FIGURES if any(image[name].there for one in found for image in one["images"])]
    columns = [*texts("size"), *numbers(*(_FIGURES[name][0] for name in names))]
    notes = [
        "Agreement: share of images with the reference's best class, and mean share of its best five; flipped: images "
        "with another best class. Errors are of logits.",
        "KL: of the reference's probabilities from the artifact's, in nats.",
    ]
    drawn = table("Agreement with the reference on images", columns, _groups(records, names), notes)
    return join([_data(data), drawn, _largest(found)])


def _groups(records: Records, names: list[str]) -> Iterator[Rows]:
    reference = records.verification["reference"]["name"].text
    rows = list(records.verification["data"]["reference"])
    if rows and any(name in _ACCURACY for name in names):
        cells = [[_size(row), *(number(row[name], _FIGURES[name][1]) for name in names)] for row in rows]
        yield Rows(cells, f"{reference} (the reference)")
    for artifact in records.verification["artifacts"]:
        cells = [[_size(row), *(number(row[name], _FIGURES[name][1]) for name in names)] for row in artifact["images"]]
        if cells:
            yield Rows(cells, f"{artifact['name'].text}: {'passed' if artifact['passed'].value else 'failed'}")


def _size(row: Node) -> str:
    return row["size"].text or Html("as&nbsp;transformed")


def _data(data: Node) -> Html:
    about = "; ".join(filter(None, (data["folder"].text, data["transform"].text, data["note"].text)))
    told = join([number(data["images"], count), f" images of {about}"])
    skipped = [f"{one['image'].text}: {one['error'].text or 'no reason given'}" for one in data["skipped"]]
    items = element("ul", *(element("li", text) for text in skipped))
    left = folded(f"Left out: {len(skipped)} that could not be read", items, opened=False) if skipped else NOTHING
    return join([element("p", told), left]) if data.there else NOTHING


def _largest(found: list[Node]) -> Html:
    """Images with the largest errors."""
    columns = [*texts("image"), *numbers("error", "margin"), *texts("reference's class", "artifact's class")]
    groups = [
        Rows([_worst(one) for one in image["worst_errors"]], join([artifact["name"].text, ", ", _size(image)]))
        for artifact in found
        for image in artifact["images"]
        if image["worst_errors"].value
    ]
    if not groups:
        return NOTHING
    drawn = table("Images with the largest errors", columns, groups)
    return folded("Images with the largest errors", drawn, opened=False)


def _worst(one: Node) -> list[str]:
    figures = [number(one["error"], deviation), number(one["margin"])]
    return [one["image"].text, *figures, class_name(one, "reference"), class_name(one, "artifact")]


def class_name(one: Node, whose: str) -> Html:
    """A class by its name, if it has one, and its index."""
    index, name = one[whose], one[f"{whose}_name"].text
    if not index.there:
        return element("span", name or "unknown", class_="none")
    return join([name, " (", number(index, count), ")"]) if name else number(index, count)
