"""Build the site: `.venv/bin/python docs/site/make_site.py FOLDER` writes FOLDER/html.

Pages are the manuals, each at its place in the repository, the notebooks, with the outputs that FOLDER/notebooks has of
them, and the reference from the code. Nothing is fetched, neither here nor by a reader's browser. Exit code 1: a link
leads nowhere, or a page would fetch something.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from reference import command_page, configuration_page, programs

from daemon.cli.reference import fill

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
STAGED = ("*.md", ":!daemon", "docs/*.png", "docs/*.svg", "docs/*.css", "docs/*.js")
"""What git knows by these names becomes part of the site, at its place."""
NOTEBOOKS = REPOSITORY / "docs" / "notebooks"
ICON = "daemon/dashboard/static/icon.svg"
FETCHING = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}


def stage(folder: Path) -> None:
    """Lay out configuration and pages; former ones are removed first."""
    for former in ("pages", "html"):
        shutil.rmtree(folder / former, ignore_errors=True)
    listed = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard", "--", *STAGED]
    for name in [ICON, *subprocess.run(listed, check=True, capture_output=True, text=True).stdout.splitlines()]:
        page = folder / "pages" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, page)
        if page.suffix == ".md":
            page.write_text(page.read_text().replace(".ipynb)", ".md)"))
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        run = folder / "notebooks" / notebook.name
        page = folder / "pages" / notebook.relative_to(REPOSITORY).with_suffix(".md")
        page.parent.mkdir(exist_ok=True)
        page.write_text(_of_notebook(json.loads((run if run.exists() else notebook).read_text()), page))
    shutil.copyfile(HERE / "zensical.toml", folder / "zensical.toml")
    fill(folder / "pages" / "docs")
    reference = folder / "pages" / "reference"
    reference.mkdir()
    (reference / "configuration.md").write_text(configuration_page())
    for program in programs():
        (reference / f"{program}.md").write_text(command_page(program))


def _of_notebook(notebook: dict[str, Any], page: Path) -> str:
    """Return a notebook as Markdown; its pictures are written next to the page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace(".ipynb)", ".md)"))
            continue
        parts.append(f"```python\n{source}\n```")
        texts = "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")
        if texts:
            parts.append(f"```text\n{texts.rstrip()}\n```")
        for number, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            if "image/png" in data:
                picture = page.with_name(f"{page.stem}-{cell['id']}-{number}.png")
                picture.write_bytes(base64.b64decode("".join(data["image/png"])))
                parts.append(f"![{''.join(data['text/plain'])}]({picture.name})")
            elif "text/html" in data:
                table = re.sub(r"<style.*?</style>|</?div[^>]*>", "", "".join(data["text/html"]), flags=re.DOTALL)
                parts.append(re.sub(r"<(table|tr|td|th)\b[^>]*>", r"<\1>", table).strip().replace("\n\n", "\n"))
            elif "text/plain" in data:
                parts.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return "\n\n".join(parts) + "\n"


class _Page(HTMLParser):
    """The anchors of a page, where it leads, and what a browser fetches for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what this element has."""
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and (link := given.get("href")):
            self.links.append(link)
        if source := given.get(FETCHING.get(tag, "")):
            self.fetched.append(source)


def faults(html: Path) -> list[str]:
    """Return what is wrong: links of a page of the site that lead nowhere, and what comes from another host."""
    pages = {path: _Page(path.read_text()) for path in sorted(html.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(html)
        found += [f"{where} would fetch {link}" for link in page.fetched if urlsplit(link).netloc]
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or where.name == "404.html":  # that one's links begin at the server's root
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                found.append(f"{where} leads to {link}, which is not there")
    return found


def main() -> int:
    """Build and check; returns the exit code."""
    folder = Path(sys.argv[1]).resolve()
    stage(folder)
    zensical = Path(sys.executable).with_name("zensical")
    if code := subprocess.run([zensical, "build", "--strict"], cwd=folder, check=False).returncode:
        return code
    found = faults(folder / "html")
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
