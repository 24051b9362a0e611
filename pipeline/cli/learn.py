"""Arguments of the commands that list recipes, settings and presets."""

from __future__ import annotations

from pipeline.cli.arguments import Add, add_plugins


def add_learn(add: Add) -> None:
    """Commands that list what a recipe and a training run may hold."""
    recipes = add("recipes", "list the recipes, or show the whole chain of one")
    recipes.add_argument("name", nargs="?", metavar="NAME", help="shipped recipe, or a YAML file")
    add_plugins(recipes)

    settings = add(
        "settings",
        "list the stages, or the keys of one: type, default and meaning",
        "Besides stages NAME may be recipe, pairing or placement for their own keys, train for a "
        "training run's, or loss.",
    )
    settings.add_argument("name", nargs="?", metavar="NAME", help="a stage, such as detector")
    settings.add_argument(
        "choice", nargs="?", metavar="BACKEND", help="one of its backends, or a loss"
    )
    add_plugins(settings)

    presets = add("presets", "list the training presets of the papers, or show all of one")
    presets.add_argument("name", nargs="?", metavar="NAME", help="preset, such as mdpo")
