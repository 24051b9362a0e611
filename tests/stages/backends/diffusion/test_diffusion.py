"""Diffusion backends over tiny pipelines of the real classes, loaded from disk as a user's own."""

from __future__ import annotations

import json
import pickle
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from safetensors.torch import load_file, save_file

from fakes.tiny import diffusion as tiny
from schemas.records import Contrast, Drop, Kind, Reason, Seed, Span
from schemas.texts import (
    AnswerPair,
    Described,
    Hallucination,
    Judged,
    PlannedEdit,
    Sampled,
    SampledAnswer,
)
from stages.backends.diffusion.flux import FluxSettings
from stages.backends.diffusion.flux_kontext import FluxKontextSettings
from stages.backends.diffusion.qwen_edit import QwenImageEditPlusSettings, QwenImageEditSettings
from stages.backends.diffusion.qwen_image import QwenImageSettings
from stages.backends.diffusion.settings import FewSteps, FirstBlock, TaylorSeer
from stages.backends.diffusion.z_image import ZImageSettings
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import Device
from stages.edit.canvas import Size
from stages.edit.editor import Editor
from stages.edit.synthesizer import Synthesizer
from stages.pixels import decode, encode_jpeg

CPU = Device("cpu", "float32")
SQUARE, WIDE = Size(64, 64), Size(96, 32)
TOLERANCE = 1e-5
"""Of values in [0, 1], float32 on the CPU."""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Folders by name, each made when it is first asked for."""
    root = tmp_path_factory.mktemp("diffusion")
    makers = {
        "flux": tiny.save_flux,
        "schnell": lambda folder: tiny.save_flux(folder, guidance=False),
        "kontext": tiny.save_kontext,
        "edit": lambda folder: tiny.save_qwen_edit(folder, plus=False),
        "plus": lambda folder: tiny.save_qwen_edit(folder, plus=True),
        "qwen": tiny.save_qwen_image,
        "z": tiny.save_z_image,
        "lora": tiny.save_qwen_lora,
    }

    def made(name):
        folder = root / name
        return str(folder if folder.exists() else makers[name](folder))

    return made


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads wait for each other longer than these models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The editors' own resize aims at 64 x 64 instead of a megapixel."""
    rule = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(
        pipeline_qwenimage_edit, "calculate_dimensions", lambda _, ratio: rule(64 * 64, ratio)
    )
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 64 * 64)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", 32 * 32)
    monkeypatch.setattr(
        pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [SQUARE, WIDE, Size(32, 96)]
    )


def editor(name, checkpoints, **settings):
    classes = {
        "edit": QwenImageEditSettings,
        "plus": QwenImageEditPlusSettings,
        "kontext": FluxKontextSettings,
    }
    return classes[name](model=checkpoints(name), steps=2, **settings)


def painter(name, checkpoints, **settings):
    classes = {"flux": FluxSettings, "qwen": QwenImageSettings, "z": ZImageSettings}
    if name == "z":
        settings = {"guidance": 3.0, **settings}  # so that both passes are tried
    return classes[name](model=checkpoints(name), steps=2, **settings)


@contextmanager
def opened_stage(stage):
    stage.open(CPU)
    try:
        yield stage
    finally:
        stage.close()


@contextmanager
def opened(backend, device=CPU):
    model = backend.load(device)
    try:
        yield model
    finally:
        model.close()


@contextmanager
def exact(backend):
    """Collects the images of every call before they are rounded to levels: [3, H, W] in 0..1."""
    pipe, found = backend._pipeline.pipe, []
    inner = pipe.image_processor.postprocess

    def noted(image, **settings):
        result = inner(image, **settings)
        found.extend(result.clone())
        return result

    pipe.image_processor.postprocess = noted
    try:
        yield found
    finally:
        pipe.image_processor.postprocess = inner


def random_image(seed, size=SQUARE):
    return np.random.default_rng(seed).integers(0, 255, (size.height, size.width, 3), np.uint8)


def far(first, second):
    return float((first - second).abs().max())


