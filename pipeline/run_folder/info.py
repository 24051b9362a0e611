"""`run.json`: what a run is, and whether a second command asks for the same run. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import UsageError
from pipeline.report import RunFacts, Thresholds

PLACES = ("input", "image_root")
"""Fields of `Identity` that may change: the same content at another place."""


@dataclass(frozen=True)
class Identity:
    """What a run is. A rerun must agree in all of it but the `PLACES`."""

    recipe: str
    """Name of the recipe."""
    recipe_digest: str
    """`RecipeBook.digest`."""
    input: str
    """Path or URL, as given."""
    image_root: str | None
    """Folder of relative image paths, where it was given."""
    input_digest: str
    """Fingerprint of the input's content."""
    seed: int
    """The run's seed."""
    shard_size: int
    """Seeds in one shard."""
    limit: int | None
    """`--limit`."""
    schema_version: int
    """`SCHEMA_VERSION` of the code."""


@dataclass(frozen=True)
class RunInfo:
    """`run.json`: written once, after the manifest is whole."""

    identity: Identity
    """What the run is."""
    num_seeds: int
    """Distinct input rows."""
    num_shards: int
    """Parts of a complete run."""
    num_duplicates: int
    """Input rows left out because an equal row came before."""
    recipes: list[str]
    """Names of the chains that every seed goes through."""
    settings: Mapping[str, list[dict[str, Any]]]
    """Per chain, every stage with its settings, defaults included."""
    placement: Mapping[str, Any]
    """The placement of the first attempt."""
    versions: Mapping[str, str]
    """Versions of this code and of the libraries that touch bytes."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Content ids of small files that decide rows, by the setting that names them."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunInfo:
        """The info that `asdict` gave; KeyError or TypeError for another version's fields."""
        return cls(**{**value, "identity": Identity(**value["identity"])})

    def seeds_in(self, shard: int) -> int:
        """Number of seeds of a shard; the last one may have fewer."""
        size = self.identity.shard_size
        return min(size, self.num_seeds - shard * size)

    def check_same(self, url: str, wanted: Identity, files: Mapping[str, str]) -> None:
        """UsageError if the run at `url` is of another recipe, input or seed than `wanted`.

        Also if one of the `files` that decide rows has other content; a file that only one side
        names is not compared.
        """
        # First, for a plugin's content changes the recipe's digest as well, which says less.
        for setting, digest in files.items():
            before = self.files.get(setting, digest)
            if before != digest:
                raise UsageError(
                    f"{url} was begun with other content of the file that {setting} names "
                    f"(content id {before}, now {digest}): put that file back to resume, or give "
                    "another --output"
                )
        old, new = asdict(self.identity), asdict(wanted)
        differ = [key for key in new if key not in PLACES and old[key] != new[key]]
        if differ:
            what = ", ".join(f"{key} {old[key]} (now {new[key]})" for key in differ)
            raise UsageError(
                f"{url} holds a run of another {differ[0].removesuffix('_digest')}: {what}; give "
                "the same arguments to resume, or another --output"
            )

    def part_metadata(self) -> dict[str, str]:
        """Metadata that every part carries."""
        return {
            "nearmiss_recipe_digest": self.identity.recipe_digest,
            "nearmiss_input_digest": self.identity.input_digest,
        }

    def report_facts(self) -> RunFacts:
        """What the report needs and the parts do not hold."""
        return RunFacts(
            recipe=self.identity.recipe,
            recipe_digest=self.identity.recipe_digest,
            seed=self.identity.seed,
            num_seeds=self.num_seeds,
            thresholds=self._thresholds(),
            input=self.identity.input,
            num_duplicates=self.num_duplicates,
            versions=self.versions,
        )

    def _thresholds(self) -> Thresholds:
        """The limits on scores that the recipes set: by recipe, contrast kind and score."""
        found: dict[str, dict[str, dict[str, tuple[str, float]]]] = {}
        for recipe, stages in self.settings.items():
            for stage in stages:
                for kind, limits in (stage.get("limits") or {}).items():
                    for name, value in limits.items():
                        side, _, score = name.partition("_")
                        if value is not None:
                            found.setdefault(recipe, {}).setdefault(kind, {})[score] = (side, value)
        return found  # type: ignore[return-value]  # the sides are "min" and "max" by their names
