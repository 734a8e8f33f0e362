"""Evaluation: how good a method is on a benchmark, and how methods compare. In the order of reading:

    datasets       a Benchmark is a data set, its classes and its protocol; class_tables and label_files read the files,
                   world is the benchmark that needs none
    options        EvaluationOptions and CompareOptions: everything that can be asked for
    protocol       image by image: Segmenter -> labels -> counts
    metrics        the confusion matrix and its IoU and accuracy
    matching       classes for segments that have none
    provenance     what made a result, down to the weights
    journal        what is finished, so that a run can be stopped, resumed, and split into shards
    runs           evaluate() and merge_runs(): what ``talk2dino evaluate`` does
    report         one benchmark, or several; paper: the published figures beside them
    compare        compare_images() and compare_benchmark(): what ``talk2dino compare`` does; comparison: its result
    charts, cases  bars, and images with their truth and predictions

Nothing here knows a method by name: everything about it comes from its facts.
"""