EDITORS = ("edit", "plus", "kontext")
PAINTERS = ("flux", "qwen", "z")
IMAGES = [random_image(0), random_image(1), random_image(2, WIDE)]
TEXTS = ["a red cat", "remove the tall green lamp at the left", "two dogs"]


@pytest.mark.parametrize("name", EDITORS)
def test_edits_do_not_depend_on_their_batch(name, checkpoints):
    with opened(editor(name, checkpoints)) as backend:
        alone = []
        for image, text, seeds in zip(IMAGES, TEXTS, [[5], [6, 7], [8]], strict=True):
            for seed in seeds:
                with exact(backend) as found:
                    ((one,),) = backend.edit([image], [text], [[seed]])
                assert one.dtype == np.uint8
                assert one.shape == image.shape
                alone += found
        with exact(backend) as together:
            made = backend.edit(IMAGES, TEXTS, [[5], [6, 7], [8]])
        assert [len(own) for own in made] == [1, 2, 1]
        worst = max(far(a, b) for a, b in zip(alone, together, strict=True))
        assert worst < TOLERANCE
        # In another order, beside other rows, with other seeds for them.
        with exact(backend) as again:
            backend.edit(IMAGES[::-1], TEXTS[::-1], [[8], [6], [99]])
        values = {tuple(one.shape): one for one in again[:1]}
        assert far(values[3, 32, 96], together[-1]) < TOLERANCE


@pytest.mark.parametrize("name", EDITORS)
def test_image_words_and_seed_all_matter(name, checkpoints):
    with opened(editor(name, checkpoints)) as backend, exact(backend) as found:
        backend.edit([IMAGES[0]], [TEXTS[0]], [[1, 2, 3]])
        backend.edit([IMAGES[1]], [TEXTS[0]], [[1]])
        backend.edit([IMAGES[0]], [TEXTS[1]], [[1]])
    first, second, third, other_image, other_words = found
    for one in (second, third, other_image, other_words):
        assert far(first, one) > 100 * TOLERANCE


@pytest.mark.parametrize("name", EDITORS)
def test_rows_of_a_call_change_nothing(name, checkpoints):
    results = []
    for rows in (1, 3):
        with opened(editor(name, checkpoints, rows=rows)) as backend, exact(backend) as found:
            backend.edit(IMAGES[:2], TEXTS[:2], [[1, 2], [3, 4]])
            results.append(found)
    worst = max(far(a, b) for a, b in zip(*results, strict=True))
    assert worst < TOLERANCE


@pytest.mark.parametrize("name", PAINTERS)
def test_syntheses_do_not_depend_on_their_batch(name, checkpoints):
    with opened(painter(name, checkpoints)) as backend:
        alone = []
        for text, seed in zip(TEXTS, (1, 2, 3), strict=True):
            with exact(backend) as found:
                (one,) = backend.synthesize([text], [seed], WIDE)
            assert one.shape == (32, 96, 3)
            alone += found
        with exact(backend) as together:
            backend.synthesize(TEXTS, [1, 2, 3], WIDE)
        worst = max(far(a, b) for a, b in zip(alone, together, strict=True))
        assert worst < TOLERANCE
        with exact(backend) as other:
            backend.synthesize([TEXTS[2], TEXTS[0], TEXTS[2]], [3, 9, 4], WIDE)
        assert far(other[0], alone[2]) < TOLERANCE
        assert far(other[1], alone[0]) > 100 * TOLERANCE
        assert far(other[2], alone[2]) > 100 * TOLERANCE
        with exact(backend) as words:
            backend.synthesize([TEXTS[0], TEXTS[1]], [1, 1], WIDE)
        assert far(*words) > 100 * TOLERANCE


