"""Why a record leaves the flow early."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a record left the flow. The values are the strings stored in Parquet."""

    # The row as it came in.
    IMAGE_NOT_FOUND = "image_not_found"
    BAD_IMAGE = "bad_image"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    BAD_BOX = "bad_box"
    BAD_TEXT = "bad_text"
    TEXT_TOO_LONG = "text_too_long"
    MISSING_ANSWER = "missing_answer"
    # What the recipe needs and this row does not have.
    NO_TAG = "no_tag"
    NO_REGION = "no_region"
    NOT_IN_ANSWER = "not_in_answer"
    AMBIGUOUS_REGION = "ambiguous_region"
    REGION_TOO_SMALL = "region_too_small"
    REGION_TOO_LARGE = "region_too_large"
    BAD_SEGMENTATION = "bad_segmentation"
    NO_COLOR_WORD = "no_color_word"
    COLOR_MISMATCH = "color_mismatch"
    NO_COUNT_WORD = "no_count_word"
    COUNT_MISMATCH = "count_mismatch"
    NO_FREE_PLACE = "no_free_place"
    NO_SIDE_WORD = "no_side_word"
    SIDE_IN_PROMPT = "side_in_prompt"
    NO_GIVEN_NEGATIVE = "no_given_negative"
    SHAPE_MISMATCH = "shape_mismatch"
    EXTREME_ASPECT = "extreme_aspect"
    # What a chat model said, or did not say.
    MODEL_REFUSED = "model_refused"
    BAD_REPLY = "bad_reply"
    NOTHING_TO_EDIT = "nothing_to_edit"
    CONTRAST_LOST = "contrast_lost"
    NO_ANSWER_PAIR = "no_answer_pair"
    # Judgements on the finished candidate.
    TOO_SIMILAR = "too_similar"
    TOO_DIFFERENT = "too_different"
    NOT_SELECTED = "not_selected"
    NO_CHANGE = "no_change"
    DRIFTED = "drifted"
    NO_CHANGE_INSIDE = "no_change_inside"
    CHANGE_OUTSIDE = "change_outside"
    NO_TEXT_DIFFERENCE = "no_text_difference"
    REFUTED = "refuted"
    # Trouble.
    MODEL_ERROR = "model_error"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    REQUEST_FAILED = "request_failed"
