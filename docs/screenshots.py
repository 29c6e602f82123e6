"""
Take the pictures of docs/pages.md of the fleet of `showcase.py`, once it has run for some minutes.

`python docs/screenshots.py URL` takes those that stand there; with a folder behind the URL it takes
every page there, light and dark, at a desk's and at a phone's width, and puts them together on the
sheets `every-N.webp`. It needs Playwright (extra `browser`) and Debian's Chromium.
"""

import base64
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FOLDER = Path(__file__).with_name("screenshots")
CHROMIUM = "/usr/bin/chromium"
DESK, PHONE = (1280, 800), (390, 844)
QUALITY = 80
"""Of WebP: small, and still sharp."""
PAGES = {
    "now": "/",
    "tasks": "/tasks",
    "board": "/tasks?view=board",
    "live": "/tasks/shop/checkout-speed",
    "failed": "/tasks/shop/returns",
    "review": "/tasks/shop/round-totals",
    "waits": "/tasks/search/train-ranking",
    "broken": "/tasks/search/typo",
    "log": "/logs/shop/checkout-speed",
    "diff": "/diff/shop/round-totals",
    "hosts": "/hosts",
    "host": "/hosts/build1",
    "agents": "/agents",
    "plan": "/plan",
    "pull": "/plan?revision=%231",
    "history": "/history",
    "cost": "/cost",
    "problems": "/problems",
    "new": "/new",
    "login": "/login",
    "file": "/files/specs/tasks/shop/returns.yaml",
    "nothing": "/tasks?q=nothing-like-that",
    "missing": "/tasks/missing",
}
"""Address of every page, by name."""
CHOSEN = (
    ("now", DESK, "light"),
    ("now", DESK, "dark"),
    ("now", PHONE, "light"),
    ("board", DESK, "light"),
    ("failed", DESK, "light"),
    ("review", PHONE, "dark"),
    ("log", DESK, "dark"),
    ("diff", DESK, "light"),
)
"""Name, size and colours of the pictures in the documentation."""
ON_SHEET = 3
"""Pages on a sheet: a row each."""


def main() -> None:
    """Take them."""
    url, *folders = sys.argv[1:]
    folder = Path(folders[0]) if folders else FOLDER
    folder.mkdir(exist_ok=True)
    every = [(name, size, scheme) for name in PAGES for size in (DESK, PHONE) for scheme in ("light", "dark")]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, size, scheme in every if folders else CHOSEN:
            path = folder / f"{name}-{size[0]}-{scheme}.webp"
            take(browser, url.rstrip("/") + PAGES[name], size, scheme, path)
        if folders:
            put_together(browser, folder)
        browser.close()


def take(browser: Browser, url: str, size: tuple[int, int], scheme: str, path: Path) -> None:
    """Take one."""
    width, height = size
    colours = "dark" if scheme == "dark" else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(500)
    save(page, path)
    context.close()


def save(page: Page, path: Path) -> None:
    """Write what a page shows as WebP."""
    session = page.context.new_cdp_session(page)
    shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    path.write_bytes(base64.b64decode(shot["data"]))


def put_together(browser: Browser, folder: Path) -> None:
    """Make the sheets of every page."""
    page = browser.new_page(viewport={"width": 1480, "height": ON_SHEET * 365})
    sheet = folder / "sheet.html"
    names = list(PAGES)
    for first in range(0, len(names), ON_SHEET):
        sheet.write_text("".join(map(_row, names[first : first + ON_SHEET])))
        page.goto(sheet.resolve().as_uri())
        save(page, FOLDER / f"every-{first // ON_SHEET + 1}.webp")
    sheet.unlink()


def _row(name: str) -> str:
    """Return a page's pictures as HTML."""
    style = "height: 330px; outline: 1px solid #888; margin: 2px"
    shots = [f"{name}-{size[0]}-{scheme}.webp" for size in (DESK, PHONE) for scheme in ("light", "dark")]
    images = (f'<img src="{shot}" style="{style}">' for shot in shots)
    return f'<div style="font: 12px sans-serif; white-space: nowrap">{PAGES[name]}<br>{"".join(images)}</div>'


if __name__ == "__main__":
    main()