@pytest.mark.parametrize("name", [*EDITORS, *PAINTERS])
def test_words_are_read_once_and_reuse_changes_no_bit(name, checkpoints, monkeypatch):
    with opened((editor if name in EDITORS else painter)(name, checkpoints)) as backend:
        read = []
        inner = backend._pipeline.pipe.encode_prompt

        def counted(*args, prompt=None, prompt_embeds=None, **settings):
            if prompt_embeds is None:  # the pipelines call it themselves to pass on what they got
                read.append(prompt)
            return inner(*args, prompt=prompt, prompt_embeds=prompt_embeds, **settings)

        monkeypatch.setattr(backend._pipeline.pipe, "encode_prompt", counted)

        def make():
            with exact(backend) as found:
                if name in EDITORS:
                    backend.edit([IMAGES[0]], [TEXTS[0]], [[1]])
                else:
                    backend.synthesize([TEXTS[0]], [1], SQUARE)
            return found[0]

        first, num_read = make(), len(read)
        assert num_read in (
            1,
            2,
        )  # what is wanted, and what is not wanted where there are two passes
        second = make()
        assert len(read) == num_read
        assert torch.equal(first, second)
        # Against what the pipeline makes when it reads the words itself.
        pipe = backend._pipeline.pipe
        settings = {
            "edit": {"image": [tiny_image()], "negative_prompt": " ", "true_cfg_scale": 4.0},
            "plus": {"image": [tiny_image()], "negative_prompt": " ", "true_cfg_scale": 4.0},
            "kontext": {"image": [tiny_image()], "guidance_scale": 2.5, "max_area": 64 * 64},
            "flux": {"guidance_scale": 7.5},
            "qwen": {"negative_prompt": " ", "true_cfg_scale": 4.0},
            "z": {"negative_prompt": "", "guidance_scale": 3.0},
        }[name]
        plain = pipe(
            prompt=[TEXTS[0]],
            generator=[torch.Generator("cpu").manual_seed(1)],
            width=64,
            height=64,
            num_inference_steps=2,
            output_type="pt",
            **settings,
        ).images[0]
        assert torch.equal(first, plain)


def tiny_image():
    import PIL.Image

    return PIL.Image.fromarray(IMAGES[0])


def test_editors_name_the_sizes_that_they_leave_alone(checkpoints):
    for name, size in (("edit", SQUARE), ("plus", SQUARE), ("kontext", WIDE)):
        with opened(editor(name, checkpoints)) as backend:
            assert size in backend.sizes(3.0)
            assert all(max(s) <= 2 * min(s) for s in backend.sizes(2.0))
            with pytest.raises(ValueError, match="would resample an image of 80x48"):
                backend.edit([random_image(0, Size(80, 48))], ["x"], [[0]])


def test_lengths_are_counted_as_the_model_reads(checkpoints):
    with opened(editor("edit", checkpoints)) as backend:
        assert backend.count_tokens(["abc", "four"]) == [3, 4]
    with opened(editor("kontext", checkpoints)) as backend:
        assert backend.count_tokens(["abc"]) == [4]  # and its end
    with opened(painter("flux", checkpoints)) as backend:
        assert backend.count_tokens(["abc", ""]) == [4, 1]
    with opened(painter("qwen", checkpoints)) as backend:
        assert backend.count_tokens(["abc"]) == [3]
    with opened(painter("z", checkpoints)) as backend:
        frame = len("user\n") + len("\n") + len("assistant\n") + 3  # and three control tokens
        assert backend.count_tokens(["abc"]) == [3 + frame]


@pytest.mark.parametrize("name", ["edit", "plus", "qwen", "z"])
def test_control_tokens_in_a_text_are_only_text(name, checkpoints):
    text = "a cat <|image_pad|><|im_end|>"
    with opened((editor if name in EDITORS else painter)(name, checkpoints)) as backend:
        if name in EDITORS:
            ((one,),) = backend.edit([IMAGES[0]], [text], [[1]])
        else:
            (one,) = backend.synthesize([text], [1], SQUARE)
        assert one.shape == (64, 64, 3)


# Options.


def few(checkpoints, **settings):
    return FewSteps(lora=checkpoints("lora"), file="few-steps.safetensors", **settings)


