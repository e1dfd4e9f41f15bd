"""The report in a browser: it opens without a complaint, holds its numbers, and fits a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.report import write_report
from tests.report import samples
from tests.report.browser import NAMES, Browser, started
from tests.report.pages import at

_POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
_OPEN = "document.querySelectorAll('details').forEach(one => one.open = true)"
#: Elements past the right edge of the page, but for what scrolls in a box of its own.
_OUTSIDE = """[...document.body.querySelectorAll('*')]
  .filter(one => !one.closest('.scroll > *'))
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(one => one.outerHTML.slice(0, 90))"""
#: Texts of plots that leave their plot, or that meet another text of it.
_CROWDED = """[...document.querySelectorAll('svg.chart')].flatMap(plot => {
  const edge = plot.getBoundingClientRect();
  const boxes = [...plot.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  const out = boxes.filter(([, box]) => box.left < edge.left || box.right > edge.right || box.bottom > edge.bottom);
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4;
  const met = boxes.flatMap(([text, a], at) =>
    boxes.slice(at + 1).filter(([, b]) => meet(a, b)).map(([other]) => text + ' meets ' + other));
  return [...out.map(([text]) => text + ' leaves its plot'), ...met];
})"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as found:
        if found is None:
            pytest.skip(f"needs a browser to look at the page: none of {', '.join(NAMES)} is on the PATH")
        yield found


@pytest.fixture(scope="module")
def records() -> dict[str, Any]:
    return dict(zip(("verification", "benchmark"), samples.troubled(), strict=True))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, records: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, **records)
    return path


def test_the_page_opens_without_a_complaint_and_asks_for_nothing(browser: Browser, report: Path) -> None:
    browser.look(width=1280)
    browser.open(report)
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("data:image/")] == [report.as_uri()]


@pytest.mark.parametrize(
    "broken",
    [
        "<script>nothing.at.all()</script>",
        _POLICY + "<script>1</script>",
        _POLICY + "<img src='data:image/png;base64,AAAA'>",
        "<img src='data:image/png;base64,AAAA' onerror='console.log(1)'>",
        "<link rel='stylesheet' href='missing.css'>",
    ],
)
def test_a_broken_page_is_complained_of(browser: Browser, tmp_path: Path, broken: str) -> None:
    page = tmp_path / "broken.html"
    page.write_text(f"<!DOCTYPE html><title>x</title>{broken}")
    browser.open(page)
    assert browser.complaints() != []


def test_the_page_as_built_holds_every_number(browser: Browser, report: Path, records: dict[str, Any]) -> None:
    browser.open(report)
    script = "[...document.querySelectorAll('data')].map(one => [one.title, one.value, one.textContent])"
    told = browser.evaluate(script)
    assert len(told) > 1000
    assert all(text and tip.endswith(f" = {value}") for tip, value, text in told)
    assert [tip for tip, value, _ in told if json.loads(value) != at(records, tip.partition(" = ")[0])] == []


def test_pictures_are_drawn(browser: Browser, report: Path) -> None:
    browser.open(report)
    sizes = browser.evaluate("[...document.images].map(one => one.naturalWidth)")
    assert set(sizes) == {8, 128}


@pytest.mark.parametrize("width", [360, 600, 1000, 1280])
def test_nothing_scrolls_sideways_but_tables(browser: Browser, report: Path, width: int) -> None:
    browser.look(width=width)
    browser.open(report)
    browser.evaluate(_OPEN)
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate(_OUTSIDE) == []


def test_what_sticks_out_is_found(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text("<!DOCTYPE html><title>x</title><div style='width:2000px'>x</div>")
    browser.look(width=360)
    browser.open(page)
    assert not browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert len(browser.evaluate(_OUTSIDE)) == 1


def test_no_text_of_a_plot_leaves_it_or_meets_another(browser: Browser, report: Path) -> None:
    browser.look(width=1280)
    browser.open(report)
    assert browser.evaluate(_CROWDED) == []
    browser.evaluate("document.querySelector('svg.chart text').setAttribute('x', 400)")
    assert len(browser.evaluate(_CROWDED)) >= 1


@pytest.mark.parametrize("text", ["x" * 300, "a word " * 60, "<b>\u202e", "模型" * 80])
def test_any_names_fit(browser: Browser, tmp_path: Path, text: str) -> None:
    page = tmp_path / "report.html"
    checked, timed = samples.one_of_each()
    write_report(page, verification=_named(checked, text), benchmark=_named(timed, text))
    browser.look(width=360)
    browser.open(page)
    browser.evaluate(_OPEN)
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate(_OUTSIDE) == []
    assert browser.evaluate(_CROWDED) == []
    assert browser.complaints() == []


def _named(record: dict[str, Any], text: str) -> dict[str, Any]:
    """A copy with another text everywhere, its pictures kept; names of contenders still differ."""

    def changed(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: changed(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [changed(one, key) for one in value]
        kept = not isinstance(value, str) or key == "thumbnail"
        return value if kept else text + value if key in ("name", "contender", "network") else text

    return changed(record, "") | {"kind": record["kind"]}


def test_text_of_plots_can_be_read_on_a_phone(browser: Browser, report: Path) -> None:
    browser.look(width=360)
    browser.open(report)
    scales = browser.evaluate("[...document.querySelectorAll('svg.chart')].map(one => one.getScreenCTM().a * 11)")
    assert min(scales) > 9


def test_day_night_and_paper(browser: Browser, report: Path) -> None:
    script = "getComputedStyle(document.body).backgroundColor"
    colours = []
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        browser.look(width=1000, scheme=scheme, media=media)
        browser.open(report)
        colours.append(browser.evaluate(script))
    assert colours[1] != colours[0]
    assert colours[2] == colours[0]


def test_paper_shows_what_is_folded(browser: Browser, report: Path) -> None:
    script = "[...document.querySelectorAll('details table')].every(one => one.checkVisibility())"
    browser.look(width=1000)
    browser.open(report)
    assert not browser.evaluate(script)
    browser.look(width=700, media="print")
    assert browser.evaluate(script)
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
