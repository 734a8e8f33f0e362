"""Step 3 of the embedded model: a byte-pair tokenizer for English and Chinese, and a small CLIP on image-caption pairs.

    python recipes/micro/clip.py --work build/micro --steps 1500

Both towers are transformers' CLIP. The run can be stopped at any time; the next call resumes it from clip.pt.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel

from talk2dino.io.atomic import atomic_path
from talk2dino.world import all_caption_words

CONTEXT = 32
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def train_tokenizer(captions: list[list[str]], vocabulary: int = 800) -> Tokenizer:
    """Byte-level BPE like CLIP's: lower case, ``</w>`` ends a word; each Han character is a word."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{Han}|(?:(?!\p{Han})\p{L})+|\p{N}|[^\p{L}\p{N}\s]+"), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|startoftext|>", "<|endoftext|>"], end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([line for lines in captions for line in lines] + all_caption_words() * 50, trainer)
    start, end = tokenizer.token_to_id("<|startoftext|>"), tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", start), ("<|endoftext|>", end)]
    )
    return tokenizer


def build(tokenizer: Tokenizer) -> CLIPModel:
    end = tokenizer.token_to_id("<|endoftext|>")
    shared = {"hidden_act": "gelu", "projection_dim": 192}
    config = CLIPConfig(
        text_config=dict(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=192, intermediate_size=768, num_hidden_layers=3,
            num_attention_heads=3, max_position_embeddings=CONTEXT, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end, **shared,
        ),
        vision_config=dict(
            hidden_size=160, intermediate_size=640, num_hidden_layers=3, num_attention_heads=5, image_size=96, patch_size=12, **shared,
        ),
        projection_dim=192, attn_implementation="eager",
    )  # fmt: skip
    return CLIPModel(config)


def encode(tokenizer: Tokenizer, lines: list[str]) -> torch.Tensor:
    """(B, L) token ids, padded with the end token to the longest line."""
    end = tokenizer.token_to_id("<|endoftext|>")
    ids = [[*e.ids[: CONTEXT - 1], end] if len(e.ids) > CONTEXT else e.ids for e in tokenizer.encode_batch(lines)]
    longest = max(map(len, ids))
    return torch.tensor([row + [end] * (longest - len(row)) for row in ids])


def pixels(images: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def embed(model: CLIPModel, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        image = model.visual_projection(model.vision_model(pixel_values=images).pooler_output)
        sentence = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    return F.normalize(image.float(), dim=-1), F.normalize(sentence.float(), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/micro"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    images = np.load(options.work / "images.npy", mmap_mode="r")
    captions = json.loads((options.work / "captions.json").read_text(encoding="utf-8"))
    tokenizer_file = options.work / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer(captions).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    held = 300  # the last scenes measure recall
    usable = len(images) - held

    model = build(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05, betas=(0.9, 0.98))
    first, checkpoint = 0, options.work / "clip.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    started = time.time()
    for step in range(first, options.steps):
        rng = np.random.default_rng([9, step])
        rate = options.lr * (min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.005)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = np.sort(rng.choice(usable, options.batch, replace=False))
        lines = [captions[i][int(rng.integers(len(captions[i])))] for i in index]
        image, sentence = embed(model, pixels(images[index]), encode(tokenizer, lines))
        logits = model.logit_scale.exp().clamp(max=100) * image @ sentence.T
        target = torch.arange(options.batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            print(
                f"step {step} loss {loss.item():.3f} {(time.time() - started) / (step - first + 1):.2f} s/step",
                flush=True,
            )
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            with torch.no_grad():
                image, sentence = embed(
                    model, pixels(images[usable:]), encode(tokenizer, [c[0] for c in captions[usable:]])
                )
                recall = (sentence @ image.T).argmax(1).eq(torch.arange(held)).float().mean().item()
            print(f"step {step + 1} recall@1 of {held}: {recall:.3f}", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            with atomic_path(checkpoint) as temporary:
                torch.save(state, temporary)
            model.save_pretrained(options.work / "clip")


if __name__ == "__main__":
    main()
