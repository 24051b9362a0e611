"""Input formats: one module each, from files to rows with their place."""
