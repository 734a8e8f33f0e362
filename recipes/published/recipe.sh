#!/bin/sh
# COCO 2014 captions to a trained and evaluated projection, for one vision model. See README.md beside this file.
#
#   sh recipes/published/recipe.sh dinov2-reg-base     # or dinov2-reg-large, dinov3-base, dinov3-large
#
# Environment variables:
#   COCO    folder with annotations/captions_{train,val}2014.json, train2014/ and val2014/   [data/coco2014]
#   DATA    data folder of mmsegmentation, with the eight benchmarks                          [data]
#   PHOTOS  images to segment at the end                                                      [examples/pictures]
#   WORK    output folder                                                                     [work]
#
# Every step can be interrupted; running the same command again resumes it.
set -eu
model=$1
COCO=${COCO:-data/coco2014}
DATA=${DATA:-data}
PHOTOS=${PHOTOS:-examples/pictures}
WORK=${WORK:-work}

# Background thresholds on the sigmoid scale. Those of DINOv2 are published; for DINOv3 none are, so the value of the same size
# is used.
case $model in
*-base) threshold=0.55 ;;
*-large) threshold=0.54 ;;
*) echo "no published recipe for $model; one of: dinov2-reg-base, dinov2-reg-large, dinov3-base, dinov3-large" >&2 && exit 2 ;;
esac

# 1. Features of 82,783 images with 414,113 captions, and of 5,000 other images to validate on.
talk2dino extract "$COCO" --split train --model "$model" --dtype float32 --out "$WORK/features/$model/train"
talk2dino extract "$COCO" --split val --limit 5000 --model "$model" --dtype float32 --out "$WORK/features/$model/val"

# 2. The published training, and projection.pth for the published code.
talk2dino train "$WORK/features/$model/train" --val "$WORK/features/$model/val" --model "$model" \
    --published --write-pth --out "$WORK/psi/$model"

# 3. The eight benchmarks with the published protocol, in float32; a threshold where there is a background class.
for benchmark in voc20 context59 coco-stuff cityscapes ade20k; do
    talk2dino evaluate --benchmark "$benchmark" --data "$DATA" --model "$model" --projection "$WORK/psi/$model" \
        --dtype float32 --out "$WORK/results/$model/$benchmark"
done
for benchmark in voc21 context60 coco-object; do
    talk2dino evaluate --benchmark "$benchmark" --data "$DATA" --model "$model" --projection "$WORK/psi/$model" \
        --dtype float32 --background "$threshold" --out "$WORK/results/$model/$benchmark"
done

# 4. Images to look at.
talk2dino segment "$PHOTOS" --prompts "sky, grass, tree, person, car" --model "$model" --projection "$WORK/psi/$model" \
    --out "$WORK/images/$model"
