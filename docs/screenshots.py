"""
Take the pictures of docs/pages.md: `reconciler demo --serve`, then `python docs/screenshots.py URL`.

It needs Playwright (extra `browser`) and Debian's Chromium. Pages are taken as they are, light and
dark, at a desk's and at a phone's width.
"""

import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

FOLDER = Path(__file__).with_name("screenshots")
CHROMIUM = "/usr/bin/chromium"
DESK, PHONE = (1280, 800), (390, 844)
SHOTS = (
    ("now", "/", DESK, "light"),
    ("now", "/", DESK, "dark"),
    ("now", "/", PHONE, "light"),
    ("board", "/tasks?view=board", DESK, "light"),
    ("task", "/tasks/calculator/add-median", DESK, "light"),
    ("task", "/tasks/calculator/add-median", PHONE, "dark"),
    ("log", "/logs/shop/checkout-speed", DESK, "dark"),
    ("diff", "/diff/calculator/add-median", DESK, "light"),
)
"""Name, address, size and colours of each picture."""


def main() -> None:
    """Take them all."""
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, path, size, scheme in SHOTS:
            take(browser, sys.argv[1].rstrip("/") + path, size, scheme, f"{name}-{size[0]}-{scheme}")
        browser.close()


def take(browser: Browser, url: str, size: tuple[int, int], scheme: str, name: str) -> None:
    """Take one."""
    width, height = size
    colours = "dark" if scheme == "dark" else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / f"{name}.png")
    context.close()


if __name__ == "__main__":
    main()
