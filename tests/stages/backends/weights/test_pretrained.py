from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from fakes.tiny.clip import save_clip
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.backends.weights.pretrained import require_vocabulary

CHECKPOINT = Checkpoint("openai/clip-vit-base-patch32")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return CLIPTokenizer.from_pretrained(save_clip(tmp_path_factory.mktemp("clip")))


@pytest.mark.parametrize("padding", [0, 1, 64])
def test_a_model_may_have_more_embeddings_than_tokens(tokenizer, padding):
    require_vocabulary(tokenizer, len(tokenizer) + padding, Path("folder"), CHECKPOINT)


def test_a_tokenizer_without_words_is_refused():
    with pytest.raises(CheckpointError, match=r"folder has 2 tokens, the model reads 49408"):
        require_vocabulary(CLIPTokenizer(), 49408, Path("folder"), CHECKPOINT)


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    with pytest.raises(CheckpointError, match="and of this model"):
        require_vocabulary(tokenizer, len(tokenizer) - 1, Path("folder"), CHECKPOINT)
