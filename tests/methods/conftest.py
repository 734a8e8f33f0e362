import json
import warnings

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def micro():
    from talk2dino.segmenter import Segmenter

    return Segmenter.from_pretrained("micro", device="cpu", dtype="float32")


@pytest.fixture
def picture():
    """A picture of prime height and width, (47, 71, 3) uint8."""
    from talk2dino.world import render, sample_scene

    return render(sample_scene(900_017, aspect=71 / 47), 47).image


@pytest.fixture(scope="session")
def tiny_pipeline():
    """A Stable Diffusion pipeline of random weights: latents of a half, two resolutions, the real CLIP tokenizer."""
    pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from talk2dino.models.tokenizer import TextTokenizer

    torch.manual_seed(5)
    model = json.loads(TextTokenizer.clip(77).tokenizer.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split()) for m in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=(4, 8), norm_num_groups=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[32, 64], in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer, unet=unet.eval(), safety_checker=None,
        scheduler=scheduler,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def rng():
    return np.random.default_rng(3)
