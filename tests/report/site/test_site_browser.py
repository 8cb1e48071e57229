"""The site in a real browser: headless Chromium, from files, at desk and phone width."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thalweg.catalog.paper import Paper

pytestmark = pytest.mark.service

SIZES = {"desk": (1280, 800), "phone": (390, 844)}
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SHOWN = "() => [...document.querySelectorAll('.paper, .finding')].filter(e => e.checkVisibility()).map(e => e.id)"
WIDTH = "document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def browser(require_service: Callable[[object, str], None]) -> Iterator[Any]:
    path = shutil.which("chromium")
    require_service(path, "chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page of the site; fails at the end on any console message, error, or request for anything outside of it."""
    contexts, trouble = [], []

    def outside(request: Any) -> None:
        if not request.url.startswith(site.as_uri() + "/") and not request.url.startswith("data:"):
            trouble.append(request.url)

    def failed(request: Any) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # an image that the next page no longer needs
            trouble.append(f"failed: {request.url}")

    def opened(page: str = "index.html", size: str = "desk", **options: Any) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        tab.on("request", outside)
        tab.on("requestfailed", failed)
        tab.goto(f"{site.as_uri()}/{page}")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def test_the_search_narrows_and_ranks(visit: Callable[..., Any], papers: dict[str, Paper]) -> None:
    page = visit()
    box = page.get_by_label("Search", exact=True)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    box.fill("ADÁPTERS ùseful")  # both words must be somewhere
    assert page.evaluate(SHOWN) == [] and page.locator(".nothing").is_visible()
    box.fill("Ádapters wéight")
    found = page.evaluate(SHOWN)
    texts = {slug: f"{paper.title} {' '.join(paper.topics)}" for slug, paper in papers.items()}
    assert set(found) == {slug for slug, text in texts.items() if "adapters" in text.lower()}
    assert page.locator(".count").inner_text() == f"{len(found)} of 123 papers"
    box.fill("grokking")
    found = page.evaluate(SHOWN)
    inside = {
        slug for slug, paper in papers.items() if "grokking" in f"{paper.title} {paper.summary} {paper.topics}".lower()
    }
    assert set(found) == inside
    by_title = ["grokking" in papers[slug].title.lower() for slug in found]
    assert by_title == sorted(by_title, reverse=True) and page.get_by_label("Order").input_value() == "match"
    box.fill(f"arxiv {papers['descent-010'].arxiv}")
    assert page.evaluate(SHOWN) == []
    box.fill(papers["descent-010"].arxiv)
    assert page.evaluate(SHOWN) == ["descent-010"]
    box.fill("")
    assert len(page.evaluate(SHOWN)) == 123


def test_filters_combine_and_the_address_keeps_them(
    visit: Callable[..., Any], papers: dict[str, Paper], checks: list
) -> None:
    page = visit()
    words = {check.result.slug: check.result.verdict.word for check in checks if check.result.scale == "cpu"}
    page.get_by_label("Verdict", exact=True).select_option("partly")
    partly = {slug for slug, word in words.items() if word == "partly"}
    assert set(page.evaluate(SHOWN)) == partly
    seam = papers[next(iter(sorted(partly)))].seam
    page.locator(".seams label", has_text=seam).click()
    both = {slug for slug in partly if papers[slug].seam == seam}
    assert set(page.evaluate(SHOWN)) == both and 0 < len(both) < len(partly)
    topic = papers[next(iter(sorted(both)))].topics[0]
    page.get_by_label("Topic").select_option(topic)
    assert set(page.evaluate(SHOWN)) == {slug for slug in both if topic in papers[slug].topics}
    page.get_by_label("Order").select_option("title")
    address = page.url
    assert f"seam={seam}" in address and "verdict=partly" in address and "sort=title" in address
    again = visit(address.rpartition("/")[2])
    assert again.evaluate(SHOWN) == page.evaluate(SHOWN) != []
    assert again.get_by_label("Topic").input_value() == topic and again.get_by_label("Order").input_value() == "title"
    page.get_by_role("button", name="Clear all").click()
    assert len(page.evaluate(SHOWN)) == 123 and "#" not in page.url and page.locator(".clear").first.is_hidden()


def test_every_order_shows_all_papers(visit: Callable[..., Any], papers: dict[str, Paper]) -> None:
    page = visit()
    newest = page.evaluate(SHOWN)
    order = page.get_by_label("Order")
    order.select_option("oldest")
    assert page.evaluate(SHOWN) == newest[::-1]
    order.select_option("title")
    titles = [papers[slug].title for slug in page.evaluate(SHOWN)]
    assert titles[0].startswith("Adapters") and len(titles) == 123
    order.select_option("verdict")
    dates = page.evaluate("[...document.querySelectorAll('.paper')].map(e => e.dataset.date)")
    assert dates == sorted(dates, reverse=True) and dates[0] == "2026-11-28"


def test_links_inside_of_the_list_add_to_the_filters(visit: Callable[..., Any], papers: dict[str, Paper]) -> None:
    page = visit("index.html#status=checked")
    row = page.locator(".paper:visible").first
    topic = row.locator(".topics a").first.inner_text()
    row.locator(".topics a").first.click()
    assert "status=checked" in page.url and page.get_by_label("Topic").input_value() == topic
    page.goto(page.url.partition("#")[0] + "#seam=nowhere&topic=no-such-topic&sort=odd")
    assert page.evaluate(SHOWN) == [] and page.get_by_label("Topic").input_value() == "no-such-topic"
    page.locator(".nothing button").click()
    assert len(page.evaluate(SHOWN)) == 123


