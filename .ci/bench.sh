#!/bin/sh
# The benchmarks whose figures docs/measured.md quotes: sh .ci/bench.sh PYTHON [FOLDER with train/<class>/*]
set -eu
python=$1
data=${2:-${ALEXNET_FAST_DATA:-../shared/data}/imagenet-samples}

if [ ! -d "$data/train" ]; then
    echo "error: no photos to measure the pipeline with: $data/train does not exist; give a folder with train/<class>/* as make bench DATA=DIR" >&2
    exit 2
fi
"$python" tools/bench_pipeline.py --data "$data"
"$python" tools/bench_pack.py --data "$data/train"
"$python" tools/bench_storage.py --data "$data"
"$python" tools/bench_step.py
