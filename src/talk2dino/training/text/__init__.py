"""Text towers for other languages, distilled into the CLIP text space of a model: what ``talk2dino train-text`` does.

pairs of sentences (``pairs.py``) -> a pretrained or a new encoder (``new_encoder.py``) -> distillation (``fit.py``) -> a folder
that :mod:`talk2dino.models.text_tower` reads
"""
