"""The report's page as a tree of its tags, as written or as a browser leaves it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
VOID = {"img", "meta", "link", "path", "rect", "br", "input"}


@dataclass(eq=False)
class Element:
    """A tag of the page, its attributes and what is in it."""

    tag: str
    attrs: dict[str, str]
    parent: Element | None = field(default=None, repr=False)
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", cls: str = "") -> list[Element]:
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if (not tag or child.tag == tag) and (not cls or cls in child.classes):
                    found.append(child)
                found += child.all(tag, cls)
        return found

    @property
    def classes(self) -> list[str]:
        return self.attrs.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class Page(HTMLParser):
    """A small tree of the page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = self.at = Element("root", {})
        self.feed(html)
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is never closed"

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {k: v or "" for k, v in attrs}, self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag, attrs):
        self.at.children.append(Element(tag, {k: v or "" for k, v in attrs}, self.at))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
            self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


def in_browser(path: Path, state: dict[str, str], scratch: Path) -> Element:
    """The page as it stands after its script has run."""
    hash_part = "&".join(f"{k}={v}" for k, v in state.items())
    profile = scratch / "profile"
    flags = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage dump-dom"
    )
    done = subprocess.run(
        [
            CHROMIUM,
            *(f"--{flag}" for flag in flags.split()),
            f"--user-data-dir={profile}",
            f"file://{path}#{hash_part}",
        ],
        capture_output=True,
        timeout=300,
        check=True,
    )
    shutil.rmtree(profile, ignore_errors=True)
    return Page(done.stdout.decode()).root
