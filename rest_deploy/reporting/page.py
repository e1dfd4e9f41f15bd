"""The page: head, contents and the sections that there is something for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rest_deploy.reporting.markup import Html, element
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.sections.blocks import blocks
from rest_deploy.reporting.sections.compared import compared
from rest_deploy.reporting.sections.exactness import exactness
from rest_deploy.reporting.sections.flips import flips
from rest_deploy.reporting.sections.heading import heading, title
from rest_deploy.reporting.sections.images import images
from rest_deploy.reporting.sections.latency import latency
from rest_deploy.reporting.sections.making import making
from rest_deploy.reporting.sections.regression import regression
from rest_deploy.reporting.sections.tradeoff import tradeoff
from rest_deploy.reporting.stylesheet import STYLE

#: No script, nothing from elsewhere: what a record could smuggle in would not run either.
_POLICY = Html(
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)


@dataclass(frozen=True)
class Section:
    """A section.

    Args:
        name: Of its anchor.
        title: Of its heading.
        content: Of the records; empty where they have nothing for it, and then it is left out.
    """

    name: str
    title: str
    content: Callable[[Records], Html]


SECTIONS = (
    Section("compared", "What was compared", compared),
    Section("tradeoff", "Accuracy against latency", tradeoff),
    Section("latency", "Latency", latency),
    Section("error", "Error by size", exactness),
    Section("images", "Agreement on images", images),
    Section("blocks", "Error by block", blocks),
    Section("flips", "Flipped images", flips),
    Section("regression", "Against an earlier benchmark", regression),
    Section("making", "How it was made", making),
)


def page(records: Records) -> str:
    """A whole document of HTML5."""
    made = [(section, section.content(records)) for section in SECTIONS]
    shown = [(section, content) for section, content in made if content]
    links = [element("li", element("a", section.title, href=f"#{section.name}")) for section, _ in shown]
    body = element(
        "body",
        heading(records),
        element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *(_section(section, content) for section, content in shown)),
    )
    return f"<!DOCTYPE html>\n{element('html', _head(title(records)), body, lang='en')}\n"


def _section(section: Section, content: Html) -> Html:
    return element("section", element("h2", section.title), content, id=section.name)


def _head(name: str) -> Html:
    return element(
        "head",
        element("meta", charset="utf-8"),
        _POLICY,
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", name),
        element("style", STYLE),
    )
