"""How well a model tells the pictures of a pair apart, without a judge."""
