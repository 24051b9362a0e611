"""Near misses made by changing pixels, and the geometry and colour that this takes."""
