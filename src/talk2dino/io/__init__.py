"""Files in and out. In the order in which a run uses them:

- find: names, folders and patterns -> image files; images and pixels: a file, bytes, an array or a tensor -> RGB.
- masks: a segmentation -> PNG, NumPy archive or COCO JSON, and back; rle and polygons: run lengths and outlines of masks.
- palette, overlay, contours, placement, legend, fonts: the overlay with its colours, lines, labels and legend; grids.
- atomic, journal, lock, cache: files that are written whole or not at all, records of finished work, one run per folder.
- settings, markdown, console: options from files, tables, and result lines on standard output.
"""
