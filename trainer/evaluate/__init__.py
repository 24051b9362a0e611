"""How well a model tells the images of a pair apart, without a judge."""
