"""The chat page in Debian's Chromium: what a person at the page does, with everything real behind it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from aquatint.client import Client
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from tests.conftest import ROOT
from tests.e2e.conftest import Metrics, eventually
from tests.e2e.processes import WebServer, chat_environment, mcp_environment
from tests.e2e.test_text_to_image import FOX
from tests.programs import program
from tests.seaweed import free_ports

pytestmark = pytest.mark.e2e

# The machine's network may be closed: the browser itself must not call home.
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = ROOT / "chatbot" / "web" / "node_modules" / "axe-core" / "axe.min.js"
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 844}
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = program("chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def url(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page over the session's Triton, while there is no language model."""
    with served(server, NOBODY, tmp_path_factory.mktemp("page")) as address:
        yield address


@pytest.fixture(scope="module")
def talking_url(server: TritonServer, llm_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page over the session's Triton and vLLM."""
    with served(server, llm_url, tmp_path_factory.mktemp("talking-page")) as address:
        yield address


@contextlib.contextmanager
def served(server: TritonServer, llm_url: str, folder: Path) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        mcp = stack.enter_context(WebServer("aquatint-mcp", mcp_environment(server.grpc_url, folder)))
        chat = stack.enter_context(WebServer("aquatint-chat", chat_environment(mcp.url, llm_url, folder)))
        yield chat.url


@dataclass
class Watch:
    """What must not happen on any page."""

    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextlib.contextmanager
def opened(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """A fresh page that calls nobody else, breaks nothing and keeps to its security policy."""
    watch = Watch()
    context = browser.new_context(**{"viewport": WIDE, "base_url": url, **options})  # type: ignore[arg-type]
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
    page = context.new_page()
    page.set_default_timeout(30_000)
    own = (url, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(own) else watch.foreign.append(r.url))
    page.on("pageerror", lambda error: watch.complaints.append(str(error)))
    page.on("console", lambda m: watch.complaints.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(url)
    yield page
    context.close()
    assert watch == Watch()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as fresh:
        yield fresh


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def done(page: Page) -> None:
    """Wait until the turn has ended."""
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=60_000)


def last_picture(page: Page) -> bytes:
    """The bytes of the last picture in the conversation."""
    source = page.locator(".generated img").last.get_attribute("src")
    assert source is not None
    return page.request.get(source).body()


def set_number(page: Page, label: str, value: str) -> None:
    page.get_by_role("spinbutton", name=label).fill(value)


def settings(page: Page) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()


def test_draw_and_remember(page: Page, grpc_client: Client) -> None:
    """The picture grows in the page, is the one Triton draws for this seed, and is remembered after a reload."""
    settings(page)
    set_number(page, "Seed", str(FOX.seed))
    # Slow enough to be watched.
    set_number(page, "Steps", "150")
    page.get_by_role("button", name="Close settings").click()
    say(page, f"draw {FOX.prompt}")
    expect(page.get_by_test_id("preview")).to_be_visible()
    # A picture that the browser could read, of one pixel per latent.
    expect(page.get_by_test_id("preview")).to_have_js_property("naturalWidth", 8)
    expect(page.locator(".generated img")).to_have_count(0)
    expect(page.get_by_role("progressbar")).to_be_visible()
    done(page)
    wanted = FOX.model_copy(update={"num_inference_steps": 150})
    assert last_picture(page) == grpc_client.generate(wanted).images[0].png
    expect(page.get_by_text(f"Here is {FOX.prompt}.")).to_be_visible()

    page.reload()
    expect(page.locator(".generated img")).to_have_count(1)
    assert last_picture(page) == grpc_client.generate(wanted).images[0].png


@pytest.mark.slow
def test_what_was_asked_for_is_remembered(browser: Browser, talking_url: str) -> None:
    with opened(browser, talking_url) as page:
        say(page, f"draw {FOX.prompt}")
        done(page)
        page.reload()
        expect(page.locator(".generated img")).to_have_count(1)
        say(page, "what did I just ask for?")
        done(page)
        expect(page.locator(".from-aquatint").last).to_contain_text(FOX.prompt)


@pytest.mark.slow
def test_talk(browser: Browser, talking_url: str) -> None:
    with opened(browser, talking_url) as page:
        say(page, "What is the capital of France?")
        done(page)
        expect(page.locator(".from-aquatint")).to_contain_text("Paris")
        expect(page.locator(".generated")).to_have_count(0)
        expect(
            page.get_by_role("navigation").get_by_role("link", name="What is the capital of France?")
        ).to_be_visible()


def test_stop(page: Page, metrics: Metrics) -> None:
    cancelled = metrics("aquatint_requests_total", outcome="Cancelled")
    settings(page)
    set_number(page, "Steps", "150")
    set_number(page, "Number of images", "4")
    say(page, "/imagine a fox")
    expect(page.get_by_test_id("preview")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    assert eventually(lambda: metrics("aquatint_requests_total", outcome="Cancelled") == cancelled + 1)
    set_number(page, "Steps", "4")
    set_number(page, "Number of images", "1")
    page.get_by_role("button", name="Answer again").click()
    done(page)
    expect(page.locator(".generated img")).to_have_count(1)
    expect(page.get_by_text("Stopped.")).to_have_count(0)


def test_settings_are_used_and_kept(page: Page) -> None:
    settings(page)
    page.get_by_label("Size").select_option("80x48")
    set_number(page, "Steps", "5")
    set_number(page, "Guidance", "1")
    set_number(page, "Number of images", "2")
    set_number(page, "Seed", "41")
    page.get_by_label("Negative prompt").fill("fur")
    page.reload()
    say(page, "/imagine a cat")
    done(page)
    expect(page.locator(".generated img")).to_have_count(2)
    page.locator(".generated button").last.click()
    facts = page.get_by_role("dialog")
    for fact in ("80 \N{MULTIPLICATION SIGN} 48", "5", "1", "fur", "mini"):
        expect(facts.get_by_text(fact, exact=True)).to_be_visible()
    expect(facts.get_by_role("textbox", name="Seed")).to_have_value("42")
    page.keyboard.press("Escape")
    expect(facts).to_have_count(0)
    settings(page)
    set_number(page, "Number of images", "11")
    expect(page.get_by_text("from 1 to 10, whole")).to_be_visible()
    say(page, "/imagine a dog")
    expect(page.get_by_text(re.compile("num_images: .*less than or equal to 10"))).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    say(page, "/imagine a dog")
    done(page)
    expect(page.locator(".generated img")).to_have_count(3)


def test_pictures_go_on(page: Page) -> None:
    """Large view, download, copy, the same seed with another prompt, variations, gallery with search."""
    say(page, "/imagine a turtle on a green background")
    done(page)
    page.get_by_role("button", name="Look at a turtle").click()
    dialog = page.get_by_role("dialog")
    seed = dialog.get_by_role("textbox", name="Seed").input_value()
    dialog.get_by_role("button", name="Copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()") == "a turtle on a green background"
    with page.expect_download() as downloaded:
        dialog.get_by_role("button", name="Download").click()
    assert downloaded.value.path().read_bytes() == last_picture(page)

    dialog.get_by_role("button", name="Same seed, change prompt").click()
    expect(page.get_by_text(f"Seed {seed}")).to_be_visible()
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_have_value(
        "/imagine a turtle on a green background"
    )
    say(page, "/imagine a snail on a green background")
    done(page)
    page.get_by_role("button", name="Look at a snail").click()
    expect(dialog.get_by_role("textbox", name="Seed")).to_have_value(seed)

    dialog.get_by_role("button", name="Variations").click()
    expect(page.locator(".generated img")).to_have_count(6, timeout=60_000)
    done(page)

    page.get_by_role("button", name="Gallery").click()
    expect(page.get_by_role("heading", name="Gallery")).to_be_visible()
    page.get_by_role("textbox", name="Search pictures").fill("snail green")
    expect(page.locator(".gallery-images img")).to_have_count(5)
    page.locator(".gallery-images button").first.click()
    dialog.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Really delete").click()
    expect(page.locator(".gallery-images img")).to_have_count(4)
    page.get_by_role("textbox", name="Search pictures").fill("no such picture")
    expect(page.get_by_text("Nothing found")).to_be_visible()


def test_conversations(page: Page) -> None:
    """Edit and send again, rename, search, delete."""
    say(page, "/imagine a lemon")
    done(page)
    page.get_by_role("button", name="Edit and send again").click()
    page.get_by_role("textbox", name="Edited message").fill("/imagine a pear")
    page.locator("form.edit").get_by_role("button", name="Send").click()
    expect(page.get_by_text("Here is a pear.")).to_be_visible()
    done(page)
    expect(page.locator(".message")).to_have_count(2)
    listed = page.get_by_role("navigation")
    expect(listed.get_by_role("link", name="/imagine a pear")).to_be_visible()

    listed.get_by_role("button", name="Actions for /imagine a pear").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_role("textbox", name="Title").fill("Fruit")
    page.get_by_role("button", name="Rename").click()
    expect(listed.get_by_role("link", name="Fruit")).to_be_visible()
    listed.get_by_role("textbox", name="Search conversations").fill("frui")
    expect(listed.get_by_role("link")).to_have_count(1)

    listed.get_by_role("button", name="Actions for Fruit").click()
    with page.expect_download() as downloaded:
        page.get_by_role("menuitem", name="Export as JSON").click()
    assert json.loads(downloaded.value.path().read_text())["title"] == "Fruit"
    listed.get_by_role("button", name="Actions for Fruit").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(listed.get_by_role("link")).to_have_count(0)
    expect(page.get_by_role("heading", name="Talk, and see it drawn")).to_be_visible()


def test_keyboard(page: Page) -> None:
    """Everything a conversation needs, without a mouse."""
    field = page.get_by_role("textbox", name="Message", exact=True)
    field.focus()
    page.keyboard.type("/imagine a frog")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("on a pink background")
    page.keyboard.press("Enter")
    done(page)
    page.get_by_role("button", name="Look at a frog").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_offline_and_back(page: Page) -> None:
    expect(page.get_by_text("Drawing: ready")).to_be_visible()
    page.context.set_offline(True)
    expect(page.get_by_text("The server cannot be reached.")).to_be_visible()
    page.get_by_role("textbox", name="Message", exact=True).fill("/imagine a fox")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    page.context.set_offline(False)
    expect(page.get_by_text("The server cannot be reached.")).to_have_count(0)
    page.keyboard.press("Enter")
    done(page)
    expect(page.locator(".generated img")).to_have_count(1)


def test_triton_goes_and_comes_back(browser: Browser, mini_repository: Path, tmp_path: Path) -> None:
    """Without Triton the page says so in words and offers to try again; without a language model it still draws."""
    http_port, grpc_port = free_ports(2)
    ports = ServerSettings(http_port=http_port, grpc_port=grpc_port, metrics_port=0)
    with contextlib.ExitStack() as stack:
        with TritonServer(mini_repository, ports) as triton:
            mcp = stack.enter_context(WebServer("aquatint-mcp", mcp_environment(triton.grpc_url, tmp_path)))
            chat = stack.enter_context(WebServer("aquatint-chat", chat_environment(mcp.url, NOBODY, tmp_path)))
            page = stack.enter_context(opened(browser, chat.url))
            expect(page.get_by_text("The language model is not ready yet")).to_be_visible()
            say(page, "draw a fox on a blue background")
            done(page)
            expect(page.locator(".generated img")).to_have_count(1)
        say(page, "draw a cat on a red background")
        expect(page.get_by_role("button", name="Try again")).to_be_visible(timeout=60_000)
        expect(page.locator(".message").last).to_contain_text("the server cannot be reached")
        with TritonServer(mini_repository, ports):
            page.get_by_role("button", name="Try again").click()
            expect(page.get_by_text("Here is a cat on a red background.")).to_be_visible(timeout=60_000)
            expect(page.get_by_role("button", name="Try again")).to_have_count(0)
            expect(page.locator(".generated img")).to_have_count(2)


def test_a_server_with_tokens(browser: Browser, server: TritonServer, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        mcp = stack.enter_context(WebServer("aquatint-mcp", mcp_environment(server.grpc_url, tmp_path)))
        settings = {**chat_environment(mcp.url, NOBODY, tmp_path), "AQUATINT_TOKENS": '{"alice": "a-token"}'}
        chat = stack.enter_context(WebServer("aquatint-chat", settings))
        page = stack.enter_context(opened(browser, chat.url))
        page.get_by_label("Access token").fill("a-token")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_text("Drawing: ready")).to_be_visible()
        say(page, "/imagine a fox")
        done(page)
        expect(page.locator(".generated img")).to_have_count(1)


def violations(page: Page) -> list[str]:
    """Serious and critical findings of axe."""
    # By the debugger, not by a script tag, which the page's policy rightly refuses.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{each['id']}: {node['target']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_accessible(browser: Browser, url: str, scheme: str, viewport: dict[str, int]) -> None:
    """axe finds nothing serious on the welcome, a conversation, the settings, a picture and the gallery."""
    with opened(browser, url, color_scheme=scheme, viewport=viewport, reduced_motion="reduce") as page:
        is_dark = page.evaluate("document.documentElement.classList.contains('pf-v6-theme-dark')")
        assert is_dark == (scheme == "dark")
        expect(page.get_by_role("heading", name="Talk, and see it drawn")).to_be_visible()
        assert violations(page) == []
        say(page, "/imagine a fox on a blue background")
        done(page)
        assert violations(page) == []
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"], "the page scrolls sideways"
        page.get_by_role("button", name="Look at a fox").click()
        assert violations(page) == []
        page.keyboard.press("Escape")
        settings(page)
        assert violations(page) == []
        page.get_by_role("button", name="Close settings").click()
        expect(page.get_by_role("heading", name="Settings")).to_be_hidden()
        page.get_by_role("button", name="Gallery").click()
        expect(page.locator(".gallery-images img").first).to_be_visible()
        assert violations(page) == []


def test_theme_switch(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Theme: system")).click()
    page.get_by_role("button", name=re.compile("^Theme: light")).click()
    page.reload()
    assert page.evaluate("document.documentElement.classList.contains('pf-v6-theme-dark')")


def test_no_picture_of_strangers(page: Page) -> None:
    """What a language model writes cannot make the page fetch anything, nor run anything."""
    text = "![x](https://evil.example/pixel.png) <img src=x onerror=alert(1)> <script>alert(1)</script>"
    page.route(
        "**/api/v1/chat/completions", lambda route: route.fulfill(body=_said(text), content_type="text/event-stream")
    )
    say(page, "hello")
    done(page)
    expect(page.locator(".from-aquatint .markdown")).to_contain_text("<script>")
    expect(page.locator(".from-aquatint img")).to_have_count(0)


def _said(text: str) -> str:
    start = {"conversation": {"id": "0" * 32, "title": "t"}, "message": _message(1, "user", "hello")}
    done = {"conversation": start["conversation"], "message": _message(2, "assistant", text)}
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in (("start", start), ("done", done)))


def _message(number: int, role: str, content: str) -> dict[str, object]:
    empty: dict[str, object] = {"status": "complete", "error": None, "tool_calls": [], "usage": None, "images": []}
    return {"id": number, "role": role, "content": content, "created_at": "", **empty}


@pytest.mark.slow
def test_screenshots(browser: Browser, talking_url: str, tmp_path: Path) -> None:
    """Light, dark and narrow; ``make screenshots`` keeps them."""
    folder = Path(os.environ.get("AQUATINT_SCREENSHOTS", tmp_path))
    for name, scheme, viewport in (("light", "light", WIDE), ("dark", "dark", WIDE), ("narrow", "light", NARROW)):
        with opened(browser, talking_url, color_scheme=scheme, viewport=viewport) as page:
            settings(page)
            set_number(page, "Seed", "7")
            page.get_by_role("button", name="Close settings").click()
            say(page, "draw a fox on a blue background")
            done(page)
            say(page, "What did I just ask for?")
            done(page)
            page.evaluate("document.fonts.ready")
            page.screenshot(path=folder / f"chat-{name}.png")
        assert (folder / f"chat-{name}.png").stat().st_size > 10_000
