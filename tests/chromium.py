# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pages in Chromium, headless, driven by Selenium; tests skip where it is missing."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Widths at which a page has to do: a phone, a window, a large one.
WIDTHS = (360, 900, 1600)
#: A4 less its margins, in pixels of 1/96 inch.
PAPER = 718
_ASKED = Path(__file__).with_suffix('.js').read_text()


class Page:
    """A window of the browser, and what it showed, said and fetched."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Any) -> None:
        """Show a file; what was said and fetched before is forgotten."""
        for kind in ('browser', 'performance'):
            self.driver.get_log(kind)
        self.url = Path(path).resolve().as_uri()
        self.driver.execute_script('window.isLeft = true')
        self.driver.get(self.url)
        # On a busy machine it may come back while the last page, or a part of this one, is there.
        there = 'return !window.isLeft && document.readyState === "complete"'
        self._wait(lambda driver: driver.execute_script(there))

    def show(self, width: int, dark: bool = False, printed: bool = False) -> None:
        """Have this width in pixels, and be light or dark, on a screen or on paper."""
        size = dict(width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        media = dict(media='print' if printed else 'screen', features=[scheme])
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', media)

    def ask(self, what: str, *args: Any) -> Any:
        """The value of an expression, with the functions of ``chromium.js``."""
        return self.driver.execute_script(f'{_ASKED}\nreturn {what};', *args)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def said(self) -> list[str]:
        """Errors and warnings of the console since it was last asked."""
        return [
            row['message']
            for row in self.driver.get_log('browser')
            if row['level'] in ('SEVERE', 'WARNING')
        ]

    def fetched(self) -> list[str]:
        """Addresses that were asked for, but those that hold what they are."""
        found = []
        for row in self.driver.get_log('performance'):
            message = json.loads(row['message'])['message']
            if message['method'] == 'Network.requestWillBeSent':
                url = message['params']['request']['url']
                found += [url] if not url.startswith('data:') else []
        return found

    def milliseconds(self) -> float:
        """From the start of the last navigation until all was loaded."""
        # It is 0 while whoever listens to the event is still at work.
        ended = 'performance.getEntriesByType("navigation")[0].loadEventEnd'
        return self._wait(lambda driver: self.ask(ended))

    def _wait(self, what: Callable[[Any], Any]) -> Any:
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 60, 0.05).until(what)

    def pdf(self) -> bytes:
        """As it is printed, on A4."""
        how = dict(paperWidth=8.27, paperHeight=11.69, printBackground=False)
        return base64.b64decode(self.driver.execute_cdp_cmd('Page.printToPDF', how)['data'])

    def picture(self, path: Any, most: int = 20_000) -> None:
        """Save a picture of the page from top to bottom, as PNG."""
        height = min(self.ask('document.documentElement.scrollHeight'), most)
        width = self.ask('innerWidth')
        clip = dict(x=0, y=0, width=width, height=height, scale=1)
        how = dict(captureBeyondViewport=True, clip=clip)
        data = self.driver.execute_cdp_cmd('Page.captureScreenshot', how)['data']
        Path(path).write_bytes(base64.b64decode(data))


@contextmanager
def browser() -> Iterator[Page]:
    """A headless browser with one window; the test is skipped where there is none."""
    selenium = pytest.importorskip('selenium.webdriver', reason='Selenium is not installed')
    chromium = next(
        filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
    )
    driver = shutil.which('chromedriver')
    if not chromium or not driver:
        pytest.skip(
            'Chromium is not installed: on Debian, apt-get install chromium chromium-driver'
        )
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    options.set_capability('goog:loggingPrefs', dict(browser='ALL', performance='ALL'))
    for flag in (
        'headless=new',
        'disable-gpu',
        'disable-dev-shm-usage',
        'force-color-profile=srgb',
    ):
        options.add_argument(f'--{flag}')
    if hasattr(os, 'geteuid') and os.geteuid() == 0:
        options.add_argument('--no-sandbox')
    started = selenium.Chrome(options, selenium.ChromeService(driver))
    try:
        yield Page(started)
    finally:
        started.quit()


def check_page(page: Page, path: Any) -> None:
    """Hold a page to what people and their machines need, at all sizes.

    It fetches nothing and says no error, its pictures are there, nothing sticks
    out, texts are readable (WCAG AA) in light and dark and on paper, tables sort
    by the mouse and the keyboard, and what is folded opens by the keyboard.
    """
    page.show(900)
    page.open(path)
    _nothing(page.ask('markup()'), 'in the markup')
    _check_keyboard(page)
    for table in page.ask('[...document.querySelectorAll("table.sortable")]'):
        _check_sorting(page, table)
    page.ask('document.querySelectorAll("details").forEach((one) => { one.open = true; })')
    for how in (
        dict(dark=False),
        dict(dark=True),
        dict(printed=True),
        dict(dark=True, printed=True),
    ):
        for width in (PAPER,) if how.get('printed') else WIDTHS:
            page.show(width, **how)
            for question in ('missing()', 'overflowing()', 'faint()'):
                _nothing(page.ask(question), f'{question} at {width} px, {how}')
    assert page.pdf().startswith(b'%PDF')
    _nothing(page.said(), 'said in the console')
    _nothing([url for url in page.fetched() if url != page.url], 'fetched')


def _nothing(found: list[str], what: str) -> None:
    """Say what was found; pytest explains no `assert` of a module that holds no tests."""
    if found:
        raise AssertionError('\n'.join([f'{what}:', *found[:20]]))


def _check_keyboard(page: Page) -> None:
    """Go through a page by the Tab key: what is folded opens, and a table sorts."""
    from selenium.webdriver.common.keys import Keys

    folded = page.ask('[...document.querySelectorAll("summary")].filter(seen)')
    heads = page.ask('[...document.querySelectorAll("table.sortable th button")].filter(seen)')[:1]
    left = [*folded, *heads]
    page.ask('document.activeElement.blur(), scrollTo(0, 0), getSelection().removeAllRanges()')
    for _ in range(2000):
        if not left:
            return
        page.press(Keys.TAB)
        focused = page.driver.switch_to.active_element
        if focused not in left:
            continue
        left.remove(focused)
        assert page.ask('getComputedStyle(arguments[0]).outlineStyle', focused) != 'none'
        for key in (Keys.ENTER, Keys.SPACE):
            if focused in folded:
                was = page.ask('arguments[0].parentElement.open', focused)
                page.press(key)
                assert page.ask('arguments[0].parentElement.open', focused) is not was
            else:
                page.press(key)
                way = page.ask('arguments[0].closest("th").getAttribute("aria-sort")', focused)
                assert way == {Keys.ENTER: 'descending', Keys.SPACE: 'ascending'}[key]
                _nothing(page.ask('unsorted(arguments[0].closest("table"))', focused), 'sorting')
    raise AssertionError(f'Tab does not get to {[one.text for one in left]}')


def _check_sorting(page: Page, table: Any) -> None:
    for button in page.ask('[...arguments[0].querySelectorAll("th button")]', table):
        for _ in range(2):
            page.ask('arguments[0].click()', button)
            _nothing(page.ask('unsorted(arguments[0])', table), 'sorting')
