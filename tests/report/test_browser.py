"""The page in headless Chromium: it runs nothing, loads nothing, and fits a phone."""

import asyncio

import pytest

from pipelines.report.page import write_report
from tests.report.browser import CHROMIUM, browser
from tests.report.made import RUN, workspace
from tests.report.test_hostile import ATTACKS, everywhere, no_slashes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


def look(path, *expressions, **options):
    """The opened page, and what it answers to JavaScript expressions."""

    async def work():
        async with browser() as tab:
            page = await tab()
            await page.open(path, **options)
            return page, [await page.ask(expression) for expression in expressions]

    return asyncio.run(work())


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
STRANGE = "document.querySelectorAll('script, img, iframe, b, link, object, [onclick], [onerror], [style]').length"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return write_report(workspace(folder, no_slashes(everywhere()), [{**RUN, "recipe": " ".join(ATTACKS)}]))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_hostile_page_is_quiet_and_fits(hostile, width, dark):
    page, (overflow, strange, text) = look(
        hostile, OVERFLOW, STRANGE, "document.body.innerText", width=width, dark=dark
    )
    assert (page.requests, page.said, page.dialogs) == ([], [], [])
    assert (overflow, strange) == (0, 0) and "<script>alert(1)</script>" in text and "{{7*7}}" in text


def test_a_real_page_fits_a_phone_and_follows_the_dark(built, tmp_path):
    path = write_report(built, tmp_path / "r.html")
    background = "getComputedStyle(document.body).backgroundColor"
    page, (overflow, light) = look(path, OVERFLOW, background, width=390)
    assert (page.requests, page.said, page.dialogs, overflow, light) == ([], [], [], 0, "rgb(255, 255, 255)")
    _, (dark,) = look(path, background, dark=True)
    assert dark == "rgb(20, 24, 31)"


def test_the_policy_stops_what_escaping_would_miss(hostile, tmp_path):
    """Also the proof that the tests above could fail: the same attacks as markup, with and without the policy."""
    html = hostile.read_text("utf-8")
    raw = "<script>alert(1)</script><img src='http://127.0.0.1:9/x.png' onerror='alert(2)'>"
    (tmp_path / "raw.html").write_text(f"<!doctype html><body>{raw}")
    page, (strange,) = look(tmp_path / "raw.html", STRANGE)
    assert set(page.dialogs) == {"1", "2"} and page.requests == ["http://127.0.0.1:9/x.png"] and strange == 2
    (tmp_path / "guarded.html").write_text(html.replace("<main>", f"<main>{raw}"), "utf-8")
    page, _ = look(tmp_path / "guarded.html")
    assert page.dialogs == [] and len(page.said) >= 2
    assert all("Content Security Policy" in said["entry"]["text"] for said in page.said)


def test_it_prints(built, tmp_path):
    """All of it: also what is folded on the screen."""
    path = write_report(built, tmp_path / "r.html")

    async def work():
        async with browser() as tab:
            page = await tab()
            await page.open(path)
            await page.call("Emulation.setEmulatedMedia", media="print")
            shown = await page.ask("[...document.querySelectorAll('article')].every(one => one.clientHeight > 50)")
            folded = await page.ask("document.querySelectorAll('details:not([open])').length")
            await page.pdf(tmp_path / "r.pdf")
            return shown, folded

    shown, folded = asyncio.run(work())
    assert shown and folded == 1 and (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
