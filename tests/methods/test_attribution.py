import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talk2dino.errors import InputError
from talk2dino.methods import attribution
from talk2dino.methods.prototype_build import build_prototypes
from talk2dino.methods.prototype_sources import diffusion_source, load_pipeline
from talk2dino.methods.prototypes import PrototypeStore

pytestmark = pytest.mark.long  # importing diffusers alone takes many seconds

CAPTION = "a red car near the strawberry pie"
SIZE = (24, 32)


def test_tokens_of_words_are_found(tiny_pipeline):
    tokenizer = tiny_pipeline.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(CAPTION).input_ids)
    for word in ("red", "car", "strawberry", "pie"):
        places = attribution.word_tokens(tokenizer, CAPTION, word)
        assert "".join(tokens[i] for i in places).replace("</w>", "") == word
    assert attribution.word_tokens(tokenizer, CAPTION, "boat") == []
    twice = attribution.word_tokens(tokenizer, "a car and a car", "car")
    assert twice == [2, 5]
    split = attribution.word_tokens(tokenizer, "an xylophonist plays", "xylophonist")
    assert len(split) > 1
    assert split == list(range(split[0], split[0] + len(split)))


def test_recorded_layers_and_the_size_of_the_maps(tiny_pipeline):
    scale = tiny_pipeline.vae_scale_factor
    latent = (SIZE[0] // scale, SIZE[1] // scale)
    with attribution.recording(tiny_pipeline.unet, latent, guided=True) as recorder:
        tiny_pipeline(CAPTION, height=SIZE[0], width=SIZE[1], num_inference_steps=3, output_type="np")
    cross = {name for name in tiny_pipeline.unet.attn_processors if "attn2" in name}
    assert set(recorder.sums) == {name for name in cross if not name.startswith("mid_block")} < cross
    for total in recorder.sums.values():  # over the tokens, each head of each step adds up to 1
        torch.testing.assert_close(total.sum(-1), torch.full(total.shape[:3], 3.0))
    assert recorder.maps().shape == (1, 77, *latent)


def test_maps_equal_cross_attention_by_hand(tiny_pipeline):
    """One U-Net pass: softmax(Q K^T / sqrt(d)) of the layers' own inputs, averaged over (layer, head) as DAAM does."""
    unet = tiny_pipeline.unet
    torch.manual_seed(11)
    latents, text = torch.randn(1, 4, 6, 10), torch.randn(1, 7, 32)
    inputs = {}
    layers = {
        name: module for name, module in unet.named_modules() if name.endswith("attn2") and not name.startswith("mid")
    }
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs, name=name: inputs.update({name: args[0]}), with_kwargs=True
        )
        for name, module in layers.items()
    ]
    with torch.no_grad(), attribution.recording(unet, (6, 10), guided=False) as recorder:
        unet(latents, 17, text)
    for handle in handles:
        handle.remove()
    expected = []
    for name, module in layers.items():
        heads, dim = module.heads, module.to_q.out_features // module.heads
        hidden = inputs[name][0]
        query = (hidden @ module.to_q.weight.T).view(-1, heads, dim)
        key = (text[0] @ module.to_k.weight.T).view(-1, heads, dim)
        for h in range(heads):
            probabilities = (query[:, h] @ key[:, h].T / dim**0.5).softmax(-1)  # (h*w, T)
            size = {60: (6, 10), 15: (3, 5)}[len(probabilities)]
            maps = F.interpolate(probabilities.T.reshape(1, 7, *size), (6, 10), mode="bicubic", align_corners=False)
            expected.append(maps.clamp(min=0))
    torch.testing.assert_close(recorder.maps(), torch.stack(expected).mean(0), atol=1e-6, rtol=1e-5)


def test_every_layer_and_head_has_the_same_weight():
    recorder = attribution.CrossAttentionRecorder((2, 2), guided=False)
    recorder.add("down", torch.zeros(1, 1, 4, 1))
    recorder.add("up", torch.ones(1, 3, 4, 1))
    torch.testing.assert_close(recorder.maps(), torch.full((1, 1, 2, 2), 3 / 4))


