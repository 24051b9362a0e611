"""Small files that a recipe names and whose content decides rows, such as a tagger's thresholds.

Only their paths stand in the recipe's digest: it must not need the files, which may lie on the
workers alone. A run remembers what was in them instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

from pipeline.recipes.build import RecipeBook
from schemas.ids import content_id
from workers.plugin import plugins_of


def content_digests(book: RecipeBook) -> dict[str, str]:
    """Content ids by setting, "removal.tagger.backend.tag_list"; of the files that are here.

    Of plugins by their file, "--plugin mine.py".
    """
    links = [link for recipe in book.recipes for link in recipe.links]
    plugins = {
        f"--plugin {Path(plugin.file).name}": plugin.id
        for value in (*(link.stage for link in links), book.pairing)
        for plugin in plugins_of(value)
    }
    return plugins | {
        where: content_id(path.read_bytes())
        for recipe in book.recipes
        for link in recipe.links
        for where, path in _files(f"{recipe.name}.{link.name}", link.stage)
    }


def _files(where: str, value: object) -> Iterator[tuple[str, Path]]:
    """The settings marked `DECIDING_FILE` of a stage and its backends, where there is a file."""
    for of_value in fields(value) if is_dataclass(value) else ():
        if not of_value.init:
            continue
        place, setting = f"{where}.{of_value.name}", getattr(value, of_value.name)
        if of_value.metadata.get("deciding_file"):
            path = Path(setting).expanduser()
            if path.is_file():
                yield place, path
        else:
            yield from _files(place, setting)
