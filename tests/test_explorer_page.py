"""The explorer in a real browser, served by a real server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import live
import pytest
from conftest import Serving
from proxy import proxied
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

from app.web import explorer

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless=new",
    "--no-sandbox",  # Chromium's sandbox does not run as root, and CI is root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
]
SECONDS = 20
PREFIX = "/team/tasks"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options, Service("/usr/bin/chromedriver")) as driver:
        yield driver


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that a proxy publishes below a prefix."""
    with live.demo(tmp_path_factory.mktemp("prefixed"), ROOT_PATH=PREFIX) as served:
        yield served


@pytest.fixture
def page(browser: Chrome, demo: Serving) -> Chrome:
    """The explorer after a first visit; the browser's logs contain this load only."""
    return visited(browser, demo)


def visited(browser: Chrome, served: Serving, address: str = "") -> Chrome:
    browser.get("about:blank")
    browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": served.url, "storageTypes": "all"})
    log(browser, "browser")
    log(browser, "performance")
    browser.get(address or served.explorer)
    wait(browser, lambda: "query MyTasks" in text(browser, ".graphiql-query-editor"))
    return browser


def wait(page: Chrome, condition: Callable[[], bool]) -> None:
    WebDriverWait(page, SECONDS).until(lambda _: condition())


def text(page: Chrome, selector: str) -> str:
    """The visible text, with the editor's no-break spaces replaced."""
    return " ".join(element.text for element in page.find_elements(By.CSS_SELECTOR, selector)).replace("\xa0", " ")


def log(page: Chrome, kind: str) -> list[dict[str, Any]]:
    """Chromium's log entries since the last call."""
    entries: list[dict[str, Any]] = page.get_log(kind)  # type: ignore[no-untyped-call]  # selenium lacks the type
    return entries


def click(page: Chrome, selector: str) -> None:
    WebDriverWait(page, SECONDS).until(element_to_be_clickable((By.CSS_SELECTOR, selector))).click()


def run(page: Chrome) -> None:
    click(page, "button[aria-label^='Execute query']")
    wait(page, lambda: '"data"' in text(page, ".result-window"))


def run_instead(page: Chrome, query: str) -> None:
    """Replace the query, and run it."""
    click(page, ".graphiql-query-editor .view-lines")
    page.switch_to.active_element.send_keys(Keys.CONTROL, "a")
    # Pasted as text: typed keys would trigger the editor's suggestions.
    page.execute_cdp_cmd("Input.insertText", {"text": query})
    wait(page, lambda: text(page, ".graphiql-query-editor .view-lines") == query)
    click(page, "button[aria-label^='Execute query']")


