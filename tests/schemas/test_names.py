"""What is said about a name that nobody knows."""

from schemas.names import unknown


def test_the_nearest_name_and_all_of_them():
    assert unknown("stage", "detecter", ["tagger", "detector"]) == (
        "unknown stage 'detecter'; did you mean detector? known are tagger, detector"
    )
    # However it is written.
    assert "did you mean IC-VCO?" in unknown("format", "ic_vco", ["llava", "IC-VCO"])


def test_a_name_like_no_other():
    said = unknown("stage", "zzz", (name for name in ("tagger", "detector", "tagger")))
    assert said == "unknown stage 'zzz'; known are tagger, detector"
    assert unknown("key of clip", "zzz", []) == "unknown key of clip 'zzz'; there are none"
