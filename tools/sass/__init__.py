"""Machine code of NVIDIA's GPUs without one: NVRTC compiles the variants that usual calls
launch on the backend cuda, nvdisasm prints it, and what it is made of is counted (docs/sass.md).

    pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm
    python -m tools.sass              # compares with tools/sass/figures.json; 1 if one is worse
    python -m tools.sass --update     # stores what is counted, and writes docs/sass.md
"""
