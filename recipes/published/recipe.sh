#!/bin/sh
# COCO 2014 captions to a trained, evaluated projection, for one vision model. README.md beside this file says more.
#
#   sh recipes/published/recipe.sh dinov2-reg-base     # or dinov2-reg-large, dinov3-base, dinov3-large
#
# Settings, from the environment:
#   COCO    holds annotations/captions_{train,val}2014.json, train2014/ and val2014/   [data/coco2014]
#   DATA    mmsegmentation's data folder, with the eight benchmarks                     [data]
#   PHOTOS  pictures to look at in the end                                              [examples/pictures]
#   WORK    where everything that is made goes                                          [work]
#
# Every step can be stopped at any time: the same command goes on from there.
set -eu
model=$1
COCO=${COCO:-data/coco2014}
DATA=${DATA:-data}
PHOTOS=${PHOTOS:-examples/pictures}
WORK=${WORK:-work}

# The published background thresholds, on the sigmoid scale; those of DINOv3 are DINOv2's of the same size.
case $model in
*-base) threshold=0.55 ;;
*-large) threshold=0.54 ;;
*) echo "no published recipe for $model; one of: dinov2-reg-base, dinov2-reg-large, dinov3-base, dinov3-large" >&2 && exit 2 ;;
esac

# 1. Features of 82,783 pictures and 414,113 captions; and of 5,000 other pictures, to watch the training with.
talk2dino extract "$COCO" --split train --model "$model" --dtype float32 --out "$WORK/features/$model/train"
talk2dino extract "$COCO" --split val --limit 5000 --model "$model" --dtype float32 --out "$WORK/features/$model/val"

# 2. The published training: what it says by itself (Adam, lr 1e-4, batch 128, 100 epochs, temperature 0.07, seed 123;
#    the head that the picture's own caption picks; an MLP with tanh on the text side). projection.pth is the published layout.
talk2dino train "$WORK/features/$model/train" --val "$WORK/features/$model/val" --model "$model" \
    --published-scale --published --out "$WORK/psi/$model"

# 3. The eight benchmarks with the published protocol; a threshold where there is a background class.
for benchmark in voc20 context59 coco-stuff cityscapes ade20k; do
    talk2dino evaluate --benchmark "$benchmark" --data "$DATA" --model "$model" --projection "$WORK/psi/$model" \
        --out "$WORK/results/$model/$benchmark"
done
for benchmark in voc21 context60 coco-object; do
    talk2dino evaluate --benchmark "$benchmark" --data "$DATA" --model "$model" --projection "$WORK/psi/$model" \
        --background "$threshold" --out "$WORK/results/$model/$benchmark"
done

# 4. Pictures to look at.
talk2dino segment "$PHOTOS" --prompts "sky, grass, tree, person, car" --model "$model" --projection "$WORK/psi/$model" \
    --out "$WORK/pictures/$model"
