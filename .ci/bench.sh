#!/bin/sh
# Runs each benchmark that is there: sh .ci/bench.sh PYTHON [FOLDER with train/<class>/*]
set -eu
python=$1
data=${2:-${ALEXNET_FAST_DATA:-../shared/data}/imagenet-samples}

if [ -f tools/bench_pipeline.py ]; then
    if [ -d "$data/train" ]; then
        "$python" tools/bench_pipeline.py --data "$data"
    else
        echo "error: no photos to measure the pipeline with: $data/train does not exist; give a folder with train/<class>/* as make bench DATA=DIR" >&2
        exit 2
    fi
fi
if [ -f tools/bench_step.py ]; then
    "$python" tools/bench_step.py
fi
