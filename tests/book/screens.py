"""Every page of the built book as pictures, at two widths and in two themes, and what a browser finds wrong with it.

`make screens` builds the book and runs this. It ends with exit status 1 where something is wrong.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
WIDTHS, THEMES = (1280, 390), ("light", "dark")
RULES = {"runOnly": ["wcag2a", "wcag2aa"], "preload": False}
"""What axe looks for."""


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as long as it is needed."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


def looked_at(browser: Browser, address: str, page: str, width: int, theme: str, picture: Path | None = None) -> dict:
    """What is wrong with a page: errors, requests to other hosts, pixels beyond its width, and what axe finds.

    Parameters
    ----------
    browser : Browser
    address : str
        Of the book.
    page : str
        Its path, without ``.html``.
    width : int
    theme : str
        light or dark.
    picture : Path, optional
        Gets the whole page as PNG.
    """
    errors: list[str] = []
    elsewhere: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
    tab.goto(f"{address}/{page}.html", wait_until="load")
    tab.wait_for_timeout(300)
    found = Axe().run(tab, options=RULES).response["violations"]
    beyond = tab.evaluate("document.documentElement.scrollWidth") - width
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=picture, full_page=True)
    tab.close()
    return {
        "page": page,
        "width": width,
        "theme": theme,
        "errors": "; ".join(errors),
        "elsewhere": "; ".join(elsewhere),
        "beyond": max(beyond, 0),
        "axe": "; ".join(f"{rule['id']} ({len(rule['nodes'])}): {rule['nodes'][0]['target']}" for rule in found),
    }


def main(
    html: Annotated[Path, typer.Option(help="The built book.")] = ROOT / "_build" / "html",
    into: Annotated[Path, typer.Option(help="Folder for pictures and report.csv.")] = ROOT / "_build" / "screens",
    only: Annotated[list[str] | None, typer.Option(help="A page, e.g. results/training; may be repeated.")] = None,
) -> None:
    """Take pictures of all pages and write what is wrong with them.

    Example: python tests/book/screens.py --only intro --only results/stitching
    """
    pages = sorted(str(path.relative_to(html).with_suffix("")) for path in html.rglob("*.html"))
    pages = [page for page in pages if not page.startswith(("_", "404", "genindex", "index", "search", "own/"))]
    ways = list(product(only or pages, WIDTHS, THEMES))
    with served(html) as address, chromium() as browser:
        lines = [
            looked_at(browser, address, page, width, theme, into / f"{page}-{width}-{theme}.png")
            for page, width, theme in tqdm(ways, "pages", unit="picture")
        ]
    report = pd.DataFrame(lines)
    report.to_csv(into / "report.csv", index=False)
    wrong = report[(report[["errors", "elsewhere", "axe"]] != "").any(axis=1) | (report.beyond > 0)]
    typer.echo(f"{len(report)} pictures in {into}; {len(wrong)} pages and ways have something wrong")
    for line in wrong.itertuples():
        typer.echo(f"{line.page} {line.width} {line.theme}: {line.errors}{line.elsewhere}{line.axe} {line.beyond or ''}")
    raise typer.Exit(int(len(wrong) > 0))


if __name__ == "__main__":
    typer.run(main)
