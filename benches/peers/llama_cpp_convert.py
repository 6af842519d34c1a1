"""Converts a model with llama.cpp: python llama_cpp_convert.py FROM TO TYPE, TYPE being one of TYPES. What was quantised stays as
it was rounded."""

import ctypes
import os
import sys

import llama_cpp as llama

TYPES = {"f16": llama.LLAMA_FTYPE_MOSTLY_F16, "bf16": llama.LLAMA_FTYPE_MOSTLY_BF16}


def main():
    source, target, kind = sys.argv[1:]
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = TYPES[kind], True
    # What is cut short must not be taken for the model by the next run.
    part = f"{target}.part"
    if llama.llama_model_quantize(source.encode(), part.encode(), ctypes.byref(params)) != 0:
        sys.exit(f"{source}: llama.cpp cannot convert it to {kind}")
    os.replace(part, target)


if __name__ == "__main__":
    main()
