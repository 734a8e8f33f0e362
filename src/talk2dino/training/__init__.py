"""Training a projection on stored features.

Read in this order: options (the settings), batches (which captions make up a step), aligner (what is trained, and the optimizer), loss
(InfoNCE), fit (the loop), checkpoint (saving and resuming), validation (loss and retrieval), run_report (model card and
figures), processes (several processes, interruption).
"""
