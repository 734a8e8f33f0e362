"""Evaluation: how good a method is on a benchmark, and how methods compare. In the order of reading:

datasets       a Benchmark is a data set, its classes and its protocol (class_tables, label_files, world)
options        EvaluationOptions and CompareOptions
protocol       image by image: Segmenter -> labels -> counts (metrics, matching), kept in a journal
runs           evaluate() and merge_runs(): what ``talk2dino evaluate`` does
report         figures as tables and files (paper: the published ones; charts, cases: the images)
corrections    compare_annotations(): what people changed, ``talk2dino annotations compare``
compare        compare_images() and compare_benchmark(): what ``talk2dino compare`` does
"""
