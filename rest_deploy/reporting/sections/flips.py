"""Flipped images: those that an artifact puts into another class than its reference does."""

from __future__ import annotations

from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import count, number
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.sections.images import class_name
from rest_deploy.reporting.table import folded
from rest_deploy.reporting.thumbnail import thumbnail

_READ = (
    "The largest margin first: by how much the reference's best class leads over its second one. A flip of a small "
    "margin is a coin that fell on the other side; one of a large margin is a mistake."
)


def flips(records: Records) -> Html:
    """Cards for each artifact and size at which any image flipped."""
    found = [
        (artifact, image)
        for artifact in records.verification["artifacts"]
        for image in artifact["images"]
        if image["flips"].value
    ]
    if not found:
        return NOTHING
    groups = [_group(artifact, image, opened=number == 0) for number, (artifact, image) in enumerate(found)]
    return join([element("p", _READ), *groups])


def _group(artifact: Node, image: Node, *, opened: bool) -> Html:
    cards = [_card(one) for one in image["worst_flips"]]
    shown = element("div", *cards, class_="cards") if cards else element("p", "None of them are shown.")
    size = f" at {image['size'].text}" if image["size"].there else ""
    name = element("span", artifact["name"].text, class_="id")
    told = join([name, f"{size}: {len(cards)} of ", number(image["flips"], count), " flipped images shown"])
    return folded(told, shown, opened=opened)


def _card(one: Node) -> Html:
    label, words = one["label"].value, "—"
    if label is not None:
        right = [whose for whose in ("reference", "artifact") if one[whose].value == label]
        words = {"reference": "reference right", "artifact": "artifact right"}.get("".join(right), "both wrong")
    facts = [
        ("reference", class_name(one, "reference")),
        ("artifact", class_name(one, "artifact")),
        ("label", join([class_name(one, "label"), f", {words}"]) if label is not None else "none"),
        ("margin", number(one["margin"])),
        ("error", number(one["error"])),
    ]
    listed = element("dl", *(join([element("dt", name), element("dd", what)]) for name, what in facts))
    name = one["image"].text
    picture = thumbnail(one["thumbnail"].text, f"thumbnail of {name}")
    return element("div", picture, element("div", element("p", name, class_="id"), listed), class_="card")
