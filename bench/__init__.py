"""Benchmarks: fastmeta against PyTorch and JAX on the same meta-gradients (`python -m bench --help`)."""