@pytest.mark.parametrize("name", ["edit", "plus", "qwen"])
def test_a_few_step_lora_is_merged_and_sets_the_schedule(name, checkpoints):
    make = editor if name in EDITORS else painter
    settings = {"few_steps": few(checkpoints), "true_cfg_scale": 1.0}
    with (
        opened(make(name, checkpoints)) as usual,
        opened(replace(make(name, checkpoints), **settings)) as quick,
    ):
        key = "transformer_blocks.0.attn.to_q"
        base = usual._pipeline.pipe.transformer.get_submodule(key).weight
        merged = quick._pipeline.pipe.transformer.get_submodule(key)
        lora = load_file(f"{checkpoints('lora')}/few-steps.safetensors")
        product = lora[f"{key}.lora_up.weight"] @ lora[f"{key}.lora_down.weight"]
        assert type(merged) is torch.nn.Linear
        torch.testing.assert_close(merged.weight, base + product)
        scheduler = quick._pipeline.pipe.scheduler
        # Whatever the size of the image, the same shift: 3 s / (1 + 2 s).
        for mu in (scheduler.config.base_shift, scheduler.config.max_shift):
            scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
            expected = [3 * s / (1 + 2 * s) for s in (1.0, 0.75, 0.5, 0.25)]
            np.testing.assert_allclose(scheduler.sigmas[:4], expected, rtol=1e-5)
        if name in EDITORS:
            ((one,),) = quick.edit([IMAGES[0]], [TEXTS[0]], [[1]])
        else:
            (one,) = quick.synthesize([TEXTS[0]], [1], SQUARE)
        assert one.shape == (64, 64, 3)


def test_few_steps_and_two_passes_contradict_each_other(checkpoints):
    with pytest.raises(ValueError, match="set true_cfg_scale to 1"):
        editor("edit", checkpoints, few_steps=few(checkpoints))
    with pytest.raises(ValueError, match="set true_cfg_scale to 1"):
        painter("qwen", checkpoints, few_steps=few(checkpoints))


