"""In which order: recipes, placement, sources, plan, run, report, command line. No torch."""