def test_pages_are_reached_by_links_from_files(visit: Callable[..., Any], papers: dict[str, Paper]) -> None:
    page = visit("index.html#status=checked")
    first = page.evaluate(SHOWN)[0]
    page.locator(".paper:visible h3 a").first.click()
    assert page.url.endswith(f"papers/{first}.html") and page.locator("h1").inner_text() == papers[first].title
    page.locator(".topics a").first.click()
    page.wait_for_load_state()
    assert page.locator(".count").inner_text().endswith("of 123 papers")
    page.go_back()
    page.locator("[rel=next]").click()
    assert page.url.endswith(".html") and first not in page.url
    page.get_by_role("link", name="Races").click()
    page.locator(".races a").click()
    assert page.url.endswith("races/mnist5k.html") and page.locator("#answer").is_visible()


def test_the_gallery_filters_by_phenomenon(visit: Callable[..., Any], papers: dict[str, Paper]) -> None:
    page = visit("findings.html")
    page.locator(".seams label", has_text="grokking").click()
    titles = page.locator(".finding:visible").count()
    assert 0 < titles < 41 and page.locator(".count").inner_text() == f"{titles} of 41 findings"
    images = page.evaluate(
        "async () => { for (const i of document.images) i.loading = 'eager';"
        " await Promise.all([...document.images].map(i => i.decode()));"
        " return [...document.images].every(i => i.naturalWidth > 0); }"
    )
    assert images and page.url.endswith("#topic=grokking")


@pytest.mark.parametrize("size", list(SIZES))
def test_a_finding_says_what_came_out_and_opens_its_paper(
    visit: Callable[..., Any], papers: dict[str, Paper], size: str
) -> None:
    page = visit("findings.html", size)
    by_text = {paper.finding.text: paper for paper in papers.values() if paper.finding}
    heads = page.locator(".finding h2").all_inner_texts()
    assert len(heads) == 41 and set(heads) == set(by_text)
    first = page.locator(".finding").first
    paper = by_text[first.locator("h2").inner_text()]
    link = first.get_by_role("link", name=paper.title, exact=True)
    assert first.locator(".badge").inner_text() == paper.finding.verdict and link.is_visible()
    box, head = first.bounding_box(), first.locator("h2").bounding_box()
    assert head["x"] >= 0 and head["x"] + head["width"] <= SIZES[size][0] and head["height"] < 0.4 * box["height"]
    page.mouse.click(head["x"] + 5, head["y"] + 5)  # the whole card leads there
    page.wait_for_url(f"**/papers/{paper.slug}.html")
    assert page.locator(".answer .found").inner_text() == paper.finding.text
    page.go_back()
    page.locator(".finding .source a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/papers/{paper.slug}.html")


def test_the_search_knows_findings_and_not_their_details(visit: Callable[..., Any], checks: list) -> None:
    page = visit()
    box = page.get_by_label("Search", exact=True)
    box.fill("half of what it says")
    assert set(page.evaluate(SHOWN)) == {check.result.slug for check in checks if check.result.scale == "cpu"}
    box.fill("slope")
    assert page.evaluate(SHOWN) == []


@pytest.mark.parametrize(("size", "scheme"), [("desk", "dark"), ("phone", "light")])
def test_no_page_scrolls_sideways(visit: Callable[..., Any], site: Path, checks: list, size: str, scheme: str) -> None:
    page = visit("index.html", size, color_scheme=scheme)
    for name in ("index.html", f"papers/{checks[0].result.slug}.html", "findings.html", "races.html", "verdicts.html"):
        page.goto(f"{site.as_uri()}/{name}")
        assert page.evaluate(WIDTH) <= SIZES[size][0], name
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(map(int, paper[4:-1].split(","))) / 3
        assert lightness > 200 if scheme == "light" else lightness < 60


def test_a_phone_folds_the_filters_and_a_wide_page_shows_them(visit: Callable[..., Any]) -> None:
    page = visit("index.html", "phone")
    assert not page.get_by_label("Verdict", exact=True).is_visible()
    page.locator(".more summary").click()
    assert page.get_by_label("Verdict", exact=True).is_visible()
    page.locator(".more summary").click()
    page.set_viewport_size({"width": 1000, "height": 400})
    page.get_by_label("Verdict", exact=True).wait_for(state="visible")


def test_everything_can_be_read_without_javascript(visit: Callable[..., Any], checks: list) -> None:
    page = visit("index.html", java_script_enabled=False)
    assert page.locator(".paper").count() == 123 and page.locator(".paper").last.is_visible()
    assert not page.locator(".filters").is_visible() and not page.locator(".nothing").is_visible()
    page.locator(".paper h3 a").first.click()
    assert page.locator("h1").is_visible()
    page.goto(page.url.rpartition("/")[0] + f"/{checks[0].result.slug}.html")
    assert page.locator(".canvas svg").count() == 2 and page.locator("pre", has_text="Lion").first.is_visible()


def test_the_keyboard_reaches_content_and_shows_where_it_is(visit: Callable[..., Any]) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main" and len(page.evaluate(SHOWN)) == 123
    page.locator("#f-topic").focus()
    page.keyboard.press("Shift+Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.locator(".seams input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "init" and "seam=init" in page.url
    ring = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert page.evaluate(ring) == "solid"


def test_print_hides_what_only_a_screen_needs(visit: Callable[..., Any]) -> None:
    page = visit()
    page.emulate_media(media="print")
    assert not page.locator(".filters").is_visible() and page.locator(".paper").first.is_visible()
