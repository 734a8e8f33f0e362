"""How fast is this machine? What ``talk2dino bench`` measures.

    plan (what to measure) --> suite (section by section) --> figures --> tables (text, JSON, chart)

Nearly every figure is a ratio of two measurements of the same run, so that figures of different machines can be compared.
Start at :func:`talk2dino.speed.suite.run_bench`. One file per section: end_to_end, agreement, stage_times, refinement,
text_encoding, folder_runs, peak_memory.
"""
