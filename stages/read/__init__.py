"""Input rows become seeds: images fetched, decoded, turned upright, made RGB."""
