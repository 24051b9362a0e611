"""The command line and all that happens around the workers: which stages run, where, in what order.

`run.py` is the flow; rooms hold what it calls: recipes, sources, pairing, engine, run_folder,
report, export, inspect, demo. Nothing here imports torch; Ray is imported when a run starts.
"""
