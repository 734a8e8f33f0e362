"""Training a projection on stored features.

Read in this order: options (the settings), batches (which captions make up a step), aligner (what is trained), loss
(InfoNCE), fit (the loop), checkpoint (saving and resuming), validation (loss and retrieval), run_report (model card and
figures), processes (several processes, interruption).
"""

from talk2dino.training.aligner import Aligner
from talk2dino.training.fit import TrainResult, train
from talk2dino.training.loss import info_nce
from talk2dino.training.options import TrainOptions
from talk2dino.training.validation import validate

__all__ = ["Aligner", "TrainOptions", "TrainResult", "info_nce", "train", "validate"]
