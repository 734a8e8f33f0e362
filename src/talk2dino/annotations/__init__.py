"""Labelling formats, written and read: COCO, CVAT, Label Studio, LabelMe, YOLO, VOC, GeoJSON."""
