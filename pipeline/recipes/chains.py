"""The chains of a recipe book, as workers run them. Knows no placement and no run directory."""

from __future__ import annotations

from pipeline.recipes.build import RecipeBook
from pipeline.version import code_version
from schemas.outcomes import Origin
from schemas.records import SCHEMA_VERSION, Step
from workers.chain import Chain


def make_chains(book: RecipeBook, seed: int) -> tuple[Chain, ...]:
    """One chain a recipe, each with the origin that its rows will state; `seed` is the run's."""
    return tuple(
        Chain(
            Origin(
                recipe=recipe.name,
                recipe_digest=recipe.digest,
                run_seed=seed,
                code_version=code_version(),
                schema_version=SCHEMA_VERSION,
                steps=tuple(Step(link.name, s) for link, s in recipe.steps()),
            ),
            recipe.links,
        )
        for recipe in book.recipes
    )