def addresses_asked(page: Chrome) -> list[str]:
    """All URLs that the page has requested since it was loaded, including blocked ones."""
    messages: list[dict[str, Any]] = [json.loads(entry["message"])["message"] for entry in log(page, "performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def test_first_query_shows_the_demo_tasks(page: Chrome) -> None:
    """The default query runs unchanged with the prefilled token."""
    run(page)
    wait(page, lambda: '"totalCount"' in text(page, ".result-window"))
    assert '"viewer": {' in text(page, ".result-window")
    assert '"errors"' not in text(page, ".result-window")


def test_console_stays_empty(page: Chrome) -> None:
    """Loading and running a query logs nothing: no error, no violation of the content security policy."""
    run(page)
    assert log(page, "browser") == []


def test_inline_script_is_refused(page: Chrome) -> None:
    """The page's content security policy blocks inline scripts."""
    add = "const it = document.createElement('script'); it.textContent = 'window.ran = true'; document.head.append(it);"
    assert page.execute_script(f"{add} return window.ran === true") is False


def test_every_request_goes_to_the_server_itself(page: Chrome, demo: Serving) -> None:
    """All requests go to the server's own origin, so the explorer works offline."""
    run(page)
    asked = [address for address in addresses_asked(page) if not address.startswith("data:")]
    assert f"{demo.url}/explorer/" in " ".join(asked)
    assert {urlsplit(address)._replace(path="", query="").geturl() for address in asked} == {demo.url}


def test_headers_pane_holds_the_token(page: Chrome) -> None:
    """The headers pane is open and contains an Authorization header."""
    wait(page, lambda: '"Authorization": "Bearer ey' in text(page, "[aria-label='Headers']"))


def test_token_is_not_stored(page: Chrome) -> None:
    """The browser stores no token, so a reload never restores an older one."""
    run(page)
    wait(page, lambda: page.execute_script("return Object.keys(localStorage).some((key) => key.endsWith('tabState'))"))
    assert "Bearer" not in page.execute_script("return JSON.stringify(localStorage)")


def test_docs_pane_lists_the_fields_of_query(page: Chrome) -> None:
    """The docs pane shows the schema from introspection."""
    click(page, "button[aria-label='Show Documentation Explorer']")
    wait(page, lambda: "Query" in text(page, ".graphiql-doc-explorer-content"))
    page.find_element(By.LINK_TEXT, "Query").click()
    wait(page, lambda: {"viewer", "tasks"} <= set(text(page, ".graphiql-doc-explorer-field-name").split()))


def test_explorer_pane_lists_fields(page: Chrome) -> None:
    """The explorer pane opens and offers the fields to select."""
    click(page, "button[aria-label='Show GraphiQL Explorer']")
    wait(page, lambda: {"viewer", "tasks", "title"} <= set(text(page, ".graphiql-explorer-root").split()))


def test_unknown_field_is_underlined(page: Chrome) -> None:
    """The editor's worker validates the query against the schema."""
    click(page, ".graphiql-query-editor .view-lines")
    page.switch_to.active_element.send_keys(" nope ")
    wait(page, lambda: bool(page.find_elements(By.CSS_SELECTOR, ".graphiql-query-editor .squiggly-error")))


def test_prettify_keeps_the_console_empty(page: Chrome) -> None:
    """The formatter, which is loaded on demand, formats the query and logs nothing."""
    click(page, "button[aria-label^='Prettify query']")
    wait(page, lambda: "taskStats {\n" in text(page, ".graphiql-query-editor"))
    assert log(page, "browser") == []


def test_subscription_runs_with_the_token_of_the_headers_pane(browser: Chrome, tmp_path: Path) -> None:
    """It uses a WebSocket to the server's own origin, which the content security policy allows."""
    with live.demo(tmp_path) as served:
        page = visited(browser, served)
        run_instead(page, "subscription { ticks(count: 3) }")
        wait(page, lambda: '"ticks": 3' in text(page, ".result-window"))
        assert log(page, "browser") == []


def test_token_leaves_the_address(page: Chrome, demo: Serving) -> None:
    """The token is removed from the address bar and the history, and was in no request."""
    assert page.current_url == f"{demo.url}/graphql"
    assert not [address for address in addresses_asked(page) if "token" in address or demo.token in address]
    page.back()
    page.forward()
    wait(page, lambda: page.current_url == f"{demo.url}/graphql")


def test_token_in_an_open_tab(browser: Chrome, demo: Serving) -> None:
    """Opening the printed address in a tab that has the explorer without a token signs in."""
    page = visited(browser, demo, f"{demo.url}/graphql")
    wait(page, lambda: "Bearer <token>" in text(page, "[aria-label='Headers']"))
    page.get(demo.explorer)
    wait(page, lambda: '"Authorization": "Bearer ey' in text(page, "[aria-label='Headers']"))
    assert page.current_url == f"{demo.url}/graphql"


@pytest.mark.parametrize("strips", [True, False])
def test_behind_a_prefix(browser: Chrome, prefixed: Serving, *, strips: bool) -> None:
    """Page, files, queries and subscriptions work behind a proxy, whether or not it strips the prefix."""
    with proxied(prefixed.url, PREFIX, strips=strips) as url:
        page = visited(browser, prefixed, f"{url}{PREFIX}/graphql#token={prefixed.token}")
        run(page)
        assert '"totalCount": 5' in text(page, ".result-window")
        run_instead(page, "subscription { ticks(count: 3) }")
        wait(page, lambda: '"ticks": 3' in text(page, ".result-window"))
        assert log(page, "browser") == []


def test_page_without_explorer_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the built files, the page says how to build them and shows a request that works."""
    monkeypatch.setattr(explorer, "ASSETS", tmp_path)
    html = explorer.page()
    assert "scripts/explorer" in html
    assert "Authorization: Bearer TOKEN" in html
    assert """-d '{"query": "{ viewer { email } }"}'""" in html
