#!/bin/sh
# Make an environment of its own for the peers that benchmarks/all.py compares with.
# Usage: sh benchmarks/peers.sh FOLDER [PYTHON]
# Left out: torch-staintools and tiatoolbox, which need torchvision, whose compiled part on PyPI
# needs the CUDA build of PyTorch, and CLAM, which is not on PyPI.
# The file of PyTorch that is pinned here is the one for processors; others bring gigabytes of CUDA.
set -eu

folder=$1
python=${2:-python3}

"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 \
    torchstain==1.4.1 \
    macenko-pca==1.0.4 \
    scikit-image \
    hs2p==6.1.0 \
    openslide-python \
    openslide-bin