def test_a_lora_for_another_model_is_refused(checkpoints, tmp_path):
    save_file({"nonsense.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    wrong = FewSteps(lora=str(tmp_path), file="other.safetensors")
    backend = painter("qwen", checkpoints, few_steps=wrong, true_cfg_scale=1.0)
    with pytest.raises(CheckpointError, match=r"other\.safetensors .* is no LoRA for QwenImage"):
        backend.load(CPU)


@pytest.mark.parametrize("name", ["flux", "qwen", "z"])
def test_int8_weights_are_near_and_not_the_same(name, checkpoints):
    pytest.importorskip("torchao")
    results = []
    for weights in ("full", "int8"):
        with opened(painter(name, checkpoints, weights=weights)) as backend:
            part = "layers.1.feed_forward.w1" if name == "z" else "transformer_blocks.1.attn.to_q"
            kept = backend._pipeline.pipe.transformer.get_submodule(part).weight
            assert type(kept).__module__.startswith("torchao") == (weights == "int8")
            with exact(backend) as found:
                backend.synthesize([TEXTS[0]], [1], SQUARE)
            results += found
    apart = (results[0] - results[1]).abs()
    assert 1e-4 < float(apart.mean()) < 0.05


def test_quantised_weights_without_their_library_are_one_line(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ValueError, match=r"weights: int8 needs torchao.*nearmiss\[quantised\]"):
        painter("flux", checkpoints, weights="int8").load(CPU)


def test_fp8_needs_a_gpu(checkpoints):
    with pytest.raises(ValueError, match=r"fp8 needs a GPU of compute capability 8\.9 or later"):
        painter("flux", checkpoints, weights="fp8").load(CPU)


@pytest.mark.parametrize("name", ["flux", "qwen", "plus"])
@pytest.mark.parametrize(
    "step_cache",
    [TaylorSeer("taylor_seer", interval=3, warm_up=2), FirstBlock("first_block", threshold=1.0)],
)
def test_step_caches_save_passes_and_forget_between_calls(name, step_cache, checkpoints):
    def make(**settings):
        make = editor if name in EDITORS else painter
        calls = []
        with opened(replace(make(name, checkpoints, **settings), steps=8)) as backend:
            blocks = backend._pipeline.pipe.transformer.transformer_blocks
            part = blocks[-1].ff if name == "flux" else blocks[-1].img_mlp
            part.register_forward_hook(lambda *_: calls.append(1))
            if isinstance(step_cache, TaylorSeer):
                part = blocks[-1].attn
                part.register_forward_hook(lambda *_: calls.append(1))
            with exact(backend) as found:
                for seeds in ([1], [2, 1]):
                    if name in EDITORS:
                        backend.edit([IMAGES[0]], [TEXTS[0]], [seeds])
                    else:
                        backend.synthesize([TEXTS[0]] * len(seeds), seeds, SQUARE)
        return found, len(calls)

    (first, _, last), num_calls = make(step_cache=step_cache)
    (usual, _, _), all_calls = make()
    assert far(first, last) < TOLERANCE
    assert far(first, usual) > 0
    assert isinstance(step_cache, TaylorSeer) or num_calls < all_calls


@pytest.mark.parametrize("name", ["flux", "edit"])
def test_compiled_blocks_make_the_same_images(name, checkpoints, monkeypatch):
    compiled = torch.compile
    # Captured whole, as on a GPU, but without generating code, which takes a minute.
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compiled(*a, **k, backend="eager"))
    results = []
    for device in (CPU, Device("cpu", "float32", compile=True)):
        backend = (editor if name in EDITORS else painter)(name, checkpoints)
        with opened(backend, device) as backend, exact(backend) as found:
            if name == "flux":
                backend.synthesize(TEXTS[:1], [1], SQUARE)
            else:  # of several sizes, lengths and numbers of rows
                backend.edit(IMAGES[1:], TEXTS[1:], [[6, 7], [8]])
            results.append(found)
    assert max(far(a, b) for a, b in zip(*results, strict=True)) < TOLERANCE
    torch.compiler.reset()


def test_bfloat16_is_near(checkpoints):
    results = []
    for dtype in ("float32", "bfloat16"):
        with opened(painter("flux", checkpoints), Device("cpu", dtype)) as backend:
            assert backend._pipeline.pipe.transformer.dtype == getattr(torch, dtype)
            with exact(backend) as found:
                backend.synthesize([TEXTS[0]], [1], SQUARE)
            results += [one.float() for one in found]
    assert float((results[0] - results[1]).abs().mean()) < 0.05


# Trouble.


def test_values_that_are_not_finite_are_no_image(checkpoints):
    with opened(painter("flux", checkpoints)) as backend:
        backend._pipeline.pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
        with pytest.raises(ArithmeticError, match=r"not finite in torch\.float32"):
            backend.synthesize([TEXTS[0]], [1], SQUARE)


def test_guidance_must_fit_the_model(checkpoints):
    with pytest.raises(ValueError, match=r"guidance is 7\.5, but this model was not distilled"):
        FluxSettings(model=checkpoints("schnell")).load(CPU)
    with pytest.raises(ValueError, match="guidance is None, but this model was distilled"):
        FluxSettings(model=checkpoints("flux"), guidance=None).load(CPU)
    with pytest.raises(ValueError, match=r"guidance is 3\.5, but this model was not"):
        editor("edit", checkpoints, guidance=3.5).load(CPU)
    with opened(FluxSettings(model=checkpoints("schnell"), guidance=None, steps=1)) as backend:
        backend.synthesize([TEXTS[0]], [1], SQUARE)


def test_another_pipeline_is_refused(checkpoints):
    backend = FluxSettings(model=checkpoints("qwen"))
    with pytest.raises(CheckpointError, match="is a QwenImagePipeline; FluxPipeline is needed"):
        backend.load(CPU)


def test_no_pipeline_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no model at"):
        FluxSettings(model=str(tmp_path / "none")).load(CPU)
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        FluxSettings(model=str(tmp_path)).load(CPU)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="does not describe a pipeline"):
        FluxSettings(model=str(tmp_path)).load(CPU)


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("transformer", "diffusion_pytorch_model.safetensors"),
        ("text_encoder_2", "model.safetensors"),
    ],
)
def test_lacking_and_damaged_weights_are_refused(part, file, tmp_path):
    folder = tiny.save_flux(tmp_path / "flux")
    weights = folder / part / file
    state = load_file(weights)
    lost = min(state)
    del state[lost]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{part} lacks 1 of the weights .*{lost}"):
        FluxSettings(model=str(folder)).load(CPU)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{part} holds no"):
        FluxSettings(model=str(folder)).load(CPU)
    config = folder / part / "config.json"
    config.write_text(json.dumps({"_class_name": "Other"})[:-1])
    with pytest.raises(CheckpointError, match=f"{part} holds no"):
        FluxSettings(model=str(folder)).load(CPU)


