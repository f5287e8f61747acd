"""Benchmark of speed, memory and time to accuracy.   python -m experiments.benchmark"""