def test_bicubic_undershoot_is_clamped_after_the_mean_over_steps():
    recorder = attribution.CrossAttentionRecorder((8, 8), guided=False)
    peak = torch.zeros(1, 1, 16, 1)
    peak[0, 0, 5] = 1
    recorder.add("down", peak)
    recorder.add("down", 1 - peak)
    torch.testing.assert_close(recorder.maps(), torch.full((1, 1, 8, 8), 0.5))  # the steps add up before the resize
    alone = attribution.CrossAttentionRecorder((8, 8), guided=False)
    alone.add("down", peak)
    raw = F.interpolate(peak.view(1, 1, 4, 4), (8, 8), mode="bicubic", align_corners=False)
    assert raw.min() < 0 == alone.maps().min()


def test_recording_changes_nothing_and_puts_processors_back(tiny_pipeline):
    def make():
        return tiny_pipeline(
            CAPTION, height=24, width=32, num_inference_steps=2, output_type="np",
            generator=torch.Generator().manual_seed(2),
        ).images[0]  # fmt: skip

    before = dict(tiny_pipeline.unet.attn_processors)
    plain = make()
    with attribution.recording(tiny_pipeline.unet, (12, 16), guided=True):
        recorded = make()
    np.testing.assert_allclose(recorded, plain, atol=1e-5)
    assert tiny_pipeline.unet.attn_processors == before
    with pytest.raises(RuntimeError), attribution.recording(tiny_pipeline.unet, (12, 16), guided=True):
        raise RuntimeError
    assert tiny_pipeline.unet.attn_processors == before


def test_guidance_takes_the_captioned_half():
    recorder = attribution.CrossAttentionRecorder((2, 2), guided=True)
    without, captioned = torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    without[..., 0], captioned[..., 4] = 1, 1
    recorder.add("down", torch.cat([without, captioned]))
    assert recorder.maps()[0, 4].min() == 1
    with pytest.raises(InputError, match="no cross-attention"):
        attribution.CrossAttentionRecorder((2, 2), guided=True).maps()


def test_generate_gives_one_map_per_word_aligned_with_its_tokens(tiny_pipeline):
    words = ["car", "boat", "strawberry"]
    made = attribution.generate(tiny_pipeline, CAPTION, words, size=SIZE, steps=2, seed=3)
    assert made.words == ("car", "strawberry")  # the caption has no boat
    assert made.image.shape == (*SIZE, 3)
    assert made.image.dtype == np.uint8
    assert made.maps.shape == (2, *SIZE)
    assert made.maps.min() == 0
    assert made.maps.max() == 1
    alone = attribution.generate(tiny_pipeline, CAPTION, ["strawberry"], size=SIZE, steps=2, seed=3)
    np.testing.assert_allclose(alone.maps[0], made.maps[1], atol=1e-6)
    assert attribution.generate(tiny_pipeline, CAPTION, ["boat"], size=SIZE, steps=1).words == ()


def test_words_of_a_caption():
    assert attribution.caption_words("A red car, and two DOGS on the street.") == ["red", "car", "dogs", "street"]
    assert attribution.caption_words("the polar bear", ["bear", "polar bear", "ear"]) == ["bear", "polar bear"]


def test_prototypes_by_diffusion_end_to_end(tiny_pipeline, micro, tmp_path):
    captions = ["a red ball on the grass", "a house near water", "the"]
    source = diffusion_source(lambda: tiny_pipeline, captions, size=48, steps=1)
    count = build_prototypes(micro.towers, source, tmp_path)
    store = PrototypeStore(tmp_path)
    assert count == len(store)
    assert sorted(set(store.words)) == ["ball", "grass", "house", "red", "water"]
    assert store.keys.shape == (5, micro.text.dim)
    assert store.prototypes.shape == (5, micro.vision.dim)
    assert np.isfinite(np.asarray(store.prototypes)).all()


def test_pipeline_is_read_from_a_folder(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "sd")
    again = load_pipeline(tmp_path / "sd", local_files_only=True)
    made = [attribution.generate(p, CAPTION, ["car"], size=SIZE, steps=1, seed=1).maps for p in (tiny_pipeline, again)]
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)
    with pytest.raises(InputError, match="no Stable Diffusion pipeline at"):
        load_pipeline(tmp_path / "nowhere", local_files_only=True)
