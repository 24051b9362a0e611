"""Input rows become seeds.

Files and URLs are fetched with limits, images decoded, turned upright and made RGB, texts and boxes
checked. Every later stage can rely on what a seed says.
"""