@pytest.mark.parametrize("name", [*EDITORS, *PAINTERS])
def test_closing_twice_and_travelling_unopened(name, checkpoints):
    backend = (editor if name in EDITORS else painter)(name, checkpoints)
    travelled = pickle.loads(pickle.dumps(backend))
    assert travelled == backend
    model = travelled.load(CPU)
    model.close()
    model.close()
    (files,) = backend.checkpoints()
    assert files.model == checkpoints(name)


def test_only_the_parts_of_a_pipeline_are_fetched(checkpoints):
    from fnmatch import fnmatch

    pipeline, lora = replace(
        painter("qwen", checkpoints), true_cfg_scale=1.0, few_steps=few(checkpoints, revision="v2")
    ).checkpoints()
    fetched = ["model_index.json", "transformer/a-00001-of-00002.safetensors", "vae/config.json"]
    assert all(any(fnmatch(file, p) for p in pipeline.patterns) for file in fetched)
    assert not any(fnmatch("flux1-dev.safetensors", p) for p in pipeline.patterns)
    assert (lora.patterns, lora.revision) == (("few-steps.safetensors",), "v2")


# Through the stages.


def seed_of(pixels, text):
    height, width = pixels.shape[:2]
    image = encode_jpeg(pixels)
    return Seed("s", 1, image, width, height, "What?", "A red cat.", text, (), "t:1", None)


@pytest.mark.parametrize("name", EDITORS)
def test_an_editor_of_random_weights_paints_anew_and_is_found_out(name, checkpoints):
    plan = PlannedEdit(
        seed_of(random_image(0, Size(90, 70)), "A dog."),
        Hallucination.EXISTENCE,
        (Span(2, 5),),
        Contrast(Kind.OBJECT, "red cat", "dog", "make the cat a dog"),
        "A dog.",
        (),
    )
    backend = editor(name, checkpoints)
    with opened_stage(Editor(backend, attempts=2, candidates=2)) as stage:
        (drop,) = stage.process([plan])
        assert drop.reason is Reason.DRIFTED
        assert drop.detail.endswith("(the last of 4 edits)")
    loose = {"max_tint": 255.0, "max_change": 0.5, "min_similarity": -1.0}
    with opened_stage(Editor(backend, visible_delta=75.0, **loose)) as stage:
        outcomes = stage.process([plan, plan])
        assert outcomes[0] == outcomes[1]
        assert not isinstance(outcomes[0], Drop), outcomes[0]
        ((candidate,), _) = outcomes
        assert decode(candidate.chosen_image).shape == decode(candidate.rejected_image).shape
        long = replace(plan, contrast=replace(plan.contrast, instruction="x" * 600))
        (drop,) = stage.process([long])
        assert drop.reason is Reason.TEXT_TOO_LONG
        assert "the editor reads 512" in drop.detail


@pytest.mark.parametrize("name", PAINTERS)
def test_a_painter_makes_candidates(name, checkpoints):
    seed = seed_of(random_image(0, Size(96, 80)), "A dog.")
    judged = Judged(Sampled(seed, (SampledAnswer("A dog.", 1),), 1), (2,))
    record = Described(
        AnswerPair(judged, "A red cat.", None, "A dog.", 2),
        "a dog on grass",
        Contrast(Kind.SCENE, "image", "a dog", "a dog on grass"),
    )
    with opened_stage(Synthesizer(painter(name, checkpoints), side=64, num_images=2)) as stage:
        ((first, second),) = stage.process([record])
        assert first.rejected_image != second.rejected_image
        assert first.params["painted"] == "80x64"
        for candidate in (first, second):
            assert decode(candidate.chosen_image).shape == (64, 80, 3)
            assert decode(candidate.rejected_image).shape == (64, 80, 3)
        assert stage.process([record, record])[1] == [first, second]
