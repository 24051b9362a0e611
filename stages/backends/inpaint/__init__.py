"""What fills a hole: LaMa, PatchMatch, OpenCV."""
