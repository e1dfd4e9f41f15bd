"""Markup: what is a plain string is text, whatever is in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rest_deploy.reporting.markup import Html, element, join, visible
from tests.reporting.pages import read


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("p", "<b>", Html("<i></i>")) == "<p>&lt;b&gt;<i></i></p>"
    assert element("p", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'
    assert join(["<", Html("<br>")], " & ") == "&lt; &amp; <br>"


def test_what_is_joined_without_care_is_escaped_again() -> None:
    assert element("p", f"{element('b', 'x')} y") == "<p>&lt;b&gt;x&lt;/b&gt; y</p>"


def test_attributes() -> None:
    assert element("a", class_="x", data_key="k", hidden=True, open=False, id=None, x=1.5, y=2.0, n=3) == (
        '<a class="x" data-key="k" hidden x="1.5" y="2" n="3"></a>'
    )
    assert element("meta", name="n") == '<meta name="n">'


def test_nothing_hides_in_a_text() -> None:
    assert visible("a\tb\r\nc  d") == "a b c d"
    assert visible("\x00\x1b[31m\x7f") == "\\x00\\x1b[31m\\x7f"
    assert visible("abc\u202egnp.exe\u2066\u200b") == "abc\\u202egnp.exe\\u2066\\u200b"
    assert visible("\ud800\u2028") == "\\ud800\\u2028"
    assert visible("Größe 模型 שלום") == "Größe 模型 שלום"
    assert visible("x" * 5000) == "x" * 2000 + "… (3,000 characters more)"


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_comes_back(inside: str, beside: str) -> None:
    page = read(element("p", inside, title=beside))
    assert page.elements == [("p", {"title": visible(beside)})]
    assert page.text.strip(" ") == visible(inside).strip(" ")
